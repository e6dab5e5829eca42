"""Images per second of a backbone's forward pass, beside the same one in PyTorch.

    python -m benchmarks.backbones [NAME] [--batch_sizes=8,32,128]

Both sides take random pixels of the size that the backbone was published for, on two
threads in float32, in turns. PyTorch's side is the package efficientnet-lite-pytorch,
whose weights are random too; of other backbones only our side is timed.
"""

import argparse
import importlib.util

import jax
import numpy as np

from benchmarks import timing
from vse_jax import parallel
from vse_jax.models import backbones

THREADS = 2


def our_pass(name, batch):
    """One pass over uint8 `[batch, size, size, 3]`, compiled as the program does."""
    module = backbones.create_backbone(name, pooled=False)
    variables = jax.jit(module.init)(jax.random.key(0), batch[:1])
    apply = parallel.map_over_devices(backbones.fast_apply(name, module))
    variables = parallel.replicate(variables)
    image = parallel.shard({"image": batch})["image"]
    return lambda: apply(variables, image)


def pytorch_pass(name, batch):
    """The same of PyTorch's package, whose pixels are scaled already; or None."""
    if not name.startswith("efficientnet_lite"):
        print(f"PyTorch's side is left out: no package that is known has {name}.")
        return None
    if importlib.util.find_spec("efficientnet_lite_pytorch") is None:
        print("PyTorch's side is left out: pip install efficientnet-lite-pytorch")
        return None
    import torch
    from efficientnet_lite_pytorch import EfficientNet

    torch.set_num_threads(THREADS)
    model = EfficientNet.from_name(name.replace("_", "-")).eval()
    pixels = torch.from_numpy(batch.transpose(0, 3, 1, 2).astype(np.float32) / 128 - 1)

    def run():
        with torch.inference_mode():
            return model.extract_features(pixels)

    return run


def row(name, batch_size, repeats):
    size = backbones.SPECS[name].image_size
    shape = (batch_size, size, size, 3)
    batch = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    passes = {"JAX": our_pass(name, batch), "PyTorch": pytorch_pass(name, batch)}
    passes = {side: function for side, function in passes.items() if function}
    timed = timing.median_seconds(passes, repeats, warmup=1)
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
    arguments = parser.parse_args()
    batch_sizes = map(int, arguments.batch_sizes.split(","))
    rows = [row(arguments.name, size, arguments.repeats) for size in batch_sizes]
    timing.print_table(rows)


if __name__ == "__main__":
    main()
