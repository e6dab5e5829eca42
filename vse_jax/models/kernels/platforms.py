"""Chooses between two forms of a function by the platform it is lowered for."""

from collections.abc import Callable

import jax


def per_platform(on_cpu: Callable, otherwise: Callable, *args):
    """Applies the one or the other function, as the platform is.

    The choice is made when the program is lowered: it may be compiled for another
    machine than this one.
    """
    return jax.lax.platform_dependent(*args, cpu=on_cpu, default=otherwise)
