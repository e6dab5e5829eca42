"""One whole training step of RVSE++ with GPO against one with ESA's pooling.

    python -m benchmarks.pooling_step [--tiny]

The sizes, the batch and the turns are those of `train_step`. Both sides are vse_jax's.
"""

from benchmarks import sides
from benchmarks.rvse_sizes import TINY, Sizes
from benchmarks.train_step import BATCH_SIZE, TINY_BATCH_SIZE, random_batch

SIDES = ("gpo", "esa")  # of `config.model.pooling`


def make_step(options):
    from benchmarks import jax_step
    from configs import common

    sizes, batch_size = (
        (TINY, TINY_BATCH_SIZE) if options.tiny else (Sizes(), BATCH_SIZE)
    )
    config = common.get_config()
    config.model.update(
        embed_dim=sizes.embed_dim, word_dim=sizes.word_dim, pooling=options.side
    )
    batch = random_batch(sizes, batch_size)
    return jax_step.make_step(config, sizes.vocabulary_size, batch)


def columns(name, times):
    own = times[name]
    return {
        "CPU s": own.processor,
        "times gpo": own.median / times["gpo"].median,
    }


def main():
    sides.compare_steps(
        "benchmarks.pooling_step",
        __doc__.splitlines()[0],
        make_step,
        SIDES,
        columns,
        first="pooling",
    )


if __name__ == "__main__":
    main()
