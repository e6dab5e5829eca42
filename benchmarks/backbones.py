"""Images per second of a backbone's forward pass, beside the same one in PyTorch.

    python -m benchmarks.backbones [NAME] [--batch_sizes=8,32,128] [--tiny]

Both sides take random pixels of the size that the backbone was published for, on two
threads in float32. Each side is a process of its own, and they take turns. PyTorch's
side is the package efficientnet-lite-pytorch, whose weights are random too. For other
backbones, and without that package, only our side is timed.
"""

import argparse
import importlib.util

import numpy as np

from benchmarks import sides, timing

THREADS = 2
TINY_SIZE = 64  # pixels


def our_pass(name, batch):
    """One pass over uint8 `[batch, size, size, 3]`, compiled as the program does."""
    import jax

    from vse_jax import parallel
    from vse_jax.models import backbones

    module = backbones.create_backbone(name, pooled=False)
    variables = jax.jit(module.init)(jax.random.key(0), batch[:1])
    apply = parallel.map_over_devices(
        backbones.fast_apply(backbones.SPECS[name], module),
        (parallel.REPLICATED, parallel.SPLIT),
        parallel.SPLIT,
    )
    variables = parallel.replicate(variables)
    image = parallel.shard({"image": batch})["image"]
    return lambda: apply(variables, image)


def pytorch_pass(name, batch):
    """The same of PyTorch's package, whose pixels are scaled already."""
    import torch
    from efficientnet_lite_pytorch import EfficientNet

    torch.set_num_threads(THREADS)
    model = EfficientNet.from_name(name.replace("_", "-")).eval()
    pixels = torch.from_numpy(batch.transpose(0, 3, 1, 2).astype(np.float32) / 128 - 1)

    def run():
        with torch.inference_mode():
            return model.extract_features(pixels)

    return run


PASSES = {"JAX": our_pass, "PyTorch": pytorch_pass}


def sides_of(name):
    """The sides that can be timed; says why PyTorch's is left out."""
    if not name.startswith("efficientnet_lite"):
        print(f"PyTorch's side is left out: no package that is known has {name}.")
        return ("JAX",)
    if importlib.util.find_spec("efficientnet_lite_pytorch") is None:
        print("PyTorch's side is left out: pip install efficientnet-lite-pytorch")
        return ("JAX",)
    return tuple(PASSES)


def serve(side, name, batch_size, size):
    shape = (batch_size, size, size, 3)
    batch = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    sides.serve(PASSES[side](name, batch), warmup=1)


def row(name, batch_size, size, repeats):
    own = [name, f"--batch_sizes={batch_size}", f"--size={size}"]
    timed = sides.in_turns("benchmarks.backbones", own, sides_of(name), repeats)
    rates = {side: batch_size / timed[side].median for side in timed}
    cells = {f"{side} images/s": rate for side, rate in rates.items()}
    if "PyTorch" in rates:
        cells["ratio"] = rates["JAX"] / rates["PyTorch"]
    return {"backbone": name, "batch": batch_size} | cells


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", nargs="?", default="efficientnet_lite0")
    parser.add_argument("--batch_sizes", default="8,32,128")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--size", type=int, help="pixels; as published if not given")
    parser.add_argument("--tiny", action="store_true", help="2 small images, 2 repeats")
    parser.add_argument("--side", choices=tuple(PASSES), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        size = int(arguments.batch_sizes)
        serve(arguments.side, arguments.name, size, arguments.size)
        return
    batch_sizes = map(int, arguments.batch_sizes.split(","))
    size, repeats = arguments.size, arguments.repeats
    if arguments.tiny:
        batch_sizes, size, repeats = [2], TINY_SIZE, 2
    elif not size:
        from vse_jax.models import backbones

        size = backbones.SPECS[arguments.name].image_size
    timing.print_table(
        [row(arguments.name, batch_size, size, repeats) for batch_size in batch_sizes]
    )


if __name__ == "__main__":
    main()
