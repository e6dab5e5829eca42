"""PCA of features, which is fitted once and stored next to the features."""

import io
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from vse_jax.data.datasets import extracted_features
from vse_jax.errors import InputError

_ROWS_AT_ONCE = 4096  # rows cast to float64 at once, to limit memory


class PCA(NamedTuple):
    """A projection onto the directions in which features vary most.

    Attributes:
      mean: float32 `[dim]`.
      components: float32 `[dim, components]`, orthonormal columns by decreasing
        variance.
    """

    mean: np.ndarray
    components: np.ndarray

    def project(self, features: jax.Array) -> jax.Array:
        """Projects float32 `[..., dim]` to `[..., components]`."""
        precision = jax.lax.Precision.HIGHEST
        return jnp.matmul(features - self.mean, self.components, precision=precision)


def fit(features: Iterable[np.ndarray], components: int) -> PCA:
    """Fits a PCA to all features; keeps one array at a time in memory.

    Args:
      features: arrays `[..., dim]`.
      components: number of components to keep.

    Raises:
      InputError: if there are fewer dimensions or features than components.
    """
    count, total, products = 0, 0.0, 0.0
    for array in features:
        rows = array.reshape(-1, array.shape[-1])
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            some = rows[start : start + _ROWS_AT_ONCE].astype(np.float64)
            count += len(some)
            total += some.sum(0)
            products += some.T @ some
    if components > min(count, len(total)):
        raise InputError(
            f"config.extract.pca_dim is {components}, but there are {count} features of"
            f" {len(total)} dimensions to fit it on; set it to at most "
            f"{min(count, len(total))}, or to 0 to keep all dimensions"
        )
    mean = total / count
    covariance = products / count - np.outer(mean, mean)
    _, vectors = np.linalg.eigh(covariance)  # by increasing variance
    vectors = _with_fixed_signs(vectors[:, ::-1][:, :components])
    return PCA(np.float32(mean), np.float32(vectors))


def _with_fixed_signs(vectors):
    """Flips directions whose element of largest magnitude is negative."""
    largest = np.abs(vectors).argmax(0)
    return vectors * np.sign(vectors[largest, np.arange(vectors.shape[1])])


def to_bytes(pca: PCA) -> bytes:
    """Returns the PCA as the content of an `.npz` file."""
    buffer = io.BytesIO()
    np.savez(buffer, **pca._asdict())
    return buffer.getvalue()


def load(path: epath.Path) -> PCA:
    """Reads a file that `to_bytes` wrote.

    Raises:
      InputError: if the file is damaged.
    """
    arrays = extracted_features.read_pca(path)
    if set(arrays) != set(PCA._fields):
        raise InputError(f"{path}: is damaged; delete {path.parent} and extract again")
    return PCA(**arrays)


def restored(arrays: Mapping[str, np.ndarray]) -> PCA | None:
    """Returns the PCA that a checkpoint holds; None if it holds none.

    Raises:
      InputError: if the arrays are not those of a PCA.
    """
    if not arrays:
        return None
    if set(arrays) != set(PCA._fields):
        raise InputError(
            f"the checkpoint's PCA has the arrays {', '.join(sorted(arrays))}; "
            f"expected {' and '.join(PCA._fields)}; extract features and train again"
        )
    return PCA(**arrays)
