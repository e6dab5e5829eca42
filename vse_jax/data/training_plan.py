"""Plans the content of each training batch, except the image content."""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np

from vse_jax.data import augmentation, photo_crops
from vse_jax.data.sampling import Rows, Sampler
from vse_jax.data.split_index import SplitIndex
from vse_jax.data.text.encoded_captions import EncodedCaptions, pad_to_length

Batch = dict[str, np.ndarray]

_SAMPLED_STEPS = 200  # to find the lengths of batches


@dataclasses.dataclass(frozen=True)
class TrainingPlan:
    """Plans which records this host reads at a step, and makes the other arrays.

    Attributes:
      index: index of the training split.
      captions: encoded captions of the split.
      sampler: chooses the image and the caption of each row.
      seed: seed of the augmentation.
      lengths: lengths in tokens that batches are padded to, ascending.
      augment: whether regions and words are dropped, or photos cropped at random.
      drop_regions: probability that a region is dropped.
      drop_words: probability that a token is masked, replaced or dropped.
      views: augmented views of each image and caption; more than one needs `augment`
        and regions.
      has_photos: whether the images are photos that are cropped.
      own: this host's rows of the global batch.
    """

    index: SplitIndex
    captions: EncodedCaptions
    sampler: Sampler
    seed: int
    lengths: tuple[int, ...]
    augment: bool
    drop_regions: float
    drop_words: float
    views: int
    has_photos: bool
    own: slice

    def __call__(self, step: int) -> tuple[np.ndarray, Batch]:
        """Returns record numbers, int64 `[batch]`, and arrays that need no record."""
        rows = self.sampler.rows(step)
        own = rows[self.own]
        batch = {"image_id": self.index.image_id[own.image]}
        batch |= self._text(rows) | self._regions(own) | self._crops(own)
        return own.image, batch

    def _text(self, rows: Rows) -> Batch:
        """Pads to the length of the global batch, so that it is equal on all hosts."""
        caption = self.index.caption_offset[rows.image] + rows.caption
        tokens, count = self.captions.batch(caption)
        # The papers that train on photos do not change words.
        if self.augment and not self.has_photos:
            corrupt = functools.partial(
                augmentation.corrupt_words,
                self.seed,
                rows.pass_number,
                rows.image,
                tokens,
                count,
                vocabulary=self.captions.vocabulary,
                rate=self.drop_words,
            )
            tokens, count = self._views(corrupt)
        tokens = pad_to_length(tokens, self.lengths, count.max())
        return {"tokens": tokens[self.own], "token_count": count[self.own]}

    def token_lengths(self, start_step: int) -> list[int]:
        """Returns the lengths in tokens of batches, in the order of their first use.

        They are those of some steps of a pass over the images, and all lengths between
        the shortest of these and the longest caption. A length that is missing here is
        very rare.
        """
        last = self.sampler.steps_per_pass - 1
        steps = np.unique(np.linspace(0, last, _SAMPLED_STEPS).astype(int))
        found = {}
        for step in (start_step + steps).tolist():
            rows = self.sampler.rows(step)
            found[self._text(rows)["tokens"].shape[-1]] = None
        longest = int(self.captions.token_count.max())
        largest = next(length for length in self.lengths if length >= longest)
        between = [n for n in self.lengths if min(found) <= n <= largest]
        return list(found | dict.fromkeys(between))

    def _regions(self, rows: Rows) -> Batch:
        counts = region_counts(self.index, rows.image)
        if not counts or not self.augment:
            return counts
        keep = functools.partial(
            augmentation.keep_regions,
            self.seed,
            rows.pass_number,
            rows.image,
            counts["region_count"],
            regions=int(self.index.region_count.max()),
            rate=self.drop_regions,
        )
        source, count = self._views(keep)
        if self.views > 1:
            return counts | {"view_regions": source, "view_region_count": count}
        return {"region_count": count, "region_source": source}

    def _views(self, augment: Callable) -> tuple[np.ndarray, ...]:
        """Returns the arrays of the only view, or of all, `[batch, views, ...]`."""
        if self.views == 1:
            return augment()
        views = [augment(view=view) for view in range(self.views)]
        return tuple(np.stack(arrays, axis=1) for arrays in zip(*views, strict=True))

    def _crops(self, rows: Rows) -> Batch:
        if not self.has_photos or not self.augment:
            return {}
        numbers = photo_crops.crop_numbers(self.seed, rows.pass_number, rows.image)
        return {"crop_numbers": numbers}


def region_counts(index: SplitIndex, image: np.ndarray) -> Batch:
    """Returns `region_count` `[batch]` of records; empty if they have no regions."""
    has_regions = index.region_count.max() > 0
    return {"region_count": index.region_count[image]} if has_regions else {}
