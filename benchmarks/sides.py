"""Two sides of a comparison, each in a process of its own, timed in turns.

PyTorch and TensorFlow do not share a process: PyTorch's optimizers import its compiler,
which crashes if TensorFlow was imported before. Neither do the threads and the memory
of one side burden the other. A benchmark starts itself once for each side, with
`--side=NAME` added to its arguments, and asks them in turn for one call.
"""

import argparse
import contextlib
import dataclasses
import os
import pathlib
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from benchmarks import timing
from vse_jax import huge_pages

# Names of sides that are other libraries; the others run as main.py does.
OTHERS = ("PyTorch", "NumPy", "faiss")
REPEATS = 9  # timed steps of each side
REPOSITORY = pathlib.Path(__file__).parents[1]


def serve(
    function: Callable[[], object], warmup: int, *, untimed_seconds: float = 0
) -> None:
    """Calls a function whenever a line comes on standard input.

    Prints how long it took, the processor time of all threads, and the most anonymous
    memory of the process meanwhile.

    Args:
      function: the work of this side.
      warmup: number of calls before the first one that is timed.
      untimed_seconds: for how long to call it before the timed call of each turn. A
        training step follows another one. After the pause of a turn, its memory comes
        from the system anew, and on a virtual machine perhaps from its host. A GPU
        raises its clock first.
    """
    for _ in range(warmup):
        timing.seconds_of(function)
    print("ready", flush=True)
    for _ in sys.stdin:
        end = time.monotonic() + untimed_seconds
        while time.monotonic() < end:
            timing.seconds_of(function)
        with timing.AnonymousMemory() as memory:
            started = time.process_time()
            seconds = timing.seconds_of(function)
            processor = time.process_time() - started
        print(f"measured: {seconds!r} {processor!r} {memory.peak}", flush=True)


def in_turns(
    module: str, arguments: Sequence[str], sides: Sequence[str], repeats: int
) -> dict[str, timing.Timing]:
    """Times the sides of a benchmark in turns (A B A B ...).

    Args:
      module: the benchmark, which calls `serve` if it is started with `--side`.
      arguments: of its command line.
      sides: their names.
      repeats: number of timed calls of each side.

    Returns:
      The seconds, processor time and peak anonymous memory of each side.
    """
    measured = {side: [] for side in sides}
    with contextlib.ExitStack() as stack:
        processes = {
            side: stack.enter_context(_side(module, arguments, side)) for side in sides
        }
        for _ in range(repeats):
            for side, process in processes.items():
                time.sleep(timing.PAUSE)
                process.stdin.write("\n")
                process.stdin.flush()
                answer = _answer(process, r"measured: (\S+ \S+ \d+)").split()
                measured[side].append([float(value) for value in answer])
    return {side: _summary(*zip(*m, strict=True)) for side, m in measured.items()}


def _summary(seconds, processor, peaks):
    return dataclasses.replace(
        timing.summary(seconds),
        processor=statistics.median(processor),
        anonymous=int(max(peaks)),
    )


@contextlib.contextmanager
def _side(module, arguments, side) -> Iterator[subprocess.Popen]:
    own = {} if side in OTHERS else huge_pages.ENVIRONMENT
    with subprocess.Popen(
        [sys.executable, "-m", module, *arguments, f"--side={side}"],
        env=own | os.environ,
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            _answer(process, "(ready)")
            yield process
            process.stdin.close()
        except BaseException:
            process.kill()
            raise


def _answer(process, pattern):
    for line in process.stdout:
        if match := re.fullmatch(pattern, line.rstrip()):
            return match[1]
    sys.exit(f"a side ended with {process.wait()}: {' '.join(process.args)}")


def compare_steps(
    module: str,
    description: str,
    make_step: Callable[[argparse.Namespace], Callable[[], object]],
    sides: Sequence[str],
    columns: Callable[[str, Mapping[str, timing.Timing]], dict[str, object]],
    *,
    add_options: Callable[[argparse.ArgumentParser], None] = lambda parser: None,
    first: str = "step",
) -> None:
    """The command line of a benchmark of training steps: `--tiny`, `--side=NAME`.

    Args:
      module: the benchmark.
      description: of the benchmark, for `--help`.
      make_step: takes the options, with `side`, the name of a side, and `tiny`, whether
        it is small; returns its step.
      sides: their names.
      columns: takes the name of a side and the times of all sides; returns further
        columns of its row.
      add_options: adds further options to the parser.
      first: title of the column with the names.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--tiny", action="store_true", help="small sizes, two repeats")
    parser.add_argument("--side", choices=sides, help=argparse.SUPPRESS)
    add_options(parser)
    arguments = parser.parse_args()
    if arguments.side:
        serve(make_step(arguments), warmup=2, untimed_seconds=0.5)
        return
    repeats = 2 if arguments.tiny else REPEATS
    times = in_turns(module, sys.argv[1:], sides, repeats)
    timing.print_table(
        [
            {
                first: name,
                "median s": timed.median,
                "fastest s": timed.minimum,
                "slowest s": timed.maximum,
                **columns(name, times),
            }
            for name, timed in times.items()
        ]
    )
    print(f"\n{os.cpu_count()} cores")
