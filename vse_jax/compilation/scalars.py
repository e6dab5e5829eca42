"""Evaluates integers of an HLO module, such as the bounds of its loops.

The final text of a TPU program does not say how often a loop runs. A counter and its
bound are integers that the text determines, so the loop is run on them alone.
"""

import operator
import re
from collections.abc import Callable
from typing import NamedTuple

from vse_jax.compilation.hlo import Computation, Instruction, Module

MOST_TRIPS = 100_000  # a longer loop counts as one of unknown length
_ALIKE = ("bitcast", "convert", "copy", "copy-done", "copy-start", "reshape")
_COMPARE = {
    "EQ": operator.eq,
    "NE": operator.ne,
    "LT": operator.lt,
    "LE": operator.le,
    "GT": operator.gt,
    "GE": operator.ge,
}
_FUNCTIONS: dict[str, Callable] = {
    "add": operator.add,
    "subtract": operator.sub,
    "multiply": operator.mul,
    "minimum": min,
    "maximum": max,
    "and": operator.and_,
    "or": operator.or_,
    "not": operator.not_,
    "negate": operator.neg,
    "clamp": lambda low, value, high: max(low, min(value, high)),
    "select": lambda condition, yes, no: yes if condition else no,
}

# A known integer, a list with one item for each element of a tuple, or None.
Value = int | list | None


class Scope(NamedTuple):
    """A computation with what is known of its arguments.

    Attributes:
      module: module of the computation.
      computation: computation.
      arguments: value of each parameter.
    """

    module: Module
    computation: Computation
    arguments: tuple[Value, ...]

    def enter(self, name: str, operands: tuple[str, ...]) -> "Scope":
        """Returns the scope of a computation that is called with these operands."""
        arguments = tuple(self.value(operand) for operand in operands)
        return Scope(self.module, self.module.computations[name], arguments)

    def with_arguments(self, name: str, *arguments: Value) -> "Scope":
        """Returns the scope of a computation with these arguments."""
        return Scope(self.module, self.module.computations[name], arguments)

    def value(self, name: str) -> Value:
        """Returns the value of an instruction; None if it is unknown."""
        instruction = self.computation.instructions[name]
        opcode, operands = instruction.opcode, instruction.operands
        if opcode == "constant":
            return _literal(instruction)
        if opcode == "parameter":
            number = int(instruction.literal)
            return self.arguments[number] if number < len(self.arguments) else None
        if opcode == "tuple":
            return [self.value(operand) for operand in operands]
        if opcode == "get-tuple-element":
            items = self.value(operands[0])
            index = int(instruction.attribute("index"))
            return items[index] if isinstance(items, list) else None
        if opcode == "while":
            return self.loop(instruction)[1]
        return self._scalar(instruction)

    def _scalar(self, instruction):
        opcode, operands = instruction.opcode, instruction.operands
        if instruction.results[0].size != 1:
            return None
        if opcode == "fusion":
            inner = self.enter(instruction.attribute("calls"), operands)
            return inner.value(inner.computation.root.name)
        if opcode in _ALIKE:
            return self.value(operands[0])
        function = _FUNCTIONS.get(opcode)
        if opcode == "compare":
            function = _COMPARE[instruction.attribute("direction")]
        if function is None:
            return None
        values = [self.value(operand) for operand in operands]
        return None if None in values else function(*values)

    def loop(self, instruction: Instruction) -> tuple[int | None, list]:
        """Returns how often a loop runs, and what is the same in all its iterations.

        Args:
          instruction: a `while` of this computation.

        Returns:
          The number of iterations, None if it is unknown, and the values of the loop's
          state, None for those that change.
        """
        state = self.value(instruction.operands[0])
        if not isinstance(state, list):
            return None, [None] * len(instruction.results)
        first = self._next(instruction, state)
        same = [a if a == b else None for a, b in zip(state, first, strict=True)]
        trips, seen = 0, state
        while trips <= MOST_TRIPS:
            condition = self.with_arguments(instruction.attribute("condition"), seen)
            continues = condition.value(condition.computation.root.name)
            if continues is None:
                return None, same
            if not continues:
                return trips, same
            trips += 1
            seen = self._next(instruction, seen)
        return None, same

    def _next(self, instruction, state):
        body = self.with_arguments(instruction.attribute("body"), state)
        after = body.value(body.computation.root.name)
        return after if isinstance(after, list) else [None] * len(state)


def _literal(instruction):
    array = instruction.results[0]
    if array.size != 1 or not re.fullmatch(r"[su]\d+|pred", array.dtype):
        return None
    text = instruction.literal.strip("{} ")
    return text == "true" if array.dtype == "pred" else int(text)
