"""Answers queries on a gallery with the model that encoded it."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from vse_jax.data.datasets.photos import PhotoError
from vse_jax.errors import InputError
from vse_jax.gallery.encode import check_model
from vse_jax.gallery.gallery import Gallery
from vse_jax.gallery.pictures import Pictures
from vse_jax.gallery.sources import CAPTIONS, IMAGES
from vse_jax.retrieval_model import RetrievalModel
from vse_jax.search import exact
from vse_jax.search import hubness as corrections
from vse_jax.search import index as indexes
from vse_jax.search.queries import Part, Query, ReadPhoto


class Hit(NamedTuple):
    """A row of the gallery that a query found.

    Attributes:
      rank: from 1.
      score: similarity to the query, perhaps corrected for hubness.
      row: number of the row in the gallery.
      id: ID of the row.
      path: path of the photo; None if there is none.
      captions: captions of the row; may be empty.
    """

    rank: int
    score: float
    row: int
    id: str
    path: str | None
    captions: list[str]


class Searcher:
    """Answers queries; threads may share it."""

    def __init__(
        self,
        model: RetrievalModel,
        gallery: Gallery,
        *,
        hubness: bool = False,
        index: str = "",
    ):
        """Checks that the gallery is of the model.

        Args:
          model: model that embeds the queries.
          gallery: what is searched.
          hubness: whether scores are corrected, see `vse_jax.search.hubness`.
          index: kind of the gallery's index, which is searched instead of all rows;
            "" for none.

        Raises:
          InputError: if the gallery is of another model, or has no correction or no
            such index.
        """
        check_model(gallery, model)
        self.model, self.gallery = model, gallery
        self._correction = corrections.load(gallery) if hubness else None
        self._index = self._open_index(index) if index else None
        self._pictures = Pictures(gallery, model.image_input.maximum_pixels)

    def _open_index(self, kind):
        found = indexes.load(self.gallery, self._correction)
        if found.description.kind != kind:
            raise InputError(
                f"{self.gallery.folder}: has an index of the kind "
                f"{found.description.kind}; set config.gallery.index to it, or run "
                f"--mode=encode with config.gallery.index={kind}"
            )
        return found

    def embed(self, queries: Sequence[Query], *, name: str = "") -> np.ndarray:
        """Embeds queries in one batch per kind of part.

        One part with the weight 1 has its own embedding, so that scores are the
        similarities of an evaluation, also if the model does not normalize images.
        With dot products, any other query is the weighted sum of its parts at unit
        length, scaled to unit length. Order similarities compare images with captions
        only, so such a query has one part with the weight 1.

        Args:
          queries: the queries.
          name: see `RetrievalModel.embed_captions`.

        Returns:
          `[queries, embed]` float32.

        Raises:
          InputError: if a query is invalid, a photo cannot be read, or a sum is zero.
        """
        parts = [part for query in queries for part in query.check().parts]
        for query in queries:
            self._check_kind(query)
        embedded = self._embed_parts(parts, name)
        if self.model.similarity_name != "cosine":
            return embedded
        weights = np.array([part.weight for part in parts], np.float32)
        weighted = weights[:, None] * _unit(embedded)
        starts = np.cumsum([0, *(len(query.parts) for query in queries)])[:-1]
        sums = np.add.reduceat(weighted, starts) if len(parts) else weighted
        for query, length in zip(queries, np.linalg.norm(sums, axis=1), strict=True):
            if length < 1e-6:
                raise InputError(f"the parts of {query.name!r} cancel each other out")
        alone = np.array([_is_alone(query) for query in queries], bool)
        return np.where(alone[:, None], embedded[starts], _unit(sums))

    def _check_kind(self, query):
        if self.model.similarity_name == "cosine":
            return
        wanted = CAPTIONS if self.gallery.content == IMAGES else IMAGES
        (part, *more) = query.parts
        if more or part.weight != 1 or self._kind(part) != wanted:
            raise InputError(
                f"{query.name!r}: the model's order similarity only compares images "
                f"with captions; search these {self.gallery.content} by one "
                f"{'text' if wanted == CAPTIONS else 'photo'}"
            )

    def _kind(self, part: Part) -> str:
        if part.row is not None:
            return self.gallery.content
        return IMAGES if part.text is None else CAPTIONS

    def _embed_parts(self, parts, name) -> np.ndarray:
        embedded = np.empty((len(parts), self.model.embed_dim), np.float32)
        texts = [i for i, part in enumerate(parts) if part.text is not None]
        rows = [i for i, part in enumerate(parts) if part.row is not None]
        photos = [i for i, part in enumerate(parts) if part.photo is not None]
        if texts:
            captions = [parts[i].text for i in texts]
            embedded[texts] = self.model.embed_captions(captions, name=name)
        if rows:
            numbers = [parts[i].row for i in rows]
            embedded[rows] = self.gallery.embeddings_at(numbers)
        if photos:
            contents = ((i, self._read(parts[i])) for i in photos)
            for numbers, some in self.model.embed_stream(contents):
                embedded[numbers] = some
        return embedded

    def _read(self, part):
        if isinstance(part.photo, ReadPhoto):
            return part.photo.content
        try:
            return self.model.image_input.read(part.photo)
        except PhotoError as error:
            raise InputError(f"{part.name}: {error}") from None

    def search(
        self, embeddings: np.ndarray, k: int, threshold: float | None = None
    ) -> list[list[Hit]]:
        """Finds the most similar rows of each query, the best first.

        Args:
          embeddings: `[queries, embed]`, of `embed`.
          k: number of rows; at most all rows are returned.
          threshold: least similarity of a row; None for any.

        Raises:
          InputError: if `k` is less than 1.
        """
        if k < 1:
            raise InputError(f"the number of results is {k}; expected at least 1")
        scores, rows = self._search(embeddings, k)
        return [self._hits(*one, threshold) for one in zip(scores, rows, strict=True)]

    def _search(self, embeddings, k):
        if self._index is not None:
            is_corrected = self._correction is not None
            return self._index.search(embeddings, k, corrected=is_corrected)
        bias = self._correction.bias if self._correction else None
        return exact.search(embeddings, self.gallery, k, bias=bias)

    def _hits(self, scores, rows, threshold) -> list[Hit]:
        if threshold is not None:
            rows = rows[scores >= threshold]
        records = self.gallery.rows_at(rows)
        return [
            Hit(rank, float(score), int(row), of.id, of.path, list(of.captions or ()))
            for rank, (score, row, of) in enumerate(
                zip(scores, rows, records, strict=False), 1
            )
        ]

    def picture(self, row: int) -> bytes | None:
        """Returns the photo of a row as JPEG or PNG; None if there is none."""
        return self._pictures.read(row)

    def unknown_words(self, query: Query) -> list[str]:
        """Returns the words of a query that the model does not know."""
        texts = query.texts
        return [word for text in texts for word in self.model.unknown_words(text)[1]]

    def has_known_words(self, query: Query) -> bool:
        """Returns whether any text of a query has a known word, or there is none."""
        words = [self.model.unknown_words(text) for text in query.texts]
        return not words or any(len(all_) > len(unknown) for all_, unknown in words)

    def is_truncated(self, query: Query) -> bool:
        """Returns whether the model reads only the beginning of a text of a query."""
        return any(map(self.model.is_truncated, query.texts))


def _is_alone(query: Query) -> bool:
    return len(query.parts) == 1 and query.parts[0].weight == 1


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Scales `[n, embed]` to unit length; zero vectors stay zero."""
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.maximum(length, 1e-8)
