"""Reads a prepared dataset into host batches, for training and for evaluation.

Each host gets a contiguous slice of the rows of a batch; all slices have equal size. A
batch is a dict of read-only numpy arrays:

    tokens        int32 [batch, time]
    token_count   int32 [batch]
    image_id      int32 [batch], equal for records of one picture, -1 for padding rows

and one of

    regions       float16 [batch, regions, dim], with region_count int32 [batch]
    image         uint8 [batch, height, width, 3]; in evaluation with
                  config.data.crops=10, uint8 [batch, 10, height, width, 3]
    feature       float32 [batch, dim]

With several views (config.loss.views), tokens of a training batch are int32 `[batch,
views, time]` and token_count is int32 `[batch, views]`. All regions of an image are in
the batch once, with

    view_regions       int32 [batch, views, regions], indices of regions
    view_region_count  int32 [batch, views], how many of these a view has
"""

from collections.abc import Iterator, Sequence

import ml_collections
import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from vse_jax.data import photo_crops, photo_geometry, reading, records
from vse_jax.data.batch_options import has_photos, own_rows, token_lengths
from vse_jax.data.sampling import Sampler, passes_per_epoch
from vse_jax.data.split_index import SplitIndex, check_captions, split_index
from vse_jax.data.text.encoded_captions import (
    batches_by_length,
    encode_captions,
)
from vse_jax.data.text.vocabularies import AnyVocabulary
from vse_jax.data.training_plan import Batch, TrainingPlan, region_counts

__all__ = [
    "Batch",
    "SplitIndex",
    "caption_batches",
    "image_batches",
    "split_index",
    "steps_per_epoch",
    "train_batches",
    "training_plan",
]


def steps_per_epoch(
    builder: tfds.core.DatasetBuilder, config: ml_collections.ConfigDict
) -> int:
    """Returns the number of steps per epoch.

    An epoch uses about as many pairs as there are training captions.

    Raises:
      InputError: if the split does not exist, or the batch is too large for it.
    """
    data = config.data
    count = split_index(builder, data.train_split, data.tokenizer).caption_counts
    Sampler(config.seed, count, config.batch_size)  # raises if the batch is too large
    return passes_per_epoch(count) * len(count) // config.batch_size


def training_plan(
    builder: tfds.core.DatasetBuilder,
    vocabulary: AnyVocabulary,
    config: ml_collections.ConfigDict,
    *,
    process_index: int = 0,
    process_count: int = 1,
) -> TrainingPlan:
    """Returns the plan of this host's slice of the training batches.

    It encodes all captions of the split, and logs how many are truncated.

    Args:
      builder: a prepared dataset.
      vocabulary: vocabulary that encodes the captions.
      config: uses `seed`, `batch_size` and, in `data`, `train_split`, `tokenizer`,
        `token_lengths`, `image_size`, `augment`, `drop_regions` and `drop_words`, and
        `loss.views`.
      process_index: index of this host.
      process_count: number of hosts.

    Raises:
      InputError: if the split is missing, empty or unreadable; if an image has no
        caption; if the batch size does not suit the hosts or the images; or if photos
        of any size lack `config.data.image_size`.
    """
    split = config.data.train_split
    index = split_index(builder, split, config.data.tokenizer)
    check_captions(builder, split, index)
    lengths = token_lengths(config)
    return TrainingPlan(
        index=index,
        captions=encode_captions(index, vocabulary, lengths[-1], split),
        sampler=Sampler(config.seed, index.caption_counts, config.batch_size),
        seed=config.seed,
        lengths=lengths,
        augment=config.data.augment,
        drop_regions=config.data.drop_regions,
        drop_words=config.data.drop_words,
        views=config.loss.views,
        has_photos=has_photos(builder, config),
        own=own_rows("batch_size", config.batch_size, process_index, process_count),
    )


def train_batches(
    builder: tfds.core.DatasetBuilder,
    config: ml_collections.ConfigDict,
    plan: TrainingPlan,
    *,
    start_step: int,
    num_steps: int,
    with_content: bool = True,
) -> Iterator[Batch]:
    """Returns an iterator over this host's slice of the training batches.

    The global batch of a step depends only on the dataset, the vocabulary and the
    config. It does not depend on the number of hosts or on `start_step`. Closing the
    iterator stops its threads.

    Args:
      builder: a prepared dataset.
      config: the configuration of the plan.
      plan: plan of this host's slice, see `training_plan`.
      start_step: first step.
      num_steps: number of steps.
      with_content: False leaves out the image content and reads no records.

    Returns:
      Batches with tokens, token_count, image_id and the image content. Without content
      they have image_index, int32 `[batch]`: record numbers; with regions,
      region_count; and, if regions are dropped, region_source, int32
      `[batch, regions]`: see `augmentation.keep_regions`.

    Raises:
      InputError: if a record cannot be read.
    """
    steps = range(start_step, start_step + num_steps)
    if not with_content:
        return reading.planned_batches(steps, plan)
    split = config.data.train_split
    return _read(builder, split, config, plan.index, steps, plan, crops=1)


