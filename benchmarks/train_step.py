"""One whole training step of RVSE++ against the same model in PyTorch.

    pip install torch
    python -m benchmarks.train_step

The paper's size: 128 pairs, 36 regions of 2,048 dimensions, embeddings of 1,024, words
of 300, a vocabulary of 8,481, captions of about 12 words and at most 24 tokens. Both
sides take turns in one process, on all cores; a table of seconds is printed, and how
many times faster the median step of JAX is.
"""

import os

import jax
import numpy as np
import optax
import torch

from benchmarks import pytorch_rvse, timing
from configs import common
from vse_jax import parallel
from vse_jax.models.vse import create_model
from vse_jax.optimizer import create_optimizer
from vse_jax.train_step import create_train_state, make_train_step

REGIONS = 36
MEAN_TOKENS, TOKENS_DEVIATION = 14, 3.5  # start and end included
MAX_TOKENS = 24
REPEATS = 9


def random_batch(sizes: pytorch_rvse.Sizes, batch_size: int) -> dict[str, np.ndarray]:
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


def jax_step(sizes: pytorch_rvse.Sizes, batch: dict[str, np.ndarray]):
    config = common.get_config()
    model = create_model(
        config,
        sizes.vocabulary_size,
        train=True,
        sum_over_devices=parallel.sum_over_devices,
    )
    schedule = optax.constant_schedule(config.optimizer.learning_rate)
    optimizer = create_optimizer(config.optimizer, schedule)
    state = parallel.replicate(create_train_state(model, optimizer, batch, seed=0))
    step = parallel.map_over_devices(
        make_train_step(model, optimizer, schedule, config.loss, config.loss.mining),
        donate_argnums=0,
    )

    def run():
        nonlocal state
        state, metrics = step(state, parallel.shard(batch))
        return state, metrics

    return run


def main():
    torch.set_num_threads(os.cpu_count())
    sizes = pytorch_rvse.Sizes()
    batch = random_batch(sizes, common.get_config().batch_size)
    torch_step = pytorch_rvse.make_train_step(sizes)
    times = timing.median_seconds(
        {"JAX": jax_step(sizes, batch), "PyTorch": lambda: torch_step(batch)},
        repeats=REPEATS,
        warmup=2,
    )
    timing.print_table(
        [
            {
                "step": name,
                "median s": f"{timed.median:.2f}",
                "fastest s": f"{timed.minimum:.2f}",
                "slowest s": f"{timed.maximum:.2f}",
                "times PyTorch": f"{times['PyTorch'].median / timed.median:.2f}",
            }
            for name, timed in times.items()
        ]
    )
    print(f"\n{jax.device_count()} device(s), {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
