"""Builds an ONNX graph out of tensors whose shapes may have symbolic dimensions."""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np
import onnx

# Of 2023; programs that read older operator sets only are rare.
OPSET, IR_VERSION = 18, 8

Dim = object  # an int, or a symbolic dimension of `jax.export`
Shape = tuple[Dim, ...]


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A value of the graph.

    Attributes:
      name: name in the graph.
      shape: shape of the tensor in the graph.
      full: shape that JAX gives the value. Where it differs, `shape` has a 1, since
        ONNX broadcasts as NumPy does; see `Graph.expanded`.
      dtype: of the elements.
      constant: the value, if it is known.
    """

    name: str
    shape: Shape
    full: Shape
    dtype: np.dtype
    constant: np.ndarray | None = None


class Graph:
    """An ONNX graph under construction."""

    def __init__(self):
        self._nodes = []
        self._inputs = []
        self._initializers = {}
        self._count = 0
        # For each symbolic dimension, a tensor that has it, and the axis.
        self._places = {}

    def input(self, name: str, shape: Shape, dtype: np.dtype) -> Tensor:
        """Adds an input."""
        sizes = [d if isinstance(d, int) else str(d) for d in shape]
        kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        self._inputs.append(onnx.helper.make_tensor_value_info(name, kind, sizes))
        return self._tensor(name, shape, np.dtype(dtype))

    def constant(self, value: np.ndarray) -> Tensor:
        """Returns a tensor of a known value; it is stored only if it is used."""
        value = np.require(value, requirements="C")
        name = self._new_name("constant")
        self._initializers[name] = value
        return Tensor(name, value.shape, value.shape, value.dtype, value)

    def node(
        self,
        operation: str,
        inputs: Iterable[Tensor | None],
        shape: Shape,
        dtype: np.dtype,
        full: Shape | None = None,
        unused_outputs: int = 0,
        **attributes,
    ) -> Tensor:
        """Adds an operation and returns its first output.

        Args:
          operation: name of ONNX's operator.
          inputs: its inputs; None for an optional one that is absent.
          shape: of the output.
          dtype: of the output.
          full: shape that the output stands for; None for `shape`.
          unused_outputs: number of outputs after the first.
          **attributes: of the operator.
        """
        name = self._new_name(operation.lower())
        others = [f"{name}_{i}" for i in range(unused_outputs)]
        self._add(operation, inputs, [name, *others], attributes)
        return self._tensor(name, shape, np.dtype(dtype), full)

    def split(
        self, tensor: Tensor, sizes: Sequence[int], axis: int, shapes: Sequence[Shape]
    ) -> list[Tensor]:
        """Splits a tensor along an axis."""
        names = [self._new_name("split") for _ in sizes]
        lengths = self.constant(np.array(sizes, np.int64))
        self._add("Split", [self.expanded(tensor), lengths], names, {"axis": axis})
        return [
            self._tensor(*part, tensor.dtype)
            for part in zip(names, shapes, strict=True)
        ]

    def _add(self, operation, inputs, names, attributes):
        given = ["" if tensor is None else tensor.name for tensor in inputs]
        self._nodes.append(onnx.helper.make_node(operation, given, names, **attributes))

    def _tensor(self, name, shape, dtype, full=None):
        tensor = Tensor(name, tuple(shape), tuple(full or shape), dtype)
        for axis, dim in enumerate(tensor.shape):
            if not isinstance(dim, int):
                self._places.setdefault(str(dim), (tensor, axis))
        return tensor

    def _new_name(self, stem):
        self._count += 1
        return f"{stem}_{self._count}"

    def expanded(self, tensor: Tensor) -> Tensor:
        """Returns the tensor with all elements of its full shape."""
        if tensor.shape == tensor.full:
            return tensor
        shape = self.shape(tensor.full)
        return self.node("Expand", [tensor, shape], tensor.full, tensor.dtype)

    def reshaped(self, tensor: Tensor, shape: Shape) -> Tensor:
        """Returns the tensor in another shape."""
        tensor = self.expanded(tensor)
        if tensor.shape == tuple(shape):
            return tensor
        sizes = self.constant(self._sizes(shape))
        if sizes.constant is None or (sizes.constant == -1).sum() > 1:
            sizes = self.shape(shape)
        return self.node("Reshape", [tensor, sizes], shape, tensor.dtype)

    def _sizes(self, shape):
        return np.array([d if isinstance(d, int) else -1 for d in shape], np.int64)

    def shape(self, shape: Shape) -> Tensor:
        """Returns a shape as int64 `[rank]`."""
        if all(isinstance(dim, int) for dim in shape):
            return self.constant(np.array(shape, np.int64))
        dims = [self.dim(dim) for dim in shape]
        return self.node("Concat", dims, (len(dims),), np.int64, axis=0)

    def dim(self, dim: Dim) -> Tensor:
        """Returns a dimension as int64 `[1]`."""
        if isinstance(dim, int):
            return self.constant(np.array([dim], np.int64))
        tensor, axis = self._places[str(dim)]
        return self.node("Shape", [tensor], (1,), np.int64, start=axis, end=axis + 1)

    def model(self, name: str, outputs: dict[str, Tensor], properties: dict[str, str]):
        """Returns the model, a checked `onnx.ModelProto`.

        Args:
          name: of the graph.
          outputs: tensors by the names that they get.
          properties: texts that readers of the file may want.
        """
        results = []
        for output, tensor in outputs.items():
            self._add("Identity", [self.expanded(tensor)], [output], {})
            sizes = [d if isinstance(d, int) else str(d) for d in tensor.full]
            kind = onnx.helper.np_dtype_to_tensor_dtype(tensor.dtype)
            results.append(onnx.helper.make_tensor_value_info(output, kind, sizes))
        nodes, used = _needed(self._nodes, outputs)
        model = onnx.helper.make_model(
            onnx.helper.make_graph(nodes, name, self._inputs, results),
            opset_imports=[onnx.helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="vse_jax",
        )
        onnx.helper.set_model_props(model, properties)
        for key in sorted(self._initializers.keys() & used):
            # Added one by one, since a graph copies all that it is made from.
            value = onnx.numpy_helper.from_array(self._initializers[key], key)
            model.graph.initializer.add().CopyFrom(value)
        onnx.checker.check_model(model)
        return model


def _needed(nodes, outputs):
    """Returns the nodes that the outputs depend on, and the names of their inputs."""
    used, kept = set(outputs), []
    for node in reversed(nodes):
        if used.intersection(node.output):
            used.update(node.input)
            kept.append(node)
    return kept[::-1], used