def image_batches(
    builder: tfds.core.DatasetBuilder,
    split: str,
    config: ml_collections.ConfigDict,
    *,
    numbers: Sequence[int] | None = None,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[Batch]:
    """Returns an iterator over this host's slice of a split's images, in order.

    Each image occurs once. The last batch is padded with rows that repeat the last
    image; their image_id and image_index are -1. Images are not augmented. Closing the
    iterator stops its threads.

    Args:
      builder: a prepared dataset.
      split: name of the split.
      config: uses `evaluation_batch_size` (rows over all hosts), `data.tokenizer`,
        `data.crops` and the options of `photo_geometry.geometry_of`.
      numbers: record numbers, at least one; None means all records.
      process_index: index of this host.
      process_count: number of hosts.

    Returns:
      Batches with image_id; image_index, int32 `[batch]`, the record number in the
      split; and the image content.

    Raises:
      InputError: if the split is missing, empty or unreadable; if the batch size is
        not a multiple of the hosts; or if photos of any size lack
        `config.data.image_size`.
    """
    size = config.evaluation_batch_size
    own = own_rows("evaluation_batch_size", size, process_index, process_count)
    index = split_index(builder, split, config.data.tokenizer)
    images = np.arange(index.image_count) if numbers is None else np.asarray(numbers)

    def plan(step: int) -> tuple[np.ndarray, Batch]:
        place = step * size + np.arange(size)[own]
        image = images[np.minimum(place, len(images) - 1)]
        exists = place < len(images)
        batch = {
            "image_id": np.where(exists, index.image_id[image], -1).astype(np.int32),
            "image_index": np.where(exists, image, -1).astype(np.int32),
        }
        return image, batch | region_counts(index, image)

    steps = range(-(-len(images) // size))
    crops = config.data.crops
    return _read(builder, split, config, index, steps, plan, crops=crops)


def caption_batches(
    builder: tfds.core.DatasetBuilder,
    split: str,
    vocabulary: AnyVocabulary,
    config: ml_collections.ConfigDict,
    *,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[Batch]:
    """Returns an iterator over this host's slice of a split's captions, by length.

    Each caption occurs once.

    Args:
      builder: a prepared dataset.
      split: name of the split.
      vocabulary: vocabulary that encodes the captions; other words become `<unk>`.
      config: uses `evaluation_batch_size`, `data.tokenizer` and `data.token_lengths`.
      process_index: index of this host.
      process_count: number of hosts.

    Returns:
      Batches with tokens, token_count and caption_index, int32 `[batch]`: the index in
      `SplitIndex.captions`, or -1 for rows that pad the last batch.

    Raises:
      InputError: if the split is missing, empty or unreadable, or if the batch size is
        not a multiple of the hosts.
    """
    size = config.evaluation_batch_size
    own = own_rows("evaluation_batch_size", size, process_index, process_count)
    lengths = token_lengths(config)
    index = split_index(builder, split, config.data.tokenizer)
    captions = encode_captions(index, vocabulary, lengths[-1], split)
    return (
        {name: array[own] for name, array in batch.items()}
        for batch in batches_by_length(captions, size, lengths)
    )


def _read(
    builder: tfds.core.DatasetBuilder,
    split: str,
    config: ml_collections.ConfigDict,
    index: SplitIndex,
    steps: range,
    plan: reading.Plan,
    crops: int,
) -> Iterator[Batch]:
    """Returns an iterator over the planned batches with their image content."""
    if has_photos(builder, config):
        row_bytes = crops * config.data.image_size**2 * 3
    else:
        content = records.content_of(builder)
        spec = records.parsed_spec(content, int(index.region_count.max()))
        row_bytes = spec.shape.num_elements() * spec.dtype.size
    parse = _parser(builder, config, index, crops)
    return reading.batches(builder, split, parse, row_bytes, steps, plan)


def _parser(
    builder: tfds.core.DatasetBuilder,
    config: ml_collections.ConfigDict,
    index: SplitIndex,
    crops: int,
) -> reading.Parse:
    """Returns the function that adds the image content to a planned batch.

    It removes the arrays of the plan that only it needs.
    """
    content = records.content_of(builder)
    geometry = photo_geometry.geometry_of(config.data)
    regions = int(index.region_count.max())

    def parse(
        serialized: tf.Tensor, batch: dict[str, tf.Tensor]
    ) -> dict[str, tf.Tensor]:
        array = records.parse_content(content, serialized, regions)
        if "region_source" in batch:
            source = batch.pop("region_source")
            array = _move_regions(array, source, batch["region_count"])
        return batch | {content.key: array}

    def parse_photos(
        serialized: tf.Tensor, batch: dict[str, tf.Tensor]
    ) -> dict[str, tf.Tensor]:
        encoded = records.parse_encoded(content, serialized)
        if "crop_numbers" in batch:
            numbers = batch.pop("crop_numbers")
            image = photo_crops.random_crops(
                encoded, numbers, geometry.size, geometry.interpolation
            )
        elif crops == 10:
            image = photo_crops.ten_crops(encoded, geometry)
        else:
            image = photo_crops.center_crops(encoded, geometry)
        return batch | {content.key: image}

    return parse_photos if has_photos(builder, config) else parse


def _move_regions(
    regions: tf.Tensor, source: tf.Tensor, region_count: tf.Tensor
) -> tf.Tensor:
    """Gathers each region from its old index, with zeros beyond the count."""
    moved = tf.gather(regions, source, batch_dims=1)
    kept = tf.sequence_mask(region_count, regions.shape[1])
    return tf.where(kept[:, :, None], moved, tf.zeros([], regions.dtype))
