"""Describes a gallery and its rows to clients, as JSON."""

from collections.abc import Sequence
from urllib.parse import quote

from vse_jax.gallery.sources import IMAGES
from vse_jax.search.searcher import Hit, Searcher

_EXAMPLES = 3  # captions that a new user can search
_SAMPLES = 12  # rows that the page shows before the first search


class Descriptions:
    """What clients are told about a gallery.

    Attributes:
      gallery: answer of `/gallery`.
    """

    def __init__(self, searcher: Searcher):
        """Looks at a few rows."""
        gallery = searcher.gallery
        numbers = sorted({gallery.rows * i // _SAMPLES for i in range(_SAMPLES)})
        self._has_pictures = any(searcher.picture(row) is not None for row in numbers)
        samples = [
            self._row(row, record.id, record.captions)
            for row, record in zip(numbers, gallery.rows_at(numbers), strict=True)
        ]
        captions = [row["captions"][0] for row in samples if row["captions"]]
        self.gallery = {
            "rows": gallery.rows,
            "content": gallery.content,
            "pictures": self._has_pictures,
            "queries": kinds_of_queries(searcher),
            "similarity": gallery.similarity,
            "model": gallery.model,
            "samples": samples,
            "examples": captions[1 :: len(samples) // _EXAMPLES or 1],
        }

    def hit(self, hit: Hit) -> dict:
        """Returns what `/search` tells about a result."""
        score = {"rank": hit.rank, "score": round(hit.score, 6)}
        return score | self._row(hit.row, hit.id, hit.captions)

    def _row(self, row: int, row_id: str, captions: Sequence[str] | None) -> dict:
        image = f"/image/{quote(row_id)}" if self._has_pictures else None
        return {
            "row": row,
            "id": row_id,
            "captions": list(captions or ()),
            "image": image,
        }


def kinds_of_queries(searcher: Searcher) -> list[str]:
    """Returns which parts of queries are possible: `text`, `photo`, `like`, `sum`.

    `sum` is a query of several parts. Order similarities only compare images with
    captions, so that there are no sums.
    """
    gallery = searcher.gallery
    takes_photos = searcher.model.image_input.takes_photos
    if gallery.similarity == "cosine":
        return ["text", *(["photo"] if takes_photos else []), "like", "sum"]
    if gallery.content == IMAGES:
        return ["text"]
    return ["photo"] if takes_photos else []
