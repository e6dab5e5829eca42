"""One whole training step of RVSE++ with GPO against one with ESA's pooling.

    python -m benchmarks.pooling_step [--tiny]

The sizes, the batch and the turns are those of `train_step`. Both sides are vse_jax's.
"""

import argparse
import os

from benchmarks import jax_step, sides, timing
from benchmarks.rvse_sizes import TINY, Sizes
from benchmarks.train_step import BATCH_SIZE, REPEATS, TINY_BATCH_SIZE, random_batch

SIDES = ("gpo", "esa")  # of `config.model.pooling`


def make_step(pooling: str, sizes: Sizes, batch_size: int):
    from configs import common

    config = common.get_config()
    config.model.update(
        embed_dim=sizes.embed_dim, word_dim=sizes.word_dim, pooling=pooling
    )
    batch = random_batch(sizes, batch_size)
    return jax_step.make_step(config, sizes.vocabulary_size, batch)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="small sizes, two repeats")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    tiny = arguments.tiny
    if arguments.side:
        sizes, batch_size = (TINY, TINY_BATCH_SIZE) if tiny else (Sizes(), BATCH_SIZE)
        step = make_step(arguments.side, sizes, batch_size)
        sides.serve(step, warmup=2, untimed=1)
        return
    own, repeats = (["--tiny"], 2) if tiny else ([], REPEATS)
    times = sides.in_turns("benchmarks.pooling_step", own, SIDES, repeats)
    timing.print_table(
        [
            {
                "pooling": name,
                "median s": timed.median,
                "fastest s": timed.minimum,
                "slowest s": timed.maximum,
                "processor s": timed.processor,
                "times gpo": timed.median / times["gpo"].median,
            }
            for name, timed in times.items()
        ]
    )
    print(f"\n{os.cpu_count()} cores")


if __name__ == "__main__":
    main()
