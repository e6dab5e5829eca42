"""ONNX's operators for JAX's primitive operations.

A rule is called with the graph, the parameters of the operation, its inputs, and the
shapes and dtypes of its outputs. It returns the output, or a list of outputs.
"""

import functools
import string

import numpy as np

from vse_jax.errors import InputError
from vse_jax.exporting.onnx_graph import windows
from vse_jax.exporting.onnx_graph.graph import Graph, Tensor

_FIRST = np.iinfo(np.int64).min  # behind the first element, in steps of -1


def _common_shape(shapes):
    """Returns the shape that ONNX broadcasts shapes to."""
    rank = max(map(len, shapes))
    padded = [(1,) * (rank - len(shape)) + tuple(shape) for shape in shapes]
    return tuple(
        next((dim for dim in dims if dim != 1), 1) for dims in zip(*padded, strict=True)
    )


def _elementwise(operation, graph: Graph, params, inputs, outputs):
    """An operator that broadcasts, so its inputs need not be expanded."""
    del params
    (out,) = outputs
    shape = _common_shape([tensor.shape for tensor in inputs])
    return graph.node(operation, inputs, shape, out.dtype, full=out.shape)


def _square(graph, params, inputs, outputs):
    return _elementwise("Mul", graph, params, inputs * 2, outputs)


def _rsqrt(graph, params, inputs, outputs):
    root = _elementwise("Sqrt", graph, params, inputs, outputs)
    return _elementwise("Reciprocal", graph, params, [root], outputs)


def _integer_pow(graph, params, inputs, outputs):
    exponent = graph.constant(np.array(params["y"], inputs[0].dtype))
    return _elementwise("Pow", graph, params, [*inputs, exponent], outputs)


def _erfc(graph, params, inputs, outputs):
    erf = _elementwise("Erf", graph, params, inputs, outputs)
    one = graph.constant(np.ones((), erf.dtype))
    return _elementwise("Sub", graph, params, [one, erf], outputs)


def _not_equal(graph, params, inputs, outputs):
    equal = _elementwise("Equal", graph, params, inputs, outputs)
    return _elementwise("Not", graph, params, [equal], outputs)


def _clamp(graph, params, inputs, outputs):
    low, value, high = inputs
    above = _elementwise("Max", graph, params, [value, low], outputs)
    return _elementwise("Min", graph, params, [above, high], outputs)


def _select(graph, params, inputs, outputs):
    which, *cases = inputs
    if which.dtype != bool or len(cases) != 2:
        raise InputError("the export to ONNX selects only by a bool between two cases")
    return _elementwise("Where", graph, params, [which, *cases[::-1]], outputs)


def _convert(graph, params, inputs, outputs):
    del params
    (tensor,), (out,) = inputs, outputs
    if tensor.dtype == out.dtype:
        return tensor
    return _cast(graph, tensor, out.dtype)


def _cast(graph, tensor, dtype):
    import onnx

    to = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    return graph.node("Cast", [tensor], tensor.shape, dtype, full=tensor.full, to=to)


def _unchanged(graph, params, inputs, outputs):
    del graph, params, outputs
    return list(inputs)


def _broadcast(graph, params, inputs, outputs):
    """Adds dimensions of size 1; they are expanded only where that is needed."""
    tensor, (out,) = inputs[0], outputs
    axes = params["broadcast_dimensions"]
    tensor = graph.expanded(tensor)
    thin = [1] * len(out.shape)
    for axis, dim in zip(axes, tensor.shape, strict=True):
        thin[axis] = dim
    thin = tuple(thin)
    if tensor.constant is not None:
        reshaped = graph.constant(tensor.constant.reshape(thin))
    else:
        reshaped = _with_ones(graph, tensor, axes, thin)
    return Tensor(
        reshaped.name, thin, tuple(out.shape), tensor.dtype, reshaped.constant
    )


def _with_ones(graph, tensor, axes, shape):
    if tensor.shape == shape:
        return tensor
    others = np.array([a for a in range(len(shape)) if a not in axes], np.int64)
    others = graph.constant(others)
    return graph.node("Unsqueeze", [tensor, others], shape, tensor.dtype)


def _reshape(graph, params, inputs, outputs):
    del params
    return graph.reshaped(inputs[0], outputs[0].shape)


def _transpose(graph, params, inputs, outputs):
    order = [int(axis) for axis in params["permutation"]]
    tensor, (out,) = graph.expanded(inputs[0]), outputs
    return graph.node("Transpose", [tensor], out.shape, out.dtype, perm=order)


