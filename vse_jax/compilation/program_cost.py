"""The cost of a compiled program, from the text of its optimized HLO.

`cost_analysis()` of a compiled program counts the body of a loop once. Here it is
multiplied by the number of iterations. A conditional counts as its branch with the most
operations, unless the program determines the branch.
"""

import dataclasses
import re

from vse_jax.compilation import hlo, operations
from vse_jax.compilation.scalars import Scope

COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
    "collective-broadcast",
    "ragged-all-to-all",
)
# They move no data, or what they move is counted where it starts.
_FREE = (
    "after-all",
    "bitcast",
    "constant",
    "get-tuple-element",
    "iota",
    "opt-barrier",
    "parameter",
    "partition-id",
    "replica-id",
    "tuple",
)
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_TARGET = re.compile(r'custom_call_target="([^"]*)"')
_KERNEL_TARGETS = ("tpu_custom_call",)


@dataclasses.dataclass(frozen=True)
class Cost:
    """What one execution of a program costs one device.

    Attributes:
      flops: operations of dots and convolutions; a multiplication and an addition are
        two.
      bytes: bytes that are read from and written to the main memory.
      collectives: number of collective operations.
      collective_bytes: bytes of the larger of their operands and results.
      cycles: the compiler's estimate, without collectives and without waits for the
        main memory. 0 if the compiler gives none, as for CPUs.
      unknown_loops: loops whose number of iterations depends on data.
      choices: conditionals whose branch depends on data.
      kernels: hand-written kernels, whose operations are not counted.
    """

    flops: float = 0
    bytes: float = 0
    collectives: float = 0
    collective_bytes: float = 0
    cycles: float = 0
    unknown_loops: int = 0
    choices: int = 0
    kernels: float = 0

    def __add__(self, other: "Cost") -> "Cost":
        pairs = zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)
        return Cost(*(mine + its for mine, its in pairs))

    def times(self, trips: int) -> "Cost":
        """Returns the cost of several executions."""
        return dataclasses.replace(
            self,
            flops=self.flops * trips,
            bytes=self.bytes * trips,
            collectives=self.collectives * trips,
            collective_bytes=self.collective_bytes * trips,
            cycles=self.cycles * trips,
            kernels=self.kernels * trips,
        )

    def is_below(self, other: "Cost") -> bool:
        """Returns whether it is the cheaper branch of a conditional."""
        mine, its = ((c.flops, c.cycles, c.bytes, c.collectives) for c in (self, other))
        return mine < its


def program_cost(text: str, assumed_trips: int = 1) -> Cost:
    """Returns the cost of a program.

    Args:
      text: optimized HLO, as `as_text()` of a compiled program returns it.
      assumed_trips: number of iterations of a loop whose number depends on data.
    """
    module = hlo.parse(text)
    scope = Scope(module, module.entry, ())
    return _Analysis(module, assumed_trips).of_computation(scope)


class _Analysis:
    """Sums the costs of instructions."""

    def __init__(self, module: hlo.Module, assumed_trips: int):
        self._module = module
        self._assumed_trips = assumed_trips

    def of_computation(self, scope: Scope) -> Cost:
        """Returns the cost of the instructions that a device runs one by one."""
        costs = (
            self._of_instruction(scope, instruction)
            for instruction in scope.computation.instructions.values()
            if instruction.opcode not in _FREE
        )
        return sum(costs, Cost())

    def _of_instruction(self, scope, instruction):
        opcode = instruction.opcode
        if opcode == "while":
            return self._of_loop(scope, instruction)
        if opcode == "conditional":
            return self._of_conditional(scope, instruction)
        if opcode in ("call", "async-start"):
            name = instruction.attribute("to_apply") or instruction.attribute("calls")
            return self.of_computation(scope.enter(name, instruction.operands))
        if opcode.endswith(("-done", "-update")):
            return Cost()
        own = Cost(
            bytes=operations.main_memory_bytes(
                self._module, scope.computation, instruction
            ),
            cycles=sum(map(int, _CYCLES.findall(instruction.attributes)[:1])),
        )
        return own + self._of_arithmetic(scope.computation, instruction)

    def _of_loop(self, scope, instruction):
        trips, same = scope.loop(instruction)
        parts = (instruction.attribute(name) for name in ("condition", "body"))
        once = sum(
            (self.of_computation(scope.with_arguments(name, same)) for name in parts),
            Cost(),
        )
        if trips is None:
            return once.times(self._assumed_trips) + Cost(unknown_loops=1)
        return once.times(trips)

    def _of_conditional(self, scope, instruction):
        index, *operands = instruction.operands
        branches = instruction.branches
        if instruction.attribute("true_computation"):
            operands = operands[::-1]  # written as (predicate, of true, of false)
        costs = [
            self.of_computation(scope.enter(name, (operand,)))
            for name, operand in zip(branches, operands, strict=True)
        ]
        chosen = scope.value(index)
        if chosen is not None:
            return costs[min(max(0, int(chosen)), len(costs) - 1)]
        most = costs[0]
        for cost in costs[1:]:
            most = cost if most.is_below(cost) else most
        return most + Cost(choices=1)

    def _of_arithmetic(self, computation, instruction):
        """Returns the cost of products and collectives, also inside a fusion."""
        opcode = instruction.opcode
        if opcode == "fusion":
            return self._of_fusion(instruction)
        if opcode in ("dot", "convolution"):
            return Cost(flops=operations.flops(computation, instruction))
        if opcode.removesuffix("-start") in COLLECTIVES:
            sizes = [
                sum(array.bytes for array in arrays)
                for arrays in operations.operands_and_results(computation, instruction)
            ]
            return Cost(collectives=1, collective_bytes=max(sizes))
        target = _TARGET.search(instruction.attributes)
        if target and target[1] in _KERNEL_TARGETS:
            return Cost(kernels=1)
        return Cost()

    def _of_fusion(self, instruction):
        fused = self._module.computations[instruction.attribute("calls")]
        costs = [
            self._of_arithmetic(fused, inner)
            for inner in fused.instructions.values()
            if inner.opcode not in _FREE
        ]
        total = sum(costs, Cost())
        if _goes_on_with_collective(fused):
            return dataclasses.replace(total, collectives=0, collective_bytes=0)
        return total


def _goes_on_with_collective(fused):
    """Returns whether a fusion repeats a collective that an earlier one started.

    The TPU compiler runs a collective beside other fusions. It writes it in each of
    them; only the fusion with `AsyncCollectiveStart` starts it.
    """
    return fused.name.startswith("async_collective_fusion") or any(
        'custom_call_target="AsyncCollectiveDone"' in inner.attributes
        for inner in fused.instructions.values()
    )
