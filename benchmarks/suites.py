"""Suites against the package eccv-caption, on random embeddings of COCO's test split.

    python -m benchmarks.suites [--tiny]

From 5,000 images and 25,000 captions, both sides compute what the package computes by
default, in both directions: R@1 on COCO (all images, and five folds), R@1 on CxC, and
mAP@R and R@1 on ECCV Caption. The package needs all candidates of each query in order,
so they are sorted first. Embeddings are whole numbers, whose products are exact.
Prints seconds of processor time, and the largest difference of a metric in percent.
`--tiny` computes the metrics of ECCV Caption only, and sorts only for its queries.
"""

import argparse
import contextlib
import io
import time

import numpy as np

from benchmarks import timing
from vse_jax.evaluation import coco_test, eccv, retrieval
from vse_jax.evaluation.embedder import Embeddings
from vse_jax.evaluation.relevance import Relevance
from vse_jax.evaluation.relevant_ranks import rank_relevant

DIM = 32
LARGEST = 500  # sums of DIM products of such numbers are exact in float32
TINY_METRICS = "eccv_r1", "eccv_map_at_r"
METRICS = "coco_1k_r1", "coco_5k_r1", "cxc_r1", *TINY_METRICS


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
        if metrics == TINY_METRICS:
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
    """Computes the same metrics."""
    found = suite.measure(embeddings, "cosine")
    results = {
        f"{task} eccv_{name}": found[f"{task}_{name}"]
        for name in ("r1", "map_at_r")
        for task in ("i2t", "t2i")
    }
    if metrics == TINY_METRICS:
        return results
    images, captions = embeddings
    ids = np.arange(len(images)), coco.image
    recalls = {
        "coco_5k_r1": retrieval.recalls(retrieval.rank(*embeddings, *ids)),
        "coco_1k_r1": retrieval.evaluate_folds(*embeddings, *ids),
    }
    for name, found in recalls.items():
        results |= {f"{task} {name}": found[f"{task}_r1"] for task in ("i2t", "t2i")}
    sides = {
        "i2t": (images, captions, cxc, "images"),
        "t2i": (captions, images, cxc.transposed(len(captions)), "captions"),
    }
    for task, (queries, candidates, relevance, content) in sides.items():
        ranks = rank_relevant(
            queries, candidates, relevance, content=content, best_only=True
        )
        results[f"{task} cxc_r1"] = 100 * np.mean(ranks.best < 1)
    return results


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="ECCV Caption only")
    metrics = TINY_METRICS if parser.parse_args().tiny else METRICS
    from eccv_caption import Metrics

    package, coco = Metrics(), coco_test.read()
    suite, embeddings = eccv.EccvCaption.read(coco), random_embeddings(coco)
    pairs = [
        (coco.image_row[image], coco.caption_row[caption])
        for image, captions in package.cxc_gts["i2t"].items()
        for caption in captions
    ]
    cxc = Relevance.of_pairs(*np.transpose(pairs), len(coco.image_id))

    def timed(function, *arguments):
        start = time.process_time()
        return function(*arguments), time.process_time() - start

    ours = coco, cxc, suite, embeddings, metrics
    of_vse_jax(*ours)  # compiles
    found, seconds = timed(of_vse_jax, *ours)
    expected, package_seconds = timed(of_package, package, coco, embeddings, metrics)
    difference = max(abs(expected[name] - found[name]) for name in expected)
    timing.print_table(
        [
            {
                "metrics": len(expected),
                "eccv-caption CPU s": f"{package_seconds:.2f}",
                "vse_jax CPU s": f"{seconds:.2f}",
                "ratio": f"{package_seconds / seconds:.0f}",
                "largest difference": f"{difference:.1e}",
            }
        ]
    )


if __name__ == "__main__":
    main()