def _concatenate(graph, params, inputs, outputs):
    (out,) = outputs
    tensors = map(graph.expanded, inputs)
    axis = params["dimension"]
    return graph.node("Concat", tensors, out.shape, out.dtype, axis=axis)


def _split(graph, params, inputs, outputs):
    sizes = [int(size) for size in params["sizes"]]
    shapes = [out.shape for out in outputs]
    return graph.split(inputs[0], sizes, params["axis"], shapes)


def _slice(graph, params, inputs, outputs):
    tensor, (out,) = graph.expanded(inputs[0]), outputs
    rank = len(tensor.shape)
    limits = (
        graph.shape(params["start_indices"]),
        graph.shape(params["limit_indices"]),
        graph.constant(np.arange(rank)),
        graph.constant(np.array(params["strides"] or (1,) * rank, np.int64)),
    )
    return graph.node("Slice", [tensor, *limits], out.shape, out.dtype)


def _reverse(graph, params, inputs, outputs):
    tensor, (out,) = graph.expanded(inputs[0]), outputs
    axes = np.array(params["dimensions"], np.int64)
    limits = [np.full_like(axes, fill) for fill in (-1, _FIRST)]
    limits += [axes, np.full_like(axes, -1)]
    return graph.node(
        "Slice", [tensor, *map(graph.constant, limits)], out.shape, out.dtype
    )


def _pad(graph, params, inputs, outputs):
    tensor, fill = map(graph.expanded, inputs)
    (out,) = outputs
    low, high, interior = zip(*params["padding_config"], strict=True)
    if any(interior):
        raise InputError("the export to ONNX has no padding between elements")
    pads = graph.constant(np.array([*low, *high], np.int64))
    return graph.node("Pad", [tensor, pads, fill], out.shape, out.dtype)


def _iota(graph, params, inputs, outputs):
    del inputs
    (out,) = outputs
    axis = params["dimension"]
    numbers = [
        graph.constant(np.int64(0)),
        graph.reshaped(graph.dim(out.shape[axis]), ()),
        graph.constant(np.int64(1)),
    ]
    counted = graph.node("Range", numbers, (out.shape[axis],), np.int64)
    counted = _cast(graph, counted, out.dtype)
    return _broadcast(graph, {"broadcast_dimensions": (axis,)}, [counted], outputs)


def _dim_as_value(graph, params, inputs, outputs):
    del inputs
    dim = graph.reshaped(graph.dim(params["dim"]), ())
    return _cast(graph, dim, outputs[0].dtype)


def _reduce(operation, graph, params, inputs, outputs):
    tensor, (out,) = graph.expanded(inputs[0]), outputs
    if not params["axes"]:  # which ONNX takes for all axes
        return tensor
    axes = graph.constant(np.array(params["axes"], np.int64))
    return graph.node(operation, [tensor, axes], out.shape, out.dtype, keepdims=0)


def _dot(graph, params, inputs, outputs):
    left, right = map(graph.expanded, inputs)
    (out,) = outputs
    (left_sum, right_sum), (left_batch, right_batch) = params["dimension_numbers"]
    last = len(left.shape) - 1
    is_matrix = len(right.shape) == 2 and not left_batch
    if is_matrix and tuple(left_sum) == (last,) and tuple(right_sum) == (0,):
        return graph.node("MatMul", [left, right], out.shape, out.dtype)
    letters = iter(string.ascii_lowercase)
    of_left = [next(letters) for _ in left.shape]
    of_right = [next(letters) for _ in right.shape]
    for a, b in zip((*left_sum, *left_batch), (*right_sum, *right_batch), strict=True):
        of_right[b] = of_left[a]
    batch = [of_left[axis] for axis in left_batch]
    free = [letter for letter in of_left if letter not in of_right]
    free += [letter for letter in of_right if letter not in of_left]
    equation = f"{''.join(of_left)},{''.join(of_right)}->{''.join(batch + free)}"
    return graph.node("Einsum", [left, right], out.shape, out.dtype, equation=equation)


def _sort(graph, params, inputs, outputs):
    if len(inputs) != 1:
        raise InputError("the export to ONNX sorts only one array at a time")
    tensor, (out,) = graph.expanded(inputs[0]), outputs
    axis = params["dimension"]
    length = graph.dim(tensor.shape[axis])
    return graph.node(
        "TopK",
        [tensor, length],
        out.shape,
        out.dtype,
        unused_outputs=1,
        axis=axis,
        largest=0,
    )


