"""What a training batch holds at each step, apart from the images themselves."""

import dataclasses

import numpy as np

from vse_jax.data import augmentation, photo_crops
from vse_jax.data.sampling import Rows, Sampler
from vse_jax.data.split_index import SplitIndex
from vse_jax.data.text.encoded_captions import EncodedCaptions, pad_to_length

Batch = dict[str, np.ndarray]

_DROP_REGIONS = 0.2  # probability of each region to be dropped
_CHANGE_WORDS = 0.2  # probability of each token to be masked, replaced or dropped


@dataclasses.dataclass(frozen=True)
class TrainingPlan:
    """Says which records this host reads at a step, and makes all but the images.

    Attributes:
      index: of the training split.
      captions: all captions of the split, encoded.
      sampler: which image and caption is in each row.
      seed: of the augmentation.
      lengths: token counts that a batch may be padded to, ascending.
      augment: whether regions and words are dropped, or photos cropped at random.
      has_photos: whether the images are photos to be cropped.
      own: this host's rows of the global batch.
    """

    index: SplitIndex
    captions: EncodedCaptions
    sampler: Sampler
    seed: int
    lengths: tuple[int, ...]
    augment: bool
    has_photos: bool
    own: slice

    def __call__(self, step: int) -> tuple[np.ndarray, Batch]:
        """Returns record numbers int64 [batch] and the arrays that need no record."""
        rows = self.sampler.rows(step)
        own = rows[self.own]
        batch = {"image_id": self.index.image_id[own.image]}
        batch |= self._text(rows) | self._regions(own) | self._crops(own)
        return own.image, batch

    def _text(self, rows: Rows) -> Batch:
        """Chooses the length by the global batch, so that all hosts choose the same."""
        caption = self.index.caption_offset[rows.image] + rows.caption
        tokens, count = self.captions.batch(caption)
        if self.augment and not self.has_photos:  # whose papers leave words alone
            tokens, count = augmentation.corrupt_words(
                self.seed,
                rows.pass_number,
                rows.image,
                tokens,
                count,
                vocabulary=self.captions.vocabulary,
                rate=_CHANGE_WORDS,
            )
        tokens = pad_to_length(tokens, self.lengths, count.max())
        return {"tokens": tokens[self.own], "token_count": count[self.own]}

    def _regions(self, rows: Rows) -> Batch:
        counts = region_counts(self.index, rows.image)
        if not counts or not self.augment:
            return counts
        source, count = augmentation.keep_regions(
            self.seed,
            rows.pass_number,
            rows.image,
            counts["region_count"],
            regions=int(self.index.region_count.max()),
            rate=_DROP_REGIONS,
        )
        return {"region_count": count, "region_source": source}

    def _crops(self, rows: Rows) -> Batch:
        if not self.has_photos or not self.augment:
            return {}
        numbers = photo_crops.crop_numbers(self.seed, rows.pass_number, rows.image)
        return {"crop_numbers": numbers}


def region_counts(index: SplitIndex, image: np.ndarray) -> Batch:
    """Returns `region_count [batch]` of some records, if they have regions."""
    has_regions = index.region_count.max() > 0
    return {"region_count": index.region_count[image]} if has_regions else {}
