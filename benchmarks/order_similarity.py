"""The order similarities of a batch and their gradient, plain and as trained.

    python -m benchmarks.order_similarity [--tiny]

Both sides compute the similarities of 128 images and 128 captions of 1,024 dimensions,
and the gradient of their sum. `plain` is XLA's gradient, which stores the differences
of all pairs. `parts` is `models/kernels/violation_norm.py`.
"""

from benchmarks import sides

SIDES = ("plain", "parts")
PAIRS, DIM = 128, 1024


def make_step(options):
    import jax
    import numpy as np

    from vse_jax.models.kernels import violation_norm

    norms = violation_norm.plain_norm, violation_norm.violation_norm
    norm = norms[SIDES.index(options.side)]
    pairs = 8 if options.tiny else PAIRS
    rng = np.random.default_rng(0)
    embeddings = np.abs(rng.normal(size=(2, pairs, DIM))).astype(np.float32)
    compute = jax.jit(
        jax.value_and_grad(lambda *pair: norm(*pair).sum(), argnums=(0, 1))
    )
    return lambda: jax.block_until_ready(compute(*embeddings))


def columns(name, times):
    own = times[name]
    return {
        "CPU s": own.processor,
        "times as fast": times["plain"].median / own.median,
    }


def main():
    sides.compare_steps(
        "benchmarks.order_similarity",
        __doc__.splitlines()[0],
        make_step,
        SIDES,
        columns,
        first="gradient",
    )


if __name__ == "__main__":
    main()
