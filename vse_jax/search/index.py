"""Approximate search of large galleries with an index of faiss.

`ivf` divides the rows into lists of similar rows, and a query is compared with the rows
of the nearest lists (an inverted file). `hnsw` walks a graph of near rows (hierarchical
navigable small world); it takes longer to build. How far a query searches is chosen
when the index is built, so that most of the exact results are found.

An index holds its vectors as float16. Large galleries are divided into several files,
of which one at a time is in memory while the index is built. A bias of hubness is
stored as one more dimension, which queries multiply by -1, or by 0 to search without
it.
"""

import dataclasses
import json

import numpy as np
from etils import epath

from vse_jax import files
from vse_jax.errors import InputError, unreadable
from vse_jax.gallery.gallery import Gallery
from vse_jax.gallery.local_files import are_few, check_digest, check_size, local_path
from vse_jax.gallery.manifest import File, names_in
from vse_jax.search import exact, faiss_files
from vse_jax.search.exact import Found
from vse_jax.search.hubness import Hubness

_NAME = "index.json"
# Rows beyond the `k` best by the index, since in float16 near scores change places.
_SPARE = 8


@dataclasses.dataclass(frozen=True)
class IndexDescription:
    """What an index is; the content of `index.json`.

    Attributes:
      kind: one of `faiss_files.KINDS`.
      gallery: fingerprint of the gallery's embeddings.
      hubness: fingerprint of the bias that the index holds; "" for none.
      effort: how far a query searches: lists of `ivf`, candidates of `hnsw`.
      recall: share of the 10 best rows of exact search that the index finds.
      files: files of faiss, each with some of the rows, in order.
    """

    kind: str
    gallery: str
    hubness: str
    effort: int
    recall: float
    files: tuple[File, ...]


class Index:
    """An open index of a gallery."""

    def __init__(
        self, gallery: Gallery, description: IndexDescription, hubness: Hubness | None
    ):
        """Opens the files of an index; see `load`."""
        self.description = description
        self._gallery = gallery
        self._hubness = hubness
        self._parts = [
            faiss_files.read(
                local_path(gallery.folder, file, gallery.copies), description.kind
            )
            for file in description.files
        ]

    def search(self, queries: np.ndarray, k: int, *, corrected: bool = False) -> Found:
        """Finds rows that score high for each query.

        The scores are exact, but a better row may be missing. Queries for which the
        index finds fewer than `k` rows are searched exactly.

        Args:
          queries: `[queries, embed]` float32.
          k: number of results; of a smaller gallery all rows are results.
          corrected: whether to subtract the bias of hubness.

        Raises:
          InputError: if a query is invalid, or if `corrected` and the index was built
            without a correction.
        """
        if corrected and self._hubness is None:
            raise InputError(
                f"{self._gallery.folder / _NAME}: was built without the correction of "
                "hubness; run --mode=encode with config.gallery.hubness=True and "
                f"config.gallery.index={self.description.kind}"
            )
        queries = exact.checked_queries(queries, self._gallery.dim, k)
        k = min(k, self._gallery.rows)
        found = self._search(queries, k, corrected, self.description.effort)
        short = (found.rows < 0).any(1)
        if short.any():
            bias = self._hubness.bias if corrected else None
            found.scores[short], found.rows[short] = exact.search(
                queries[short], self._gallery, k, bias=bias
            )
        return found

    def _search(self, queries, k, corrected, effort) -> Found:
        """Returns the best candidates, rows of -1 where there are too few."""
        rows = self._candidates(queries, k + _SPARE, corrected, effort)
        return self._rescore(queries, rows, k, corrected)

    def _candidates(self, queries, k, corrected, effort) -> np.ndarray:
        """Returns rows of all parts, `[queries, candidates]`, -1 for none."""
        vectors = faiss_files.pad(queries, -1.0 if corrected else 0.0)
        rows, first = [], 0
        for part in self._parts:
            found = faiss_files.search(
                part, vectors, min(k, part.ntotal), effort, self.description.kind
            )
            rows.append(np.where(found < 0, -1, found + first))
            first += part.ntotal
        return np.concatenate(rows, axis=1)

    def _rescore(self, queries, rows, k, corrected) -> Found:
        """Computes the scores of candidates in float32 and returns the best."""
        rows = np.pad(
            rows, [(0, 0), (0, max(0, k - rows.shape[1]))], constant_values=-1
        )
        exists = rows >= 0
        scores = np.full(rows.shape, -np.inf, np.float32)
        for i, own in enumerate(exists):
            embeddings = self._gallery.embeddings_at(rows[i, own]).astype(np.float32)
            scores[i, own] = embeddings @ queries[i]
            if corrected:
                scores[i, own] -= self._hubness.bias[rows[i, own]]
        order = np.lexsort((rows, -scores))[:, :k]
        return Found(
            np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1)
        )

    def recall(self, queries: np.ndarray, best: np.ndarray, effort: int) -> float:
        """Returns the share of the best rows that the index finds.

        Subtracts the bias of hubness if the index holds it.

        Args:
          queries: `[queries, embed]` float32.
          best: rows that exact search finds, `[queries, k]`.
          effort: how far a query searches, see `IndexDescription`.
        """
        corrected = self._hubness is not None
        found = self._search(queries, best.shape[1], corrected, effort).rows
        hits = [np.isin(*rows).mean() for rows in zip(best, found, strict=True)]
        return float(np.mean(hits))


