"""Photos for tests: drawn ones, and those of Flickr8k if they are available."""

import csv
import io
import pathlib

import numpy as np
import pytest
from PIL import Image

_FLICKR8K = pathlib.Path(__file__).parents[2] / "shared" / "flickr8k"


def flickr8k() -> pathlib.Path:
    """Returns the folder with real photos; skips the test if it does not exist."""
    if not (_FLICKR8K / "dataset_flickr8k.json").exists():
        pytest.skip("no photos in ../shared/flickr8k, beside the repository")
    return _FLICKR8K


def drawn(width: int, height: int, seed: int = 0) -> Image.Image:
    """Draws a smooth image, which JPEG preserves, with a few edges."""
    rng = np.random.default_rng(seed)
    small = rng.integers(40, 220, (3, 3, 3), np.uint8)
    pixels = np.asarray(Image.fromarray(small).resize((width, height), Image.BICUBIC))
    pixels = pixels.copy()
    pixels[height // 3 : height // 2, width // 4 : width // 2] = rng.integers(
        90, 160, 3
    )
    return Image.fromarray(pixels)


def encoded(image: Image.Image, kind: str = "JPEG", **options) -> bytes:
    """Returns the content of an image file."""
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def decoded(content: bytes) -> np.ndarray:
    """Decodes a file with PIL: uint8 `[height, width, 3]`."""
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image.convert("RGB"))


def write_captioned(folder: pathlib.Path, words, images: dict[str, int]) -> None:
    """Writes random photos of different sizes, and `captions.csv` with two of each.

    Args:
      folder: existing folder.
      words: words of the captions, which have four.
      images: number of photos by split.
    """
    rng = np.random.default_rng(0)
    with (folder / "captions.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "caption", "split"])
        for split, count in images.items():
            for number in range(count):
                name = f"{split}_{number}.png"
                pixels = rng.integers(0, 256, (*rng.integers(40, 70, 2), 3), np.uint8)
                Image.fromarray(pixels).save(folder / name)
                for _ in range(2):
                    rows.writerow([name, " ".join(rng.choice(words, 4)), split])
