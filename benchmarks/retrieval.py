"""Ranking 5,000 images against 25,000 captions, both ways, with all metrics.

    python -m benchmarks.retrieval [--tiny]

Prints seconds and the peak of the process's memory.
"""

import argparse
import resource

import numpy as np

from benchmarks import timing
from vse_jax.evaluation import retrieval

IMAGES, CAPTIONS_PER_IMAGE, DIM = 5_000, 5, 1_024
TINY_IMAGES = 50
REPEATS = 5


def random_unit_vectors(generator, number):
    vectors = generator.standard_normal((number, DIM), np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help=f"{TINY_IMAGES} images")
    number = TINY_IMAGES if parser.parse_args().tiny else IMAGES
    generator = np.random.default_rng(0)
    images = random_unit_vectors(generator, number)
    captions = random_unit_vectors(generator, number * CAPTIONS_PER_IMAGE)
    image_id = np.arange(number)
    caption_image_id = np.repeat(image_id, CAPTIONS_PER_IMAGE)

    def evaluate():
        ranks = retrieval.rank(images, captions, image_id, caption_image_id, "cosine")
        return retrieval.recalls(ranks)

    timed = timing.median_seconds({"rank": evaluate}, repeats=REPEATS, warmup=1)["rank"]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    timing.print_table(
        [
            {
                "images": number,
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
