"""Compiles the programs of a configuration for a TPU that is not at hand."""
