"""Runs exported encoders."""

import jax
import jax.export
import numpy as np
import onnxruntime

from vse_jax.exporting.encoders import Encoder


def random_variables(module, rng, *args, **kwargs) -> dict:
    """Returns variables that all matter, without compiling `init`."""
    shapes = jax.eval_shape(module.init, jax.random.key(0), *args, **kwargs)

    def draw(path, shape):
        if path[-1].key in ("variance", "scale"):
            return rng.uniform(0.8, 1.2, shape.shape).astype(np.float32)
        deviation = max(1, np.prod(shape.shape[:-1])) ** -0.5
        return rng.normal(0, deviation, shape.shape).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def onnx_session(content: bytes) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])


class Exported:
    """Both forms of an encoder, as a program without vse_jax would run them."""

    def __init__(self, encoder: Encoder):
        self._inputs = encoder.inputs
        self._session = onnx_session(encoder.to_onnx({}))
        stablehlo = bytearray(encoder.to_stablehlo())
        self.program = jax.export.deserialize(stablehlo)

    def check_onnx(
        self, batch: dict, expected: np.ndarray, tolerance: float = 1e-5
    ) -> None:
        """Checks that onnxruntime computes `expected` from the arrays of the batch."""
        (found,) = self._session.run(None, self._arrays(batch))
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=tolerance)

    def check_stablehlo(
        self, batch: dict, expected: np.ndarray, tolerance: float = 1e-5
    ) -> None:
        """Like `check_onnx`, for JAX; compiles for each shape."""
        computed = self.program.call(*self._arrays(batch).values())
        np.testing.assert_allclose(computed, expected, atol=tolerance)

    def _arrays(self, batch):
        return {
            name: np.asarray(batch[name]).astype(spec.dtype)
            for name, spec in self._inputs.items()
        }
