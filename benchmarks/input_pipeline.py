"""Measures how many training pairs per second the input pipeline delivers.

    python -m benchmarks.input_pipeline [--tiny]

Features are generated, written in the numpy layout, prepared as a dataset and read with
size augmentation in batches of 128, at the sizes of Flickr8k here and of the papers.
All files lie in a temporary folder, thus mostly in the memory of the operating system:
what is measured is reading, decoding and augmentation, not the disk.
"""

import argparse
import functools
import itertools
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

import ml_collections
import numpy as np

from benchmarks import timing
from configs import common
from vse_jax.data import datasets, input_pipeline
from vse_jax.data.text.vocabulary import training_vocabulary

_SIZES = ((4000, 16, 256), (512, 36, 2048))  # images, regions, dim
_TINY_SIZES = ((400, 4, 8),)
_BATCH_SIZE = 128
_STEPS = 40  # of a run
_REPEATS = 7
_WORDS = 12  # of a caption, on average


def _write_source(root: Path, images: int, regions: int, dim: int) -> None:
    rng = np.random.default_rng(0)
    words = [f"word{number}" for number in range(8000)]
    choice = random.Random(0)
    for split, count in (("train", images), ("dev", 1)):
        features = rng.standard_normal((count, regions, dim), np.float32)
        np.save(root / f"{split}_ims.npy", features.astype(np.float16))
        lengths = [choice.randrange(_WORDS - 4, _WORDS + 5) for _ in range(5 * count)]
        lines = [" ".join(choice.choices(words, k=length)) for length in lengths]
        (root / f"{split}_caps.txt").write_text("\n".join(lines) + "\n", "utf-8")


def _config(folder: Path, dim: int) -> ml_collections.ConfigDict:
    config = common.get_config()
    config.batch_size = _BATCH_SIZE
    config.data.root = str(folder)
    config.data.data_dir = str(folder / "prepared")
    config.data.region_dim = dim
    return config


def _endless_batches(
    folder: Path, images: int, regions: int, dim: int
) -> Iterator[input_pipeline.Batch]:
    folder.mkdir()
    _write_source(folder, images, regions, dim)
    config = _config(folder, dim)
    builder = datasets.prepare(config.data)
    vocabulary = training_vocabulary(builder, 1)
    return input_pipeline.train_batches(
        builder, vocabulary, config, start_step=0, num_steps=2**40
    )


def _consume(batches: Iterator[input_pipeline.Batch]) -> None:
    for _ in itertools.islice(batches, _STEPS):
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="a small dataset, 2 runs")
    tiny = parser.parse_args().tiny
    sizes, repeats = (_TINY_SIZES, 2) if tiny else (_SIZES, _REPEATS)
    with tempfile.TemporaryDirectory() as folder:
        all_batches = {
            f"{regions}x{dim}": _endless_batches(
                Path(folder) / f"{regions}x{dim}", images, regions, dim
            )
            for images, regions, dim in sizes
        }
        runs = {
            name: functools.partial(_consume, batches)
            for name, batches in all_batches.items()
        }
        timings = timing.median_seconds(runs, repeats=repeats, warmup=1)
        for batches in all_batches.values():
            batches.close()
    pairs = _BATCH_SIZE * _STEPS
    timing.print_table(
        [
            {
                "regions": name,
                "pairs/s": pairs / measured.median,
                "slowest run": pairs / measured.maximum,
                "fastest run": pairs / measured.minimum,
                "ms/batch": 1000 * measured.median / _STEPS,
            }
            for name, measured in timings.items()
        ]
    )


if __name__ == "__main__":
    main()
