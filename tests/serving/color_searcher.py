"""A searcher whose right answers are obvious: words are colors, photos have one color.

Run as a program, it serves itself:

    python -m tests.serving.color_searcher [--request_seconds=N] [--host=ADDRESS]
"""

import argparse
import io
import time
import types

import numpy as np
from PIL import Image

from vse_jax.data.datasets import photos
from vse_jax.gallery.rows import Record
from vse_jax.search.searcher import Hit
from vse_jax.serving import server
from vse_jax.serving.app import App
from vse_jax.serving.connection import Connection
from vse_jax.serving.guard import Guard

COLORS = {
    "red": (240, 0, 0),
    "green": (0, 240, 0),
    "blue": (0, 0, 240),
    "yellow": (240, 240, 0),
    "cyan": (0, 240, 240),
    "pink": (240, 0, 240),
}
FOLDER = "photos of/ünï code"  # needs escaping in a URL
MARKUP = "a <b>thing</b>"  # a caption
SLOW, FAILING, SECRET = "slow", "failing", "a secret of the query"
SLOW_SECONDS = 1.0


def photo_of(
    color: tuple[int, int, int], size=(60, 40), form="PNG", **options
) -> bytes:
    """Returns a photo of one color."""
    stream = io.BytesIO()
    Image.new("RGB", size, color).save(stream, form, **options)
    return stream.getvalue()


def id_of(name: str) -> str:
    """Returns the ID of the row of a color."""
    return f"{FOLDER}/{name} #1?.png"


class _Gallery:
    similarity = "cosine"
    content = "images"
    model = "colors"

    def __init__(self):
        self.ids = [id_of(name) for name in COLORS]
        self.embeddings = np.stack([_direction(color) for color in COLORS.values()])
        self.rows = len(self.ids)

    def row(self, row):
        return Record(self.ids[row], None, [f"a {list(COLORS)[row]} thing", MARKUP])

    def rows_at(self, rows):
        return [self.row(row) for row in rows]

    def position_of(self, row_id):
        return self.ids.index(row_id) if row_id in self.ids else None


class ColorSearcher:
    """Does what `search.searcher.Searcher` does.

    Attributes:
      batches: number of queries of each batch.
    """

    def __init__(self):
        self.gallery = _Gallery()
        self.batches = []
        image_input = types.SimpleNamespace(takes_photos=True, read=_read)
        self.model = types.SimpleNamespace(image_input=image_input)

    def embed(self, queries):
        self.batches.append(len(queries))
        return np.stack([self._embed(query.check()) for query in queries])

    def _embed(self, query):
        total = np.zeros(3)
        for part in query.parts:
            if part.row is not None:
                total += part.weight * self.gallery.embeddings[part.row]
            elif part.photo is not None:
                mean = part.photo.content.reshape(-1, 3).mean(0)
                total += part.weight * _direction(mean)
            else:
                total += part.weight * self._embed_text(part.text)
        return total

    def _embed_text(self, text):
        if SLOW in text:
            time.sleep(SLOW_SECONDS)
        if FAILING in text:
            raise RuntimeError(SECRET)
        colors = [_direction(COLORS[word]) for word in text.split() if word in COLORS]
        return sum(colors, np.zeros(3))

    def search(self, embeddings, k, threshold=None):
        assert threshold is None  # the server drops what is below it
        results = []
        for scores in embeddings @ self.gallery.embeddings.T:
            rows = np.argsort(-scores, kind="stable")[:k]
            records = self.gallery.rows_at(rows)
            results.append(
                [
                    Hit(rank, float(scores[row]), int(row), of.id, None, of.captions)
                    for rank, (row, of) in enumerate(zip(rows, records, strict=True), 1)
                ]
            )
        return results

    def picture(self, row):
        color = list(COLORS.values())[row]
        noise = np.random.default_rng(row).integers(0, 9, (1500, 2000, 3))
        pixels = (noise + color).astype(np.uint8)
        stream = io.BytesIO()
        exif = Image.Exif()
        exif[0x010E] = SECRET  # the description
        Image.fromarray(pixels).save(stream, "JPEG", exif=exif)
        return stream.getvalue()

    def unknown_words(self, query):
        known = {*COLORS, "a", "thing"}
        words = [word for text in query.texts for word in text.split()]
        return [word for word in words if word not in known]

    def is_truncated(self, query):
        return any(len(text.split()) > 100 for text in query.texts)

    def has_known_words(self, query):
        words = [word for text in query.texts for word in text.split()]
        return not query.texts or len(self.unknown_words(query)) < len(words)


def _direction(color):
    vector = np.asarray(color, np.float64)
    return vector / max(np.linalg.norm(vector), 1e-8)


def _read(photo):
    with Image.open(io.BytesIO(photos.to_stored(photo))) as image:
        return np.asarray(image.convert("RGB"))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--request_seconds", type=float, default=60)
    parser.add_argument("--host", default="127.0.0.1")
    options = parser.parse_args()
    Connection.request_seconds = Connection.reading_seconds = options.request_seconds
    listener = server.listen(options.host, 0)
    app = Guard(App(ColorSearcher()).router, options.host)
    url = server.url_of(listener)
    raise SystemExit(server.run(app, listener, lambda: print(url, flush=True)))


if __name__ == "__main__":
    main()
