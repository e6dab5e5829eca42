"""A whole training step of JAX, which benchmarks time against PyTorch."""

from collections.abc import Callable

import jax
import ml_collections
import numpy as np
import optax

from vse_jax import parallel
from vse_jax.models.vse import create_model
from vse_jax.optimizer import create_optimizer
from vse_jax.train_step import create_train_state, make_train_step


def make_step(
    config: ml_collections.ConfigDict,
    vocabulary_size: int,
    batch: dict[str, np.ndarray],
) -> Callable[[], object]:
    """Returns a function that sends the batch to the device and trains on it."""
    if config.dtype != "bfloat16":
        jax.config.update("jax_default_matmul_precision", "float32")  # as PyTorch's
    model = create_model(
        config, vocabulary_size, train=True, gather_over_devices=parallel.gather
    )
    schedule = optax.constant_schedule(config.optimizer.learning_rate)
    optimizer = create_optimizer(config.optimizer, schedule)
    state = parallel.replicate(create_train_state(model, optimizer, batch, seed=0))
    step = parallel.map_over_devices(
        make_train_step(model, optimizer, schedule, config.loss, config.loss.mining),
        (parallel.REPLICATED, parallel.SPLIT),
        parallel.REPLICATED,
        donate_argnums=0,
    )

    def run():
        nonlocal state
        state, metrics = step(state, parallel.shard(batch))
        return state, metrics

    return run
