"""Writes region features of random numbers, with random captions, in the numpy layout.

    python -m benchmarks.random_features FOLDER [--images=4000]

A training on them takes as long as one on real features of these sizes. The training
split has 4,000 images, and the validation split 200.
"""

import argparse
from pathlib import Path

import numpy as np

REGIONS, DIM = 36, 2048
CAPTIONS_PER_IMAGE = 5
MEAN_WORDS, WORDS_DEVIATION, FEWEST_WORDS, MOST_WORDS = 12, 3, 5, 22
VALIDATION_IMAGES = 200


def write(
    folder: Path,
    images: int,
    validation_images: int,
    *,
    regions: int = REGIONS,
    dim: int = DIM,
    vocabulary_size: int = 4000,
) -> None:
    """Writes both splits.

    Args:
      folder: made if it does not exist.
      images: of the training split.
      validation_images: of the split `dev`.
      regions: of each image.
      dim: dimensions of a region.
      vocabulary_size: different words of the captions.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    words = np.array([f"word{number}" for number in range(vocabulary_size)])
    for split, count in (("train", images), ("dev", validation_images)):
        features = rng.standard_normal((count, regions, dim), np.float32)
        np.save(folder / f"{split}_ims.npy", features.astype(np.float16))
        lengths = rng.normal(MEAN_WORDS, WORDS_DEVIATION, CAPTIONS_PER_IMAGE * count)
        lengths = lengths.astype(int).clip(FEWEST_WORDS, MOST_WORDS)
        lines = [" ".join(rng.choice(words, length)) for length in lengths]
        (folder / f"{split}_caps.txt").write_text("\n".join(lines) + "\n", "utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="to write to")
    parser.add_argument("--images", type=int, default=4000, help="of training")
    arguments = parser.parse_args()
    write(arguments.folder, arguments.images, VALIDATION_IMAGES)


if __name__ == "__main__":
    main()
