"""Operations and memory traffic of single HLO instructions."""

import functools
import itertools
import math
import re
from collections.abc import Iterable

from vse_jax.compilation.hlo import Array, Computation, Instruction, Module

_SLICES = ("dynamic-slice", "gather", "slice")
_VIEWS = ("bitcast", "reshape")
_NO_TRAFFIC = ("AllocateBuffer", "AssumeGatherIndicesInBound", "ConcatBitcast")


def operands_and_results(
    computation: Computation, instruction: Instruction
) -> tuple[list[Array], list[Array]]:
    """Returns the arrays of all operands and those of the result.

    The result of `...-start` also contains the operands, which are left out.
    """
    operands = [
        array
        for name in instruction.operands
        for array in computation.instructions[name].results
    ]
    results = list(instruction.results)
    if instruction.opcode.endswith("-start"):
        for array in operands:
            if array in results:
                results.remove(array)
    return operands, results


def flops(computation: Computation, instruction: Instruction) -> int:
    """Returns the operations of a `dot` or a `convolution`."""
    left, right = (
        computation.instructions[name].results[0] for name in instruction.operands[:2]
    )
    if instruction.opcode == "dot":
        contracted = instruction.attribute("lhs_contracting_dims")
        sizes = (left.shape[int(axis)] for axis in contracted.split(",") if axis)
        return 2 * instruction.results[0].size * math.prod(sizes)
    return _convolution_flops(instruction, left, right)


def _convolution_flops(instruction, left, right):
    """Counts the products of a convolution, except those with its padding.

    The TPU compiler writes all products of matrices as convolutions.
    """
    labels, result = instruction.attribute("dim_labels"), instruction.results[0]
    of_left, of_right, of_result = re.fullmatch(r"(\w+)_(\w+)->(\w+)", labels).groups()
    window = _window(instruction)
    pixels = 1
    for number in range(len(of_left) - 2):
        axis = str(number)
        pixels *= _products_along(
            left.shape[of_left.index(axis)],
            right.shape[of_right.index(axis)],
            result.shape[of_result.index(axis)],
            window[number],
        )
    groups, batches = (
        int(instruction.attribute(name) or 1)
        for name in ("feature_group_count", "batch_group_count")
    )
    inputs = left.shape[of_left.index("f")] // groups
    batch = left.shape[of_left.index("b")] // batches
    return 2 * batch * inputs * result.shape[of_result.index("f")] * pixels


def _window(instruction):
    """Returns (padding before, stride, spacing of input, spacing of kernel) per axis.

    Text such as `window={size=3x3 stride=2x2 pad=1_1x1_1 rhs_dilate=2x2}`.
    """
    text = dict(
        item.split("=") for item in instruction.attribute("window").split() if item
    )
    axes = len(text.get("size", "").split("x")) if text else 0

    def numbers(name, default):
        return [
            int(part.split("_")[0])
            for part in text.get(name, "x".join([default] * axes)).split("x")
        ]

    if not axes:
        return []
    names = (("pad", "0_0"), ("stride", "1"), ("lhs_dilate", "1"), ("rhs_dilate", "1"))
    return list(zip(*(numbers(*name) for name in names), strict=True))


@functools.cache
def _products_along(inputs, kernel, outputs, window):
    """Returns how many products an axis has whose input is not padding or spacing."""
    before, stride, input_spacing, kernel_spacing = window
    count = 0
    for output, tap in itertools.product(range(outputs), range(kernel)):
        place = output * stride + tap * kernel_spacing - before
        count += place % input_spacing == 0 and 0 <= place // input_spacing < inputs
    return count


def main_memory_bytes(
    module: Module, computation: Computation, instruction: Instruction
) -> int:
    """Returns the bytes that an instruction reads from and writes to main memory.

    An operand that is only sliced counts as its slice. An update in place counts as the
    update.
    """
    if any(f'"{target}"' in instruction.attributes for target in _NO_TRAFFIC):
        return 0
    opcode = instruction.opcode
    operands, results = operands_and_results(computation, instruction)
    if opcode == "fusion":
        return _fusion_bytes(module, computation, instruction)
    if opcode in _SLICES or opcode == "slice-start":
        source = operands[0]
        moved = max((array.bytes for array in results), default=0)
        read = moved if not source.memory else 0
        return read + _sum_of(results)
    if opcode == "dynamic-update-slice":
        update = operands[1]
        written = 0 if results[0].memory else update.bytes
        return update.main_memory_bytes + written
    return _sum_of(operands) + _sum_of(results)


def _sum_of(arrays: Iterable[Array]) -> int:
    return sum(array.main_memory_bytes for array in arrays)


def _fusion_bytes(module, computation, instruction):
    fused = module.computations[instruction.attribute("calls")]
    read = 0
    for name, parameter in zip(instruction.operands, fused.parameters(), strict=True):
        operand = computation.instructions[name].results
        if _sum_of(operand):
            read += min(_sum_of(operand), _bytes_read(module, fused, parameter.name))
    return read + _bytes_written(fused, instruction)


def _bytes_read(module, fused, name):
    """Returns how much of an instruction's result the others of a fusion read."""
    whole = sum(array.bytes for array in fused.instructions[name].results)
    if fused.root.name == name:
        return whole
    read = 0
    for user in fused.instructions.values():
        if name not in user.operands:
            continue
        if user.opcode in _SLICES and user.operands[0] == name:
            read += user.results[0].bytes
        elif user.opcode == "dynamic-update-slice" and user.operands[0] == name:
            pass  # in place
        elif user.opcode in _VIEWS:
            read += _bytes_read(module, fused, user.name)
        elif user.opcode == "fusion":
            inner = module.computations[user.attribute("calls")]
            parameters = inner.parameters()
            for operand, parameter in zip(user.operands, parameters, strict=True):
                if operand == name:
                    read += _bytes_read(module, inner, parameter.name)
        else:
            return whole
    return min(whole, read)


def _bytes_written(fused, instruction):
    """Returns how much of its results in main memory a fusion writes."""
    roots = [fused.root]
    if fused.root.opcode == "tuple":
        roots = [fused.instructions[name] for name in fused.root.operands]
    if len(roots) != len(instruction.results):
        return _sum_of(instruction.results)
    written = 0
    for root, result in zip(roots, instruction.results, strict=True):
        if result.memory or root.opcode == "parameter":
            continue  # a parameter that is passed on is not copied
        while root.opcode in _VIEWS:
            root = fused.instructions[root.operands[0]]
        if root.opcode == "dynamic-update-slice":
            result = fused.instructions[root.operands[1]].results[0]
        written += result.bytes
    return written
