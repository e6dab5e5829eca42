"""Vectors to be ranked, for the tests of pooling and of its kernel."""

import jax.numpy as jnp
import numpy as np


def problem(kind):
    rng = np.random.default_rng(0)
    batch, length, dim = {"long": (2, 140, 3), "edge": (2, 127, 2)}.get(kind, (5, 7, 4))
    vectors = rng.normal(size=(batch, length, dim))
    count = rng.integers(1, length + 1, batch)
    if kind == "ties":
        vectors = rng.integers(-1, 2, vectors.shape)
    elif kind == "negative":
        vectors = -1 - np.abs(vectors)
    elif kind == "single":
        count[:] = 1
    elif kind in ("whole", "edge"):
        count[:] = length
    elif kind == "long":
        count[:] = length, 130
    weights = rng.normal(size=(batch, length))
    return vectors.astype(np.float32), weights.astype(np.float32), jnp.array(count)
