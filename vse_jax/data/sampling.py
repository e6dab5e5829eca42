"""Chooses the image and the caption of each row of each training batch.

Every choice is a pure function of the seed and the step. It does not depend on earlier
steps.
"""

import dataclasses
import functools

import numpy as np

from vse_jax.errors import InputError

# One stream for each use of randomness, so that no two uses share random numbers.
(
    ORDER_STREAM,
    CAPTION_STREAM,
    REGION_STREAM,
    WORD_STREAM,
    CROP_STREAM,
    RESAMPLE_STREAM,
    JUDGEMENT_STREAM,
) = range(7)
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def random_bits(*keys: int | np.ndarray, count: int) -> np.ndarray:
    """Returns `count` random numbers for each entry of the keys.

    The generator is SplitMix64 (Steele et al. 2014). Unlike numpy's generators it takes
    a whole batch of keys at once, and its numbers do not depend on library versions.

    Args:
      *keys: integers or integer arrays that broadcast to `[batch]`.
      count: numbers per entry.

    Returns:
      uint64 `[batch, count]`.
    """
    state = np.zeros(1, np.uint64)
    for key in keys:
        state = _mix(state + _GOLDEN + np.asarray(key, np.int64).astype(np.uint64))
    return _mix(state[:, None] + _GOLDEN * np.arange(1, count + 1, dtype=np.uint64))


def random_uniform(*keys: int | np.ndarray, count: int) -> np.ndarray:
    """Returns uniform random numbers in [0, 1), float64 `[batch, count]`.

    The arguments are those of `random_bits`.
    """
    return (random_bits(*keys, count=count) >> np.uint64(11)) * 2.0**-53


def _mix(state: np.ndarray) -> np.ndarray:
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


@dataclasses.dataclass(frozen=True)
class Rows:
    """The rows of one global batch.

    Attributes:
      image: int64 `[batch]`, record number in the split.
      caption: int64 `[batch]`, index of the caption among those of its image.
      pass_number: int64 `[batch]`; has at most two distinct values, because a batch may
        straddle two passes.
    """

    image: np.ndarray
    caption: np.ndarray
    pass_number: np.ndarray

    def __getitem__(self, rows: slice) -> "Rows":
        """Returns some of the rows."""
        return Rows(self.image[rows], self.caption[rows], self.pass_number[rows])


class Sampler:
    """Chooses the images and captions of each step.

    A pass visits every image once. Batches run through all passes without a gap, and no
    batch contains an image twice, not even a batch that straddles two passes. If an
    image has n captions, n consecutive passes use each of them once.
    """

    def __init__(self, seed: int, caption_counts: np.ndarray, batch_size: int):
        """Initializes the sampler.

        Args:
          seed: seed of the image orders and the caption choices.
          caption_counts: int `[images]`, captions per image, at least 1.
          batch_size: pairs per global batch.

        Raises:
          InputError: if the batch is too large for the number of images.
        """
        self._seed = seed
        self._caption_counts = np.asarray(caption_counts)
        self._images = len(self._caption_counts)
        self._batch_size = batch_size
        largest = largest_batch_size(self._images)
        if not 1 <= batch_size <= largest:
            raise InputError(
                f"config.batch_size is {batch_size} for {self._images} training "
                f"images; expected 1 to {largest}, so that no batch contains an image "
                "twice"
            )
        # A step needs one or two passes; the order of a pass needs the previous one's.
        self._raw_order = functools.lru_cache(4)(self._raw_order)
        self.order = functools.lru_cache(2)(self.order)

    @property
    def steps_per_pass(self) -> int:
        """Number of whole batches in a pass, at least 1."""
        return max(1, self._images // self._batch_size)

    def rows(self, step: int) -> Rows:
        """Returns the rows of the global batch of a step; the first step is 0."""
        number = step * self._batch_size + np.arange(self._batch_size, dtype=np.int64)
        pass_number, position = np.divmod(number, self._images)
        image = np.empty_like(number)
        for one_pass in np.unique(pass_number).tolist():
            chosen = pass_number == one_pass
            image[chosen] = self.order(one_pass)[position[chosen]]
        count = self._caption_counts[image]
        caption = choose_caption(self._seed, image, pass_number, count)
        return Rows(image, caption, pass_number)

    def order(self, pass_number: int) -> np.ndarray:
        """Returns the images of a pass in order, int64 `[images]`.

        The first images of a pass may share a batch with the last images of the
        previous pass. Images that would occur twice in this batch are swapped with
        later images of the pass. They are never moved to its tail, which therefore
        equals the tail of the raw order. So the order of a pass depends only on the raw
        order of the previous pass, and not on all passes before it.
        """
        order = self._raw_order(pass_number)
        head = -(pass_number * self._images) % self._batch_size
        if head == 0:
            return order
        before = self._raw_order(pass_number - 1)[head - self._batch_size :]
        own_tail = (pass_number + 1) * self._images % self._batch_size
        order = order.copy()
        taken = np.isin(order, before)
        taken[self._images - own_tail :] = True
        colliding = np.flatnonzero(taken[:head])
        free = head + np.flatnonzero(~taken[head:])[: len(colliding)]
        order[colliding], order[free] = order[free], order[colliding]
        return order

    def _raw_order(self, pass_number: int) -> np.ndarray:
        bits = random_bits(self._seed, ORDER_STREAM, pass_number, count=self._images)
        return np.argsort(bits[0], kind="stable")


def evenly_spaced(count: int, total: int) -> np.ndarray:
    """Returns evenly spaced numbers below `total`, at most `count`, int64."""
    count = min(count, total)
    return np.arange(count) * total // max(count, 1)


def largest_batch_size(images: int) -> int:
    """Returns the largest batch size for a number of training images.

    The head of a pass needs as many other images to swap with as may collide with the
    tail of the previous pass. The tail of the pass itself, which may belong to another
    straddling batch, is not available for swaps.
    """
    return (images + 1) // 2


def choose_caption(
    seed: int, image: np.ndarray, pass_number: np.ndarray, caption_counts: np.ndarray
) -> np.ndarray:
    """Returns the index of the caption that each image uses in a pass.

    Args:
      seed: seed of the choice.
      image: int `[batch]`, record numbers.
      pass_number: int `[batch]`.
      caption_counts: int `[batch]`, captions of each of these images.

    Returns:
      int64 `[batch]`. An image with n captions uses each index from 0 to n - 1 once in
      n passes.
    """
    cycle, entry = np.divmod(pass_number, caption_counts)
    most = int(caption_counts.max())
    bits = random_bits(seed, CAPTION_STREAM, image, cycle, count=most)
    bits[np.arange(most) >= caption_counts[:, None]] = np.iinfo(np.uint64).max
    permutation = np.argsort(bits, axis=1, kind="stable")
    return np.take_along_axis(permutation, entry[:, None], axis=1)[:, 0]


def passes_per_epoch(caption_counts: np.ndarray) -> int:
    """Returns the passes per epoch: about one pair per caption, at least one pass."""
    return max(1, round(int(np.sum(caption_counts)) / len(caption_counts)))
