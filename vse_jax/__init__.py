"""Image-text retrieval with visual-semantic embeddings.

`vse_jax.load` loads a trained model, see `vse_jax.retrieval_model`.
"""

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vse_jax.retrieval_model import RetrievalModel, load

__all__ = ["RetrievalModel", "load"]

# These libraries read the variables once, when they are imported. Paths that begin
# with gs:// are read by gcsfs alone, rather than by TensorFlow where it is installed;
# and without caching listings, since other hosts write too.
os.environ.setdefault("EPATH_USE_TF", "false")
os.environ.setdefault("FSSPEC_GCS", '{"use_listings_cache": false}')
# Use the API that all buckets have.
os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")


def __getattr__(name: str):
    # Imported when it is used, since importing JAX and TensorFlow takes seconds.
    if name not in __all__:
        raise AttributeError(f"module 'vse_jax' has no attribute {name!r}")
    from vse_jax import retrieval_model

    return getattr(retrieval_model, name)
