"""Reads the text of an HLO module."""

import math
import re
from typing import NamedTuple

_BITS = {"pred": 8, "token": 0, "opaque": 0}  # else from the name, such as bf16
_ARRAY = re.compile(r"([a-z]\w*)\[([\d,<=]*)\](\{[^{}]*\})?")
_COMMENT = re.compile(r"/\*.*?\*/")
_HEADER = re.compile(r"(ENTRY )?%?([\w.\-]+) (?:.* )?\{$")
_INSTRUCTION = re.compile(r"\s+(ROOT )?%?([\w.\-]+) = ")


class Array(NamedTuple):
    """An array of a result.

    Attributes:
      dtype: HLO's name, such as `bf16`.
      shape: dimensions.
      memory: memory space, where 0 is the main memory (HBM on a TPU).
    """

    dtype: str
    shape: tuple[int, ...]
    memory: int

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """Size in bytes, without the padding of a layout."""
        bits = _BITS.get(self.dtype)
        if bits is None:
            bits = int(re.search(r"\d+", self.dtype)[0])
        return -(-self.size * bits // 8)

    @property
    def main_memory_bytes(self) -> int:
        """Size in bytes in the main memory; 0 for a scalar or an array elsewhere."""
        return 0 if self.memory or not self.shape else self.bytes


class Instruction(NamedTuple):
    """An instruction.

    Attributes:
      name: unique in its computation.
      opcode: such as `dot`.
      results: arrays of the result; several for a tuple.
      operands: names of the operands.
      literal: text between the parentheses, such as the value of a constant.
      attributes: text after the operands.
    """

    name: str
    opcode: str
    results: tuple[Array, ...]
    operands: tuple[str, ...]
    literal: str
    attributes: str

    def attribute(self, name: str) -> str:
        """Returns the text of an attribute; "" without.

        Such as `LT` of `direction`, or the name of the computation of `body`.
        """
        match = re.search(rf"\b{name}=(\{{[^}}]*\}}|[^,\s]+)", self.attributes)
        return match[1].strip("{}%") if match else ""

    @property
    def branches(self) -> tuple[str, ...]:
        """Names of the computations of a conditional, in the order of its index."""
        names = self.attribute("branch_computations")
        if names:
            return tuple(name.strip(" %") for name in names.split(","))
        # The index is a boolean, and False is 0.
        return self.attribute("false_computation"), self.attribute("true_computation")


class Computation(NamedTuple):
    """A computation of a module.

    Attributes:
      name: unique in the module.
      instructions: by name, in the order of the text.
      root: the instruction whose result is that of the computation.
    """

    name: str
    instructions: dict[str, Instruction]
    root: Instruction

    def parameters(self) -> list[Instruction]:
        """Returns the parameters in order."""
        found = [i for i in self.instructions.values() if i.opcode == "parameter"]
        return sorted(found, key=lambda parameter: int(parameter.literal))


class Module(NamedTuple):
    """A module.

    Attributes:
      computations: by name.
      entry: the computation that is run.
    """

    computations: dict[str, Computation]
    entry: Computation


def parse(text: str) -> Module:
    """Parses the text of a module, as `as_text()` of a compiled program returns it.

    Raises:
      ValueError: if the text has no entry computation.
    """
    computations, entry, name = {}, None, None
    for line in text.splitlines():
        if name is None:
            header = None if line.startswith(" ") else _HEADER.match(line)
            if header:
                name, instructions, root = header[2], {}, None
                entry = name if header[1] else entry
        elif line.startswith("}"):
            root = root or next(reversed(instructions.values()))
            computations[name] = Computation(name, instructions, root)
            name = None
        elif start := _INSTRUCTION.match(line):
            instruction = _instruction(start[2], line[start.end() :])
            instructions[instruction.name] = instruction
            root = instruction if start[1] else root
    if entry is None:
        raise ValueError("the text has no entry computation")
    return Module(computations, computations[entry])


def _instruction(name, text):
    """Parses `type opcode(operands), attributes`."""
    text = _COMMENT.sub("", text) if "/*" in text else text
    end = _closing(text, 0) + 1 if text.startswith("(") else text.index(" ")
    opening = text.index("(", end)
    closing = _closing(text, opening)
    inside = text[opening + 1 : closing]
    opcode = text[end:opening].strip()
    has_operands = opcode not in ("constant", "parameter", "iota")
    return Instruction(
        name=name,
        opcode=opcode,
        results=tuple(map(_array, _ARRAY.finditer(text[:end]))),
        operands=_operands(inside) if has_operands else (),
        literal=inside.strip(),
        attributes=text[closing + 1 :],
    )


def _array(match):
    dtype, shape, layout = match.groups()
    sizes = [int(size.strip("<=")) for size in shape.split(",") if size]
    space = re.search(r"S\((\d+)\)", layout or "")
    return Array(dtype, tuple(sizes), int(space[1]) if space else 0)


def _operands(text):
    """Returns the names in `%a, f32[2]{0} %b`; not all texts have types or `%`."""
    if "%" in text:
        return tuple(re.findall(r"%([\w.\-]+)", text))
    text = re.sub(r"\{[^}]*\}|\[[^\]]*\]", "", text)
    return tuple(part.split()[-1] for part in text.split(",") if part.strip())


def _closing(text, opening):
    """Returns the position of the parenthesis that closes the one at `opening`."""
    depth = 0
    for match in re.compile(r"[()]").finditer(text, opening):
        depth += 1 if match[0] == "(" else -1
        if not depth:
            return match.start()
    raise ValueError(f"no closing parenthesis: {text[:80]}")
