"""Compiles programs for a topology and measures what they cost."""

import dataclasses
import functools
import logging
import re
import time
from collections.abc import Sequence

import jax

from vse_jax import compile_ahead
from vse_jax.compilation.chips import GIB
from vse_jax.compilation.program_cost import Cost, program_cost
from vse_jax.compilation.programs import Program
from vse_jax.compilation.topology import Topology
from vse_jax.errors import TrainingError, is_lack_of_device_memory, one_line

logger = logging.getLogger(__name__)

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": GIB, "T": 2**40}


@dataclasses.dataclass(frozen=True)
class Measured:
    """A program and its cost on one device.

    Attributes:
      program: the program.
      topology: where it runs.
      seconds: time to compile it.
      refusal: why it does not fit the memory; "" if it fits. The rest is 0 otherwise.
      argument_bytes: arguments in HBM.
      temporary_bytes: temporary arrays in HBM.
      peak_bytes: most HBM that is in use at a time, with `program.other_bytes`.
      code_bytes: size of the executable.
      cost: what one execution costs.
    """

    program: Program
    topology: Topology
    seconds: float
    refusal: str = ""
    argument_bytes: int = 0
    temporary_bytes: int = 0
    peak_bytes: int = 0
    code_bytes: int = 0
    cost: Cost = dataclasses.field(default_factory=Cost)

    @property
    def estimate(self) -> float:
        """Seconds of one execution by the compiler's cycles."""
        return self.cost.cycles / self.topology.chip.clock

    @property
    def roofline(self) -> float:
        """Seconds of one execution at the full speed of the chip or of its memory."""
        chip = self.topology.chip
        return max(
            self.cost.flops / chip.peak_flops, self.cost.bytes / chip.hbm_bandwidth
        )

    @property
    def step_seconds(self) -> float:
        """The larger of the estimate and the roofline."""
        return max(self.estimate, self.roofline)

    @property
    def collective_seconds(self) -> float:
        """Seconds to send the bytes of the collectives at full speed."""
        return self.cost.collective_bytes / self.topology.chip.ici_bandwidth

    @property
    def rows_per_second(self) -> float:
        """Pairs, images or captions per second of all devices together."""
        return self.program.size / self.step_seconds if self.step_seconds else 0.0

    @property
    def mfu(self) -> float:
        """Share of the chip's peak operations, 0 to 1."""
        possible = self.step_seconds * self.topology.chip.peak_flops
        return self.cost.flops / possible if possible else 0.0


def measure_all(programs: Sequence[Program], topology: Topology) -> list[Measured]:
    """Compiles programs, several at a time where there are cores; logs progress."""
    found = {}

    def store(program):
        found[program.name] = one = measure(program, topology)
        what = "does not fit, refused" if one.refusal else "compiled"
        logger.info("%s: %s in %.0f s", program.name, what, one.seconds)

    compile_ahead.compile_all(
        [
            compile_ahead.Compilation(p.name, functools.partial(store, p))
            for p in programs
        ],
        should_stop=lambda: False,
    )
    return [found[program.name] for program in programs]


def measure(program: Program, topology: Topology) -> Measured:
    """Compiles a program for a topology.

    Raises:
      TrainingError: if the compiler fails for another reason than a lack of memory.
    """
    start = time.monotonic()
    try:
        compiled = program.lower().compile()
    except jax.errors.JaxRuntimeError as error:
        if not is_lack_of_device_memory(error):
            raise TrainingError(
                f"{program.name}: libtpu cannot compile it for {topology.name} "
                f"({one_line(error)})"
            ) from error
        seconds = time.monotonic() - start
        return Measured(program, topology, seconds, refusal=refusal(error))
    seconds = time.monotonic() - start
    memory = compiled.memory_analysis()
    peak_bytes = memory.peak_memory_in_bytes + program.other_bytes
    if peak_bytes > topology.chip.hbm_bytes:
        needed = _needed(program, peak_bytes, topology)
        return Measured(program, topology, seconds, refusal=needed)
    return Measured(
        program,
        topology,
        seconds,
        argument_bytes=memory.argument_size_in_bytes,
        temporary_bytes=memory.temp_size_in_bytes,
        peak_bytes=peak_bytes,
        code_bytes=memory.generated_code_size_in_bytes,
        cost=program_cost(compiled.as_text(), program.steps_of_sequences),
    )


def _needed(program, peak_bytes, topology):
    """Returns what a program needs, if it fits only without resident features."""
    sizes = peak_bytes, program.other_bytes, topology.chip.hbm_bytes
    total, features, available = (size / GIB for size in sizes)
    return (
        f"needs {total:.2f} GiB (program {total - features:.2f} GiB, features "
        f"{features:.2f} GiB) of {available:.2f} GiB of HBM per device"
    )


def refusal(error: Exception) -> str:
    """Returns what a program needs of the HBM, from the compiler's message.

    It says `required for HLO temporaries (38.77G) exceeds available HBM (15.75G)`, or
    `Used 18.5G of 15.75G hbm`, followed by `program 18.2G` and `arguments 200.0M`.
    """
    text = " ".join(str(error).split())
    size = r"([\d.]+)([KMGT]?)"
    both = re.search(rf"Used {size} of {size} hbm", text)
    what = "needs"
    if not both:
        both = re.search(rf"\({size}\) exceeds available HBM \({size}\)", text)
        what = "needs for temporary arrays alone"
    if not both:
        return one_line(error)
    needed, available = (
        float(both[place]) * _UNITS[both[place + 1]] / GIB for place in (1, 3)
    )
    parts = [
        f"{name} {float(part[1]) * _UNITS[part[2]] / GIB:.2f} GiB"
        for name in ("program", "arguments")
        if (part := re.search(rf"\b{name}:? {size}\b", text))
    ]
    detail = f" ({', '.join(parts)})" if parts else ""
    return f"{what} {needed:.2f} GiB{detail} of {available:.2f} GiB of HBM per device"
