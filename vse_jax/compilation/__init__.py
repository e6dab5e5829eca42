"""Compiles the programs of a configuration for a TPU, without one."""
