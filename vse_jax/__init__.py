"""Image-text retrieval with visual-semantic embeddings."""

import os

# These libraries read the variables once, when they are imported. Paths that begin
# with gs:// are read by gcsfs alone, rather than by TensorFlow where it is installed;
# and without caching listings, since other hosts write too.
os.environ.setdefault("EPATH_USE_TF", "false")
os.environ.setdefault("FSSPEC_GCS", '{"use_listings_cache": false}')
# Use the API that all buckets have.
os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