def load(gallery: Gallery, hubness: Hubness | None = None) -> Index:
    """Opens the index of a gallery.

    Args:
      gallery: an open gallery.
      hubness: correction of the gallery; None if searches will not need it.

    Raises:
      InputError: if there is none, if it is damaged, or if the gallery or its
        correction has changed since it was built.
    """
    path = gallery.folder / _NAME
    try:
        description = _parse(json.loads(path.read_text()))
    except FileNotFoundError:
        raise InputError(
            f"{gallery.folder}: has no index; run --mode=encode with "
            f"config.gallery.index={faiss_files.KINDS[0]}"
        ) from None
    except OSError as error:
        raise unreadable(path, error) from None
    except (ValueError, KeyError, TypeError):
        raise InputError(
            f"{path}: is damaged; run --mode=encode with config.gallery.index="
            f"{faiss_files.KINDS[0]} again"
        ) from None
    _check_current(path, description, gallery, hubness)
    are_checked = are_few(gallery.folder, description.files)
    for file in description.files:
        check_size(gallery.folder, file)
        if are_checked:
            check_digest(gallery.folder, file)
    return Index(gallery, description, hubness if description.hubness else None)


def _parse(content: dict) -> IndexDescription:
    parts = tuple(File(**file) for file in content["files"])
    description = IndexDescription(**content | {"files": parts})
    if description.kind not in faiss_files.KINDS:
        raise ValueError
    return description


def _check_current(path, description, gallery, hubness):
    changed = ""
    if description.gallery != gallery.fingerprint:
        changed = "the gallery"
    elif hubness and description.hubness not in ("", hubness.fingerprint):
        changed = "the correction of hubness"
    if changed:
        raise InputError(
            f"{path}: was built before {changed} changed; run --mode=encode with "
            f"config.gallery.index={description.kind} again"
        )


def write_description(description: IndexDescription, folder: epath.Path) -> None:
    """Replaces the index of a gallery, and deletes the files of the one before.

    Raises:
      OSError: if it cannot be written.
    """
    content = json.dumps(dataclasses.asdict(description), indent=1) + "\n"
    with files.unfinished(folder / _NAME) as unfinished:
        unfinished.write_text(content)
    listed = {file.name for file in description.files}
    for name in names_in(folder) - listed:
        if faiss_files.is_name(name):
            (folder / name).unlink(missing_ok=True)
