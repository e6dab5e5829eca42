"""Suites against the package eccv-caption, on random embeddings of COCO's test split.

    python -m benchmarks.suites [--tiny]

From 5,000 images and 25,000 captions, both sides compute metrics in both directions.
`default` are those that the package computes by default: R@1 on COCO (all images, and
five folds) and on CxC, and mAP@R and R@1 on ECCV Caption. `all` also has R@5, R@10 and
R-Precision, which vse_jax always computes. The package needs all candidates of each
query in order, so they are sorted first. Embeddings are whole numbers, whose products
are exact. Prints seconds, the median of 5 runs for vse_jax, and the largest difference
of a metric in percent. `--tiny` computes the metrics of ECCV Caption only, and sorts
only for its queries.
"""

import argparse
import contextlib
import io
import time
from typing import NamedTuple

import numpy as np

from benchmarks import timing
from vse_jax.evaluation import coco_test, eccv, retrieval
from vse_jax.evaluation.embedder import Embeddings
from vse_jax.evaluation.relevance import Relevance

DIM = 32
LARGEST = 500  # sums of DIM products of such numbers are exact in float32
TINY = "eccv_r1", "eccv_map_at_r"
DEFAULT = "coco_1k_r1", "coco_5k_r1", "cxc_r1", *TINY
RECALLS = "coco_1k_recalls", "coco_5k_recalls", "cxc_recalls"
METRICS = {"default": DEFAULT, "all": (*RECALLS, *TINY, "eccv_rprecision")}
REPEATS = 5


def random_embeddings(coco, seed=0):
    """Draws captions close to their images, so that no metric is near 0."""
    generator = np.random.default_rng(seed)
    images = generator.integers(-LARGEST, LARGEST + 1, (len(coco.image_id), DIM))
    noise = generator.integers(-LARGEST, LARGEST + 1, (len(coco.image), DIM))
    captions = (images[coco.image] + noise) // 2
    return Embeddings(images.astype(np.float32), captions.astype(np.float32))


def of_package(package, coco, embeddings, metrics):
    """Sorts the candidates and computes metrics of the package, in percent."""
    images, captions = embeddings
    sides = {
        "i2t": (coco.image_id, coco.caption_id, images, captions),
        "t2i": (coco.caption_id, coco.image_id, captions, images),
    }
    retrieved = []
    for task, (keys, candidates, queries, items) in sides.items():
        if metrics == TINY:
            is_query = np.isin(keys, list(package.eccv_gts[task]))
            keys, queries = keys[is_query], queries[is_query]
        order = np.argsort(-(queries @ items.T), axis=1)
        retrieved.append(dict(zip(keys.tolist(), candidates[order], strict=True)))
    with contextlib.redirect_stderr(io.StringIO()):  # it draws progress bars
        found = package.compute_all_metrics(*retrieved, target_metrics=metrics)
    return {
        f"{task} {name}": 100 * value
        for name, values in found.items()
        for task, value in values.items()
    }


def of_vse_jax(coco, cxc, suite, embeddings, metrics):
    """Computes all of the package's metrics, in percent."""
    found = {"eccv": suite.measure(embeddings, "cosine")}
    if metrics != TINY:
        arguments = *embeddings, np.arange(len(coco.image_id)), coco.image, "cosine"
        ranks = retrieval.rank_related(*embeddings, cxc, "cosine")
        found |= {
            "coco_5k": retrieval.recalls(retrieval.rank(*arguments)),
            "coco_1k": retrieval.evaluate_folds(*arguments),
            "cxc": retrieval.recalls(ranks),
        }
    return {
        f"{name[:3]} {ground_truth}_{name[4:]}": value
        for ground_truth, values in found.items()
        for name, value in values.items()
        if name[:4] in ("i2t_", "t2i_")
    }


def read_cxc(package, coco):
    """Returns CxC's right answers as the package has them."""
    pairs = [
        (coco.image_row[image], coco.caption_row[caption])
        for image, captions in package.cxc_gts["i2t"].items()
        for caption in captions
    ]
    return Relevance.of_pairs(*np.transpose(pairs), len(coco.image_id))


class Seconds(NamedTuple):
    """Time of a call."""

    processor: float
    wall: float


def timed(function, *arguments):
    """Calls a function; returns its result and the seconds that it took."""
    processor, wall = time.process_time(), time.perf_counter()
    result = function(*arguments)
    return result, Seconds(time.process_time() - processor, time.perf_counter() - wall)


def compare(package, coco, cxc, suite, metrics):
    """Returns what both sides take, as a row of a table."""
    embeddings = random_embeddings(coco)
    ours = coco, cxc, suite, embeddings, metrics
    of_vse_jax(*ours)  # compiles
    runs = [timed(of_vse_jax, *ours) for _ in range(REPEATS)]
    found = runs[0][0]
    seconds = Seconds(*np.median([taken for _, taken in runs], axis=0))
    expected, of_theirs = timed(of_package, package, coco, embeddings, metrics)
    difference = max(abs(expected[name] - found[name]) for name in expected)
    return {
        "values": len(expected),
        "eccv-caption CPU s": f"{of_theirs.processor:.1f}",
        "wall s": f"{of_theirs.wall:.1f}",
        "vse_jax CPU s": f"{seconds.processor:.2f}",
        "vse_jax wall s": f"{seconds.wall:.2f}",
        "CPU ratio": f"{of_theirs.processor / seconds.processor:.0f}",
        "wall ratio": f"{of_theirs.wall / seconds.wall:.0f}",
        "largest difference": f"{difference:.1e}",
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="ECCV Caption only")
    chosen = {"tiny": TINY} if parser.parse_args().tiny else METRICS
    from eccv_caption import Metrics

    package, coco = Metrics(), coco_test.read()
    cxc, suite = read_cxc(package, coco), eccv.EccvCaption.read(coco)
    rows = [
        {"metrics": name} | compare(package, coco, cxc, suite, metrics)
        for name, metrics in chosen.items()
    ]
    timing.print_table(rows)


if __name__ == "__main__":
    main()
