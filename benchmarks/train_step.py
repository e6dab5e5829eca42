"""One whole training step of RVSE++ against the same model in PyTorch.

    pip install torch
    python -m benchmarks.train_step [--tiny] [--batch_size=128] [--dtype=bfloat16]

The paper's size: 128 pairs, 36 regions of 2,048 dimensions, embeddings of 1,024, words
of 300, a vocabulary of 8,481, captions of about 12 words and at most 24 tokens. Each
side is a process of its own, on a GPU if it finds one, and else on all cores. They take
turns. The batch starts in the host's memory. With bfloat16, PyTorch uses autocast. A
table of seconds is printed, and how many times faster the median step of JAX is.
"""

import os

import numpy as np

from benchmarks import sides
from benchmarks.rvse_sizes import TINY, Sizes

SIDES = ("JAX", "PyTorch")
REGIONS = 36
MEAN_TOKENS, TOKENS_DEVIATION = 14, 3.5  # start and end included
MAX_TOKENS = 24
BATCH_SIZE, TINY_BATCH_SIZE = 128, 8


def random_batch(sizes: Sizes, batch_size: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    lengths = generator.normal(MEAN_TOKENS, TOKENS_DEVIATION, batch_size).round()
    token_count = np.clip(lengths, 5, MAX_TOKENS).astype(np.int32)
    shape = (batch_size, MAX_TOKENS)
    tokens = generator.integers(4, sizes.vocabulary_size, shape, np.int32)
    tokens[np.arange(MAX_TOKENS) >= token_count[:, None]] = 0
    regions = generator.normal(size=(batch_size, REGIONS, sizes.region_dim))
    return {
        "tokens": tokens,
        "token_count": token_count,
        "image_id": np.arange(batch_size, dtype=np.int32),
        "regions": regions.astype(np.float16),
        "region_count": np.full(batch_size, REGIONS, np.int32),
    }


def jax_side(sizes: Sizes, batch: dict[str, np.ndarray], dtype: str):
    from benchmarks import jax_step
    from configs import common

    config = common.get_config()
    config.dtype = dtype
    config.model.embed_dim, config.model.word_dim = sizes.embed_dim, sizes.word_dim
    return jax_step.make_step(config, sizes.vocabulary_size, batch)


def pytorch_step(sizes: Sizes, batch: dict[str, np.ndarray], dtype: str):
    import torch

    from benchmarks import pytorch_rvse

    torch.set_num_threads(os.cpu_count())
    torch.set_default_device("cuda" if torch.cuda.is_available() else "cpu")
    step = pytorch_rvse.make_train_step(sizes, autocast=dtype == "bfloat16")
    return lambda: step(batch)


def make_step(options):
    sizes = TINY if options.tiny else Sizes()
    batch_size = TINY_BATCH_SIZE if options.tiny else options.batch_size
    make = {"JAX": jax_side, "PyTorch": pytorch_step}[options.side]
    return make(sizes, random_batch(sizes, batch_size), options.dtype)


def add_options(parser):
    parser.add_argument("--batch_size", type=int, default=BATCH_SIZE, help="pairs")
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        default="float32",
        help="of products",
    )


def columns(name, times):
    return {"times PyTorch": times["PyTorch"].median / times[name].median}


def main():
    description = __doc__.splitlines()[0]
    sides.compare_steps(
        "benchmarks.train_step",
        description,
        make_step,
        SIDES,
        columns,
        add_options=add_options,
    )


if __name__ == "__main__":
    main()
