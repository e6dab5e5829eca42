"""Exact search of a gallery, against NumPy and against faiss.

    pip install faiss-cpu
    python -m benchmarks.search [--tiny] [--rows=N] [--sides=NAME,NAME]

The gallery has a million rows of 512 dimensions. vse_jax reads it as float16 from disk.
NumPy (product and `argpartition`) and faiss (`IndexFlatIP`) search a float32 copy in
memory, which is made before they are timed. Each side is a process of its own on all
cores, and they take turns. `--rows=10000000 --sides=vse_jax` needs 10 GB of disk.

Prints seconds, the processor time of all threads, how many times as long as vse_jax,
and the most anonymous memory.
"""

import argparse
import os
import tempfile

import numpy as np

from benchmarks import sides, timing

SIDES = ("vse_jax", "NumPy", "faiss")
ROWS, TINY_ROWS, DIM = 1_000_000, 20_000, 512
QUERIES = (64, 1)
K = 10
REPEATS, TINY_REPEATS = 9, 2
WRITTEN_ROWS = 50_000  # rows that are drawn at a time


def random_unit_vectors(generator, number):
    vectors = generator.standard_normal((number, DIM), np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def write_gallery(folder: str, rows: int) -> None:
    from vse_jax.gallery.manifest import GalleryDescription
    from vse_jax.gallery.rows import Record
    from vse_jax.gallery.writer import GalleryWriter

    generator = np.random.default_rng(0)
    description = GalleryDescription("none", "cosine", "images", DIM)
    with GalleryWriter(folder, description) as writer:
        for start in range(0, rows, WRITTEN_ROWS):
            number = min(WRITTEN_ROWS, rows - start)
            records = [Record(f"{start + i}.jpg") for i in range(number)]
            writer.write(random_unit_vectors(generator, number), records)


def jax_search(folder: str, queries: np.ndarray):
    from vse_jax.gallery.gallery import Gallery
    from vse_jax.search import exact

    gallery = Gallery.open(folder)
    return lambda: exact.search(queries, gallery, K)


def float32_copy(folder: str) -> np.ndarray:
    from vse_jax.gallery.gallery import Gallery

    gallery = Gallery.open(folder)
    copy, start = np.empty((gallery.rows, DIM), np.float32), 0
    for block in gallery.blocks():
        copy[start : start + len(block)] = block
        start += len(block)
    return copy


def numpy_search(folder: str, queries: np.ndarray):
    embeddings = float32_copy(folder)

    def search():
        scores = queries @ embeddings.T
        rows = np.argpartition(scores, -K, axis=1)[:, -K:]
        best = np.take_along_axis(scores, rows, 1)
        order = np.argsort(-best, axis=1)
        return np.take_along_axis(best, order, 1), np.take_along_axis(rows, order, 1)

    return search


def faiss_search(folder: str, queries: np.ndarray):
    import faiss

    index = faiss.IndexFlatIP(DIM)
    index.add(float32_copy(folder))
    return lambda: index.search(queries, K)


def serve(side: str, folder: str, queries: int) -> None:
    make = {"vse_jax": jax_search, "NumPy": numpy_search, "faiss": faiss_search}[side]
    vectors = random_unit_vectors(np.random.default_rng(1), queries)
    sides.serve(make(folder, vectors), warmup=2)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help=f"{TINY_ROWS:,} rows")
    parser.add_argument("--rows", type=int, default=0, help="rows of the gallery")
    parser.add_argument("--sides", default=",".join(SIDES), help="sides to time")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--gallery", help=argparse.SUPPRESS)
    parser.add_argument("--queries", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        serve(arguments.side, arguments.gallery, arguments.queries)
        return
    number = arguments.rows or (TINY_ROWS if arguments.tiny else ROWS)
    repeats = TINY_REPEATS if arguments.tiny else REPEATS
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        write_gallery(folder, number)
        for queries in QUERIES:
            own = [f"--gallery={folder}", f"--queries={queries}"]
            names = arguments.sides.split(",")
            times = sides.in_turns("benchmarks.search", own, names, repeats)
            rows += [
                {
                    "search": name,
                    "rows": number,
                    "queries": queries,
                    "median s": timed.median,
                    "fastest s": timed.minimum,
                    "slowest s": timed.maximum,
                    "CPU s": timed.processor,
                    "times vse_jax": timed.median / times["vse_jax"].median,
                    "anonymous GB": timed.anonymous / 1e9,
                }
                for name, timed in times.items()
            ]
    timing.print_table(rows)
    print(f"\n{os.cpu_count()} cores")


if __name__ == "__main__":
    main()
