"""Translates whole JAX functions, by their names, where ONNX has an operator for them.

A rule is called with the graph, the function's jaxpr, its inputs, and the shapes and
dtypes of its outputs. It returns the outputs.
"""

import numpy as np

from vse_jax.exporting.onnx_graph.graph import Graph, Tensor


def _gru(graph: Graph, jaxpr, inputs: list[Tensor], outputs) -> list[Tensor]:
    """`scanned_gru.scanned_states`, one direction of a GRU.

    ONNX's gates are in the order update, reset, new. With `linear_before_reset` their
    equations are PyTorch's.
    """
    sequence, input_kernel, input_bias, kernel, bias, lengths = map(
        graph.expanded, inputs
    )
    (scan,) = [e for e in jaxpr.eqns if e.primitive.name == "scan"]
    batch, time, _ = sequence.shape
    hidden = kernel.shape[0]
    steps_first = (time, batch, sequence.shape[2])
    steps = graph.node(
        "Transpose", [sequence], steps_first, sequence.dtype, perm=(1, 0, 2)
    )
    biases = np.concatenate([_update_first(b)[0] for b in (input_bias, bias)])
    weights = [_update_first(input_kernel)[None], _update_first(kernel)[None]]
    states = graph.node(
        "GRU",
        [steps, *map(graph.constant, weights), graph.constant(biases[None]), lengths],
        (time, 1, batch, hidden),
        sequence.dtype,
        direction="reverse" if scan.params["reverse"] else "forward",
        hidden_size=hidden,
        linear_before_reset=1,
    )
    states = graph.reshaped(states, (time, batch, hidden))
    shape = outputs[0].shape
    return [graph.node("Transpose", [states], shape, states.dtype, perm=(1, 0, 2))]


def _update_first(weights: Tensor) -> np.ndarray:
    """Maps `[..., 3 hidden]` of reset, update, new to `[3 hidden, ...]` of ONNX."""
    reset, update, new = np.split(np.atleast_2d(weights.constant), 3, axis=-1)
    joined = np.concatenate([update, reset, new], axis=-1)
    return joined if weights.constant.ndim == 1 else joined.T


FUNCTIONS = {"scanned_states": _gru}
