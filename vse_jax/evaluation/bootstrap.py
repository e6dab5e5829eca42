"""Bootstrap intervals of the metrics, over images.

A split is one sample of many possible ones. The bootstrap (Efron, "Bootstrap Methods:
Another Look at the Jackknife", 1979) draws as many images as the split has, with
replacement, and computes the metrics of the drawn images and all their captions. The
spread of the metrics over many draws shows how much of them is chance. Images are
drawn rather than captions, because captions of one image are not independent.

Ranks are not computed again: each query keeps the rank that it has among all candidates
of the split.
"""

import numpy as np

from vse_jax.data import sampling
from vse_jax.evaluation.retrieval import Ranks

RESAMPLES = 1000
CONFIDENCE = 95.0  # percent
_SEED = 0  # fixed, so that equal ranks have equal intervals
_AT_ONCE = 50  # resamples, which bounds the memory


def intervals(
    ranks: Ranks, image_id: np.ndarray, caption_image_id: np.ndarray
) -> dict[str, list[float]]:
    """Returns the `CONFIDENCE` percent interval of each metric, `[low, high]`.

    Args:
      ranks: see `retrieval.rank`.
      image_id: `[images]` int, equal for duplicate images.
      caption_image_id: `[captions]` int, ID of the image that each caption belongs to.

    Returns:
      Percentiles of the resampled metrics, by the names of `retrieval.recalls`.
    """
    drawn = resampled_metrics(ranks, image_id, caption_image_id)
    return {name: interval(values) for name, values in drawn.items()}


def interval(values: np.ndarray) -> list[float]:
    """Returns the interval of resampled values, `[resamples]`, as `[low, high]`."""
    tail = (100.0 - CONFIDENCE) / 2
    return np.percentile(values, [tail, 100.0 - tail]).tolist()


def resampled_metrics(
    ranks: Ranks, image_id: np.ndarray, caption_image_id: np.ndarray
) -> dict[str, np.ndarray]:
    """Returns the metrics of `RESAMPLES` samples of the images.

    The samples depend only on the number of images, so that the metrics of two models
    on the same split can be subtracted (a paired bootstrap).

    Args:
      ranks: see `retrieval.rank`.
      image_id: `[images]` int, equal for duplicate images.
      caption_image_id: `[captions]` int, ID of the image that each caption belongs to.

    Returns:
      float64 `[resamples]` by the names of `retrieval.recalls`.
    """
    with_caption = image_id[np.isin(image_id, caption_image_id)]
    # Duplicates of an image share its captions, so they are drawn together.
    drawable, image_of_rank = np.unique(with_caption, return_inverse=True)
    directions = {
        "i2t": (ranks.image_to_text, image_of_rank),
        "t2i": (ranks.text_to_image, np.searchsorted(drawable, caption_image_id)),
    }
    parts = [
        _metrics_of(times_drawn(numbers, len(drawable)), directions)
        for numbers in np.split(
            np.arange(RESAMPLES), range(_AT_ONCE, RESAMPLES, _AT_ONCE)
        )
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def times_drawn(resamples: np.ndarray, images: int) -> np.ndarray:
    """Returns how often each image is drawn, int64 `[resamples, images]`.

    Args:
      resamples: `[resamples]` int, numbers of the resamples.
      images: number of images; as many are drawn.
    """
    stream = sampling.RESAMPLE_STREAM
    uniform = sampling.random_uniform(_SEED, stream, resamples, count=images)
    drawn = (uniform * images).astype(np.int64)
    drawn += images * np.arange(len(drawn))[:, None]  # a range for each resample
    counts = np.bincount(drawn.ravel(), minlength=drawn.size)
    return counts.reshape(drawn.shape)


def _metrics_of(drawn, directions):
    """Computes `retrieval.recalls` of each resample, given how often images occur."""
    metrics = {}
    for direction, (ranks, image) in directions.items():
        order = np.argsort(ranks, kind="stable")
        ranks, weights = ranks[order], drawn[:, image[order]]
        cumulative = weights.cumsum(1, dtype=np.int32)
        total = cumulative[:, -1]
        for k in (1, 5, 10):
            within = np.searchsorted(ranks, k)  # the first ranks are below k
            hits = cumulative[:, within - 1] if within else np.zeros_like(total)
            metrics[f"{direction}_r{k}"] = 100.0 * hits / total
        middle = [
            ranks[(cumulative <= position[:, None]).sum(1)]
            for position in ((total - 1) // 2, total // 2)
        ]
        metrics[f"{direction}_medr"] = np.floor(np.mean(middle, axis=0)) + 1
        metrics[f"{direction}_meanr"] = weights @ ranks / total + 1
    metrics["rsum"] = sum(
        metrics[f"{direction}_r{k}"] for direction in directions for k in (1, 5, 10)
    )
    return metrics
