"""What all builders of captioned images share: order, shards and a progress bar."""

import abc
import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow_datasets as tfds

from vse_jax.progress import Progress

# TFDS holds the examples of the shard that it writes, so this also bounds the memory.
_SHARD_BYTES = 128 * 2**20


@dataclasses.dataclass(frozen=True)
class SplitPlan:
    """How to generate one split.

    `examples(start, stop)` yields the examples of images `start` to `stop - 1` in their
    order, and None for each that is left out; `image_bytes` estimates the bytes that
    one of them takes.
    """

    image_count: int
    image_bytes: int
    examples: Callable[[int, int], Iterator[dict[str, Any] | None]]


class CaptionedImages(tfds.core.ShardBasedBuilder, abc.ABC, skip_registration=True):
    """Writes the records of a split in the order of its source, shard by shard.

    It is not a `GeneratorBasedBuilder` because that one sorts a whole split in memory
    when shuffling is disabled.
    """

    # TFDS looks for checksums of downloads beside this file, of which there are none,
    # and needs a package for it that it does not require.
    code_path = None

    def _create_builder_config(self, builder_config, version):
        del version  # TFDS would warn of each config that is not in a fixed list.
        return builder_config

    @abc.abstractmethod
    def _split_plans(self) -> dict[str, SplitPlan]:
        """Returns the plan of each split by its name."""

    def _shard_iterators_per_split(self, dl_manager):
        del dl_manager  # nothing is downloaded
        return {name: _shards(name, plan) for name, plan in self._split_plans().items()}


def _shards(split: str, plan: SplitPlan) -> list[Callable[[], Iterator]]:
    """Returns one function a shard; called in order, they show one progress bar."""
    progress = Progress(f"preparing {split}", plan.image_count, "images")
    bounds = shard_bounds(plan.image_count, plan.image_bytes, _SHARD_BYTES)
    return [
        functools.partial(_examples_of_shard, plan, progress, start, stop)
        for start, stop in bounds
    ]


def shard_bounds(
    image_count: int, image_bytes: int, shard_bytes: int
) -> list[tuple[int, int]]:
    """Returns the first image and the end of each shard; sizes are about equal.

    Args:
      image_count: of the split, at least 1.
      image_bytes: of one image.
      shard_bytes: largest size of a shard, unless one image is larger.
    """
    images = max(1, shard_bytes // image_bytes)
    shard_count = math.ceil(image_count / images)
    bounds = [image_count * i // shard_count for i in range(shard_count + 1)]
    return list(itertools.pairwise(bounds))


def _examples_of_shard(plan: SplitPlan, progress: Progress, start: int, stop: int):
    for image, example in enumerate(plan.examples(start, stop), start):
        if example is not None:
            yield image, example
        progress.add()
    if stop == plan.image_count:
        progress.close()


def caption_features() -> dict[str, tfds.features.FeatureConnector]:
    """Returns the features that every dataset of captioned images has."""
    return {
        "image_id": tfds.features.Text(),
        "captions": tfds.features.Sequence(tfds.features.Text()),
    }
