"""Everything that knows of faiss: indexes of some rows, in files."""

import itertools
import os
import uuid
from collections.abc import Iterator
from typing import Any

import numpy as np
from etils import epath

from vse_jax import files
from vse_jax.errors import InputError, one_line

KINDS = ("ivf", "hnsw")
_MOST_CANDIDATES = 1024  # that a search of `hnsw` considers
_MULTIPLE = 16  # of dimensions, for which faiss is fast
_TRAINING_ROWS = 64  # rows for each list, from which the lists are learned
_ITERATIONS = 10  # of k-means
_NEIGHBORS = 16  # edges of a node of `hnsw`
_CONSTRUCTION_EFFORT = 100  # candidates while `hnsw` is built


def new_names() -> Iterator[str]:
    """Yields names of files that no index has yet."""
    build = uuid.uuid4().hex[:8]
    return (f"index-{build}-{number:03}.faiss" for number in itertools.count())


def is_name(name: str) -> bool:
    """Returns whether a file is one of an index, perhaps an unfinished one."""
    name = name.removeprefix(files.UNFINISHED)
    return name.startswith("index-") and name.endswith(".faiss")


def load_faiss() -> Any:
    """Imports faiss.

    Raises:
      InputError: if it is not installed.
    """
    try:
        import faiss
    except ImportError:
        raise InputError(
            "an index needs faiss, which is not installed; pip install faiss-cpu"
        ) from None
    return faiss


def pad(embeddings: np.ndarray, last: np.ndarray | float) -> np.ndarray:
    """Returns vectors with one more value each, and zeros up to a multiple.

    Args:
      embeddings: `[rows, embed]`.
      last: value that follows the embedding, `[rows]` or one for all.

    Returns:
      `[rows, padded]` float32.
    """
    rows, dim = embeddings.shape
    vectors = np.zeros((rows, -(-(dim + 1) // _MULTIPLE) * _MULTIPLE), np.float32)
    vectors[:, :dim] = embeddings
    vectors[:, dim] = last
    return vectors


def list_count(rows: int) -> int:
    """Returns the number of lists of an `ivf` index of a gallery."""
    return max(1, min(int(2 * rows**0.5), rows // 39))


def most_effort(kind: str, rows: int) -> int:
    """Returns the most effort that a search of an index makes, see `search`."""
    return list_count(rows) if kind == "ivf" else _MOST_CANDIDATES


def training_count(rows: int) -> int:
    """Returns how many rows an index is trained on."""
    return min(rows, _TRAINING_ROWS * list_count(rows))


def create(kind: str, sample: np.ndarray, lists: int) -> Any:
    """Returns an index without rows.

    Args:
      kind: one of `KINDS`.
      sample: vectors to learn the lists of `ivf` from, `[training_count, padded]`.
      lists: number of lists of `ivf`.
    """
    faiss = load_faiss()
    dim, as_float16 = sample.shape[1], faiss.ScalarQuantizer.QT_fp16
    product = faiss.METRIC_INNER_PRODUCT
    if kind == "hnsw":
        index = faiss.IndexHNSWSQ(dim, as_float16, _NEIGHBORS, product)
        index.hnsw.efConstruction = _CONSTRUCTION_EFFORT
    else:
        quantizer = faiss.IndexFlatIP(dim)
        index = faiss.IndexIVFScalarQuantizer(
            quantizer, dim, lists, as_float16, product, False
        )
        index.cp.niter, index.cp.min_points_per_centroid = _ITERATIONS, 1
        index.cp.max_points_per_centroid = _TRAINING_ROWS
    index.train(sample)
    return index


def write(index: Any, blocks: Iterator[np.ndarray], path: epath.Path) -> None:
    """Writes an index of some rows and empties it.

    Args:
      index: an index without rows, see `create`.
      blocks: vectors, `[rows, padded]`.
      path: of the file, local or remote.

    Raises:
      OSError: if it cannot be written.
    """
    faiss = load_faiss()
    for block in blocks:
        index.add(block)
    with files.unfinished_local(path) as unfinished:
        try:
            faiss.write_index(index, os.fspath(unfinished))
        except RuntimeError as error:
            unfinished.unlink(missing_ok=True)
            raise OSError(one_line(error)) from error
    index.reset()


def read(path: epath.Path, kind: str) -> Any:
    """Opens a local file by memory map.

    Raises:
      InputError: if it is damaged.
    """
    faiss = load_faiss()
    mapped = {"ivf": faiss.IO_FLAG_MMAP, "hnsw": faiss.IO_FLAG_MMAP_IFC}[kind]
    try:
        return faiss.read_index(os.fspath(path), mapped)
    except RuntimeError:
        raise InputError(
            f"{path}: is damaged; run --mode=encode with config.gallery.index={kind} "
            "again"
        ) from None


def search(
    index: Any, vectors: np.ndarray, k: int, effort: int, kind: str
) -> np.ndarray:
    """Returns rows of an index for each vector, `[queries, k]`, -1 for none.

    Args:
      index: an open index.
      vectors: `[queries, padded]` float32.
      k: number of rows.
      effort: lists of `ivf` or candidates of `hnsw` to look at.
      kind: one of `KINDS`.
    """
    faiss = load_faiss()
    if kind == "hnsw":
        parameters = faiss.SearchParametersHNSW(efSearch=max(effort, k))
    else:
        parameters = faiss.SearchParametersIVF(nprobe=min(effort, index.nlist))
    return index.search(vectors, k, params=parameters)[1]