def _gather(graph, params, inputs, outputs):
    """Looks up along one axis, which all indexing by one array does."""
    tensor, index = map(graph.expanded, inputs)
    (out,) = outputs
    numbers = params["dimension_numbers"]
    if index.constant is not None and not numbers.collapsed_slice_dims:
        return _part(graph, tensor, numbers, index, params["slice_sizes"], out)
    axes, batch = numbers.start_index_map, numbers.operand_batching_dims
    sizes = params["slice_sizes"]
    looked_up = {*axes, *batch}
    is_whole = all(
        sizes[axis] == (1 if axis in looked_up else dim)
        for axis, dim in enumerate(tensor.shape)
    )
    is_one_axis = len(axes) == 1 and tuple(numbers.collapsed_slice_dims) == tuple(axes)
    if not (is_whole and is_one_axis):
        raise InputError("the export to ONNX gathers only along one axis")
    (axis,) = axes
    rank = len(index.shape) - 1
    if batch:
        behind = tuple(range(rank, rank + len(tensor.shape) - axis - 1))
        if tuple(batch) != tuple(range(axis)) or numbers.offset_dims != behind:
            raise InputError("the export to ONNX gathers batches only in front")
        return graph.node(
            "GatherND",
            [tensor, _int64(graph, index)],
            out.shape,
            out.dtype,
            batch_dims=axis,
        )
    before, after = range(axis), range(axis + rank, len(out.shape))
    if numbers.offset_dims != (*before, *after):
        raise InputError("the export to ONNX gathers only in the order of the axes")
    index = graph.reshaped(index, index.shape[:-1])
    return graph.node("Gather", [tensor, index], out.shape, out.dtype, axis=axis)


def _part(graph, tensor, numbers, index, sizes, out):
    """Returns the slice that a gather at one known place is."""
    axes = numbers.start_index_map
    start = index.constant.reshape(-1).astype(np.int64)
    is_one_place = len(start) == len(axes) and len(out.shape) == len(sizes)
    if not is_one_place or not all(isinstance(sizes[axis], int) for axis in axes):
        raise InputError("the export to ONNX gathers only slices of known size")
    end = start + [sizes[axis] for axis in axes]
    limits = [start, end, np.array(axes, np.int64)]
    return graph.node(
        "Slice", [tensor, *map(graph.constant, limits)], out.shape, out.dtype
    )


def _int64(graph, tensor):
    return _cast(graph, tensor, np.int64)


_ELEMENTWISE = {
    "abs": "Abs",
    "add": "Add",
    "add_any": "Add",
    "and": "And",
    "ceil": "Ceil",
    "cos": "Cos",
    "div": "Div",
    "eq": "Equal",
    "erf": "Erf",
    "exp": "Exp",
    "floor": "Floor",
    "ge": "GreaterOrEqual",
    "gt": "Greater",
    "le": "LessOrEqual",
    "log": "Log",
    "logistic": "Sigmoid",
    "lt": "Less",
    "max": "Max",
    "min": "Min",
    "mul": "Mul",
    "neg": "Neg",
    "not": "Not",
    "or": "Or",
    "pow": "Pow",
    "sign": "Sign",
    "sin": "Sin",
    "sqrt": "Sqrt",
    "sub": "Sub",
    "tanh": "Tanh",
}
_REDUCTIONS = {
    "reduce_max": "ReduceMax",
    "reduce_min": "ReduceMin",
    "reduce_sum": "ReduceSum",
}
OPERATIONS = {
    **{jax: functools.partial(_elementwise, to) for jax, to in _ELEMENTWISE.items()},
    **{jax: functools.partial(_reduce, to) for jax, to in _REDUCTIONS.items()},
    "broadcast_in_dim": _broadcast,
    "clamp": _clamp,
    "concatenate": _concatenate,
    "conv_general_dilated": windows.convolution,
    "convert_element_type": _convert,
    "copy": _unchanged,
    "dim_as_value": _dim_as_value,
    "dot_general": _dot,
    "erfc": _erfc,
    "gather": _gather,
    "integer_pow": _integer_pow,
    "iota": _iota,
    "ne": _not_equal,
    "optimization_barrier": _unchanged,
    "pad": _pad,
    "reduce_window_max": windows.max_pooling,
    "reshape": _reshape,
    "rev": _reverse,
    "rsqrt": _rsqrt,
    "select_n": _select,
    "slice": _slice,
    "sort": _sort,
    "split": _split,
    "square": _square,
    "squeeze": _reshape,
    "stop_gradient": _unchanged,
    "transpose": _transpose,
}
