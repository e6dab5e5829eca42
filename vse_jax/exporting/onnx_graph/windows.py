"""Convolution and max pooling of maps `[batch, height, width, channels]`.

ONNX takes the channels before the rows. onnxruntime removes the transpositions between
consecutive layers.
"""

import numpy as np

from vse_jax.errors import InputError
from vse_jax.exporting.onnx_graph.graph import Graph, Tensor

_TO_FRONT, _TO_BACK = (0, 3, 1, 2), (0, 2, 3, 1)


def convolution(graph: Graph, params: dict, inputs: list[Tensor], outputs) -> Tensor:
    """`lax.conv_general_dilated` of NHWC and HWIO; see `operations`."""
    x, kernel = map(graph.expanded, inputs)
    numbers = params["dimension_numbers"]
    is_known_layout = (
        numbers.lhs_spec == _TO_FRONT
        and numbers.rhs_spec == (3, 2, 0, 1)
        and numbers.out_spec == _TO_FRONT
    )
    spread = {*params["lhs_dilation"], params["batch_group_count"]} != {1}
    if not is_known_layout or spread:
        raise InputError("the export to ONNX convolves only maps NHWC with HWIO")
    return _windowed(
        graph,
        "Conv",
        [x, _transposed(graph, kernel, (3, 2, 0, 1))],
        outputs[0],
        dilations=list(params["rhs_dilation"]),
        group=params["feature_group_count"],
        kernel_shape=list(kernel.shape[:2]),
        pads=_pads(params["padding"]),
        strides=list(params["window_strides"]),
    )


def max_pooling(graph: Graph, params: dict, inputs: list[Tensor], outputs) -> Tensor:
    """`lax.reduce_window` with a maximum over rows and columns; see `operations`."""
    x = graph.expanded(inputs[0])
    size, strides = params["window_dimensions"], params["window_strides"]
    spread = {*params["base_dilation"], *params["window_dilation"]} != {1}
    if len(size) != 4 or size[0] != 1 or size[3] != 1 or spread:
        raise InputError("the export to ONNX pools only rows and columns")
    return _windowed(
        graph,
        "MaxPool",
        [x],
        outputs[0],
        kernel_shape=list(size[1:3]),
        pads=_pads(params["padding"][1:3]),
        strides=list(strides[1:3]),
    )


def _windowed(graph, operation, inputs, out, **attributes):
    x, *others = inputs
    front = _permuted(out.shape, _TO_FRONT)
    x = graph.node(
        operation,
        [_transposed(graph, x, _TO_FRONT), *others],
        front,
        out.dtype,
        **attributes,
    )
    return _transposed(graph, x, _TO_BACK)


def _transposed(graph, tensor, order):
    shape = _permuted(tensor.shape, order)
    if tensor.constant is not None:
        return graph.constant(np.transpose(tensor.constant, order))
    return graph.node("Transpose", [tensor], shape, tensor.dtype, perm=order)


def _permuted(shape, order):
    return tuple(shape[axis] for axis in order)


def _pads(padding):
    """Returns all numbers before, then all behind, as ONNX takes them."""
    return [int(number) for side in zip(*padding, strict=True) for number in side]
