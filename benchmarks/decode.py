"""Measures how many photos per second the input pipeline decodes and augments.

    python -m benchmarks.decode [--root=FOLDER] [--tiny]

The photos of a folder, or drawn ones of 500x375 pixels, are read and turned into random
crops of 224x224 pixels, on one core and on all, each in a process of its own. Stages
add up: each line does what the line above does, and one thing more. Files are read once
before, so they come from the memory of the operating system, not from the disk.
"""

import argparse
import concurrent.futures
import functools
import multiprocessing
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks import timing

_PHOTOS, _TINY_PHOTOS = 256, 16
_SIZE = 224
_BATCH_SIZE = 64
_REPEATS = 5
_ENDINGS = (".jpg", ".jpeg", ".png")


def _draw_photos(root: Path, count: int) -> None:
    rng = np.random.default_rng(0)
    for number in range(count):
        coarse = rng.integers(0, 256, (47, 63, 3), np.uint8)
        photo = Image.fromarray(coarse).resize((500, 375), Image.BICUBIC)
        photo.save(root / f"{number}.jpg", quality=90)


def _paths(root: Path, count: int) -> list[str]:
    found = sorted(path for path in root.rglob("*") if path.suffix.lower() in _ENDINGS)
    if not found:
        raise SystemExit(f"{root}: holds no photos ({', '.join(_ENDINGS)})")
    return [str(path) for path in found[:count]]


def _stages(paths: list[str]) -> dict[str, Callable[[], None]]:
    import tensorflow as tf

    from vse_jax.data import photo_crops

    numbers = photo_crops.crop_numbers(0, np.zeros(len(paths)), np.arange(len(paths)))

    def first_pixels(encoded, decode):
        return tf.map_fn(decode, encoded, fn_output_signature=tf.uint8)

    def decode_whole(encoded):
        pixels = tf.io.decode_jpeg(encoded, 3, dct_method="INTEGER_ACCURATE")
        return pixels[0, 0]

    functions = {
        "read": lambda encoded, _: encoded,
        "+ decode": lambda encoded, _: first_pixels(encoded, decode_whole),
        "+ crop, resize": lambda encoded, own: photo_crops.random_crops(
            encoded, own, _SIZE
        ),
    }

    def run(function):
        dataset = (
            tf.data.Dataset.from_tensor_slices((paths, numbers))
            .map(lambda path, own: (tf.io.read_file(path), own))
            .batch(_BATCH_SIZE)
            .map(function, num_parallel_calls=len(os.sched_getaffinity(0)))
        )
        for _ in dataset:
            pass

    return {name: functools.partial(run, call) for name, call in functions.items()}


def _measure(cores: set[int], paths: list[str]) -> Mapping[str, float]:
    # Before TensorFlow is imported, which starts a thread for each core it may use.
    os.sched_setaffinity(0, cores)
    timings = timing.median_seconds(_stages(paths), repeats=_REPEATS, warmup=1)
    return {name: found.median for name, found in timings.items()}


def _in_own_process(cores: set[int], paths: list[str]) -> Mapping[str, float]:
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_measure, cores, paths).result()


def _rows(cores: set[int], paths: list[str]) -> list[dict[str, object]]:
    rows, before = [], 0.0
    for name, seconds in _in_own_process(cores, paths).items():
        rows.append(
            {
                "cores": len(cores),
                "stages": name,
                "photos/s": len(paths) / seconds,
                "photos/s per core": len(paths) / seconds / len(cores),
                "ms/photo of the stage": 1000 * (seconds - before) / len(paths),
            }
        )
        before = seconds
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", help="folder of photos; drawn ones if not given")
    parser.add_argument(
        "--tiny", action="store_true", help=f"{_TINY_PHOTOS} photos, all cores only"
    )
    options = parser.parse_args()
    root, count = options.root, _TINY_PHOTOS if options.tiny else _PHOTOS
    cores = os.sched_getaffinity(0)
    with tempfile.TemporaryDirectory() as folder:
        if root is None:
            _draw_photos(Path(folder), count)
        paths = _paths(Path(root or folder), count)
        few = options.tiny or len(cores) == 1
        choices = [cores] if few else [{min(cores)}, cores]
        timing.print_table([row for own in choices for row in _rows(own, paths)])


if __name__ == "__main__":
    main()
