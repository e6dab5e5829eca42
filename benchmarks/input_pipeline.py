"""Measures how many training pairs per second the input pipeline delivers.

    python -m benchmarks.input_pipeline [--tiny]

Features are generated, written in the numpy layout, prepared as a dataset and read with
size augmentation in batches of 128, at the sizes of Flickr8k here and of the papers.
All files lie in a temporary folder, thus mostly in the memory of the operating system:
what is measured is reading, decoding and augmentation, not the disk.

`streamed` batches hold features. `resident` ones hold what the host makes for a step
with config.data.device_resident: tokens and the indices of images and regions.
"""

import argparse
import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path

import ml_collections

from benchmarks import random_features, timing
from configs import common
from vse_jax.data import datasets, input_pipeline
from vse_jax.data.text.vocabulary import training_vocabulary

_SIZES = ((4000, 16, 256), (512, 36, 2048))  # images, regions, dim
_TINY_SIZES = ((400, 4, 8),)
_BATCH_SIZE = 128
_STEPS = 40  # of a run
_REPEATS = 7
_VOCABULARY_SIZE = 8000


def _config(folder: Path, dim: int) -> ml_collections.ConfigDict:
    config = common.get_config()
    config.batch_size = _BATCH_SIZE
    config.data.root = str(folder)
    config.data.data_dir = str(folder / "prepared")
    config.data.region_dim = dim
    return config


class _Side:
    """Endless batches of a dataset, in one of both forms."""

    def __init__(self, builder, config: ml_collections.ConfigDict, *, resident: bool):
        vocabulary = training_vocabulary(builder, 1)
        self.batches = input_pipeline.train_batches(
            builder,
            config,
            input_pipeline.training_plan(builder, vocabulary, config),
            start_step=0,
            num_steps=2**40,
            with_content=not resident,
        )
        batch = next(self.batches)
        self.kilobytes = sum(array.nbytes for array in batch.values()) / 1000

    def run(self) -> None:
        for _ in itertools.islice(self.batches, _STEPS):
            pass

    def row(self, measured: timing.Timing) -> dict[str, float]:
        pairs = _BATCH_SIZE * _STEPS
        return {
            "pairs/s": pairs / measured.median,
            "slowest run": pairs / measured.maximum,
            "fastest run": pairs / measured.minimum,
            "ms/batch": 1000 * measured.median / _STEPS,
            "KB/batch": self.kilobytes,
        }


def _sides(folder: Path, images: int, regions: int, dim: int) -> Iterator[_Side]:
    """Yields the streamed and the resident form of a dataset."""
    folder.mkdir()
    random_features.write(
        folder, images, 1, regions=regions, dim=dim, vocabulary_size=_VOCABULARY_SIZE
    )
    config = _config(folder, dim)
    builder = datasets.prepare(config.data)
    for resident in (False, True):
        yield _Side(builder, config, resident=resident)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="a small dataset, 2 runs")
    tiny = parser.parse_args().tiny
    sizes, repeats = (_TINY_SIZES, 2) if tiny else (_SIZES, _REPEATS)
    with tempfile.TemporaryDirectory() as folder:
        sides = {}
        for images, regions, dim in sizes:
            size = f"{regions}x{dim}"
            forms = _sides(Path(folder) / size, images, regions, dim)
            for form, side in zip(("streamed", "resident"), forms, strict=True):
                sides[size, form] = side
        runs = {name: side.run for name, side in sides.items()}
        timings = timing.median_seconds(runs, repeats=repeats, warmup=1)
        for side in sides.values():
            side.batches.close()
    timing.print_table(
        [
            {"regions": size, "form": form} | sides[size, form].row(measured)
            for (size, form), measured in timings.items()
        ]
    )


if __name__ == "__main__":
    main()
