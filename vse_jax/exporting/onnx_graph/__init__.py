"""Translates a JAX function to ONNX, operation by operation."""
