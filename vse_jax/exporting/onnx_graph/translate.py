"""Translates a JAX function, traced with symbolic dimensions, to an ONNX model."""

from collections.abc import Callable, Mapping

import jax
import numpy as np
from jax.extend import core

from vse_jax.errors import InputError
from vse_jax.exporting.onnx_graph.functions import FUNCTIONS
from vse_jax.exporting.onnx_graph.graph import Graph, Tensor
from vse_jax.exporting.onnx_graph.operations import OPERATIONS

# Operations that only contain others.
_CALLS = ("jit", "pjit", "closed_call", "custom_jvp_call", "custom_vjp_call")

# The rules of these take constants, or their inputs are not all that they depend on.
_NEVER_COMPUTED = ("broadcast_in_dim", "dim_as_value")
# JAX would compile each for each shape: normalizations of all layers, known in advance.
_NUMPY = {
    "add": np.add,
    "mul": np.multiply,
    "rsqrt": lambda value: 1 / np.sqrt(value),
    "sub": np.subtract,
}


def translate(
    function: Callable,
    inputs: Mapping[str, jax.ShapeDtypeStruct],
    output: str,
    properties: Mapping[str, str],
):
    """Returns the ONNX model of a function.

    Args:
      function: function of arrays that returns an array. Arrays that it closes over
        become constants of the model.
      inputs: names and shapes of its arguments; dimensions may be symbolic, see
        `jax.export.symbolic_shape`.
      output: name of its result.
      properties: texts that readers of the file may want.

    Returns:
      An `onnx.ModelProto` that ONNX's checker accepts.

    Raises:
      InputError: if the function contains an operation that has no rule here.
    """
    traced = jax.make_jaxpr(function)(*inputs.values())
    graph = Graph()
    arguments = [
        graph.input(name, spec.shape, spec.dtype) for name, spec in inputs.items()
    ]
    constants = [graph.constant(np.asarray(value)) for value in traced.consts]
    (result,) = _run(graph, traced.jaxpr, [*constants, *arguments])
    return graph.model(output, {output: result}, dict(properties))


def _run(graph: Graph, jaxpr, arguments: list[Tensor]) -> list[Tensor]:
    """Adds the operations of a jaxpr; returns its outputs."""
    values = dict(zip([*jaxpr.constvars, *jaxpr.invars], arguments, strict=True))

    def read(variable):
        if isinstance(variable, core.Literal):
            return graph.constant(np.asarray(variable.val, variable.aval.dtype))
        return values[variable]

    for equation in jaxpr.eqns:
        results = _apply(graph, equation, [read(v) for v in equation.invars])
        values.update(zip(equation.outvars, results, strict=True))
    return [read(variable) for variable in jaxpr.outvars]


def _apply(graph, equation, inputs):
    """Adds one operation; returns its outputs."""
    name, params = equation.primitive.name, equation.params
    outputs = [variable.aval for variable in equation.outvars]
    if name in _CALLS:
        function = FUNCTIONS.get(params.get("name"))
        inner = params.get("jaxpr") or params["call_jaxpr"]
        if function is not None:
            return function(graph, inner.jaxpr, inputs, outputs)
        constants = [graph.constant(np.asarray(c)) for c in inner.consts]
        return _run(graph, inner.jaxpr, [*constants, *inputs])
    if name not in _NEVER_COMPUTED and _is_known(inputs, outputs):
        return _computed(graph, equation, inputs)
    if name not in OPERATIONS:
        raise InputError(
            f"the model uses JAX's operation {name!r}, which the export to ONNX lacks; "
            "add a rule to vse_jax/exporting/onnx_graph/operations.py"
        )
    results = OPERATIONS[name](graph, params, inputs, outputs)
    return results if isinstance(results, list) else [results]


def _is_known(inputs, outputs):
    """Returns whether the result can be computed now."""
    shapes = [tensor.full for tensor in inputs] + [aval.shape for aval in outputs]
    return all(tensor.constant is not None for tensor in inputs) and all(
        isinstance(dim, int) for shape in shapes for dim in shape
    )


def _computed(graph, equation, inputs):
    values = [np.broadcast_to(tensor.constant, tensor.full) for tensor in inputs]
    function = _NUMPY.get(equation.primitive.name)
    if function is not None:
        (output,) = equation.outvars
        return [graph.constant(np.asarray(function(*values), output.aval.dtype))]
    results = equation.primitive.bind(*values, **equation.params)
    if not equation.primitive.multiple_results:
        results = [results]
    return [graph.constant(np.asarray(result)) for result in results]
