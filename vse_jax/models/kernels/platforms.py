"""Chooses between two forms of a function by the platform of the program."""

from collections.abc import Callable

import jax


def per_platform(on_cpu: Callable, otherwise: Callable, *args):
    """Applies `on_cpu` or `otherwise` to `args`, depending on the platform.

    The choice is made when the program is lowered, because it may be compiled for
    another machine than this one.
    """
    return jax.lax.platform_dependent(*args, cpu=on_cpu, default=otherwise)
