"""Ranking 5,000 images against 25,000 captions, both ways, with all metrics.

    python -m benchmarks.retrieval

Prints seconds and the peak of the process's memory.
"""

import resource

import numpy as np

from benchmarks import timing
from vse_jax.evaluation import retrieval

IMAGES, CAPTIONS_PER_IMAGE, DIM = 5_000, 5, 1_024
REPEATS = 5


def random_unit_vectors(generator, number):
    vectors = generator.standard_normal((number, DIM), np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def main():
    generator = np.random.default_rng(0)
    images = random_unit_vectors(generator, IMAGES)
    captions = random_unit_vectors(generator, IMAGES * CAPTIONS_PER_IMAGE)
    image_id = np.arange(IMAGES)
    caption_image_id = np.repeat(image_id, CAPTIONS_PER_IMAGE)

    def evaluate():
        ranks = retrieval.rank(images, captions, image_id, caption_image_id)
        return retrieval.recalls(ranks)

    timed = timing.median_seconds({"rank": evaluate}, repeats=REPEATS, warmup=1)["rank"]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    timing.print_table(
        [
            {
                "images": IMAGES,
                "captions": len(captions),
                "dimensions": DIM,
                "median s": f"{timed.median:.2f}",
                "fastest s": f"{timed.minimum:.2f}",
                "slowest s": f"{timed.maximum:.2f}",
                "peak memory GB": f"{peak:.2f}",
            }
        ]
    )


if __name__ == "__main__":
    main()
