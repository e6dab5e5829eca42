"""Compiles the programs of a configuration for a TPU topology, without a TPU."""
