"""Chooses between the forms of a function by the platform of the program."""

from collections.abc import Callable

import jax

# Within `with plain_forms(True)`, functions are traced in their plain forms, which have
# the fewest kinds of operations and allow a batch of unknown size. Exported programs
# consist of them. JAX traces a function again where this value differs.
plain_forms = jax.make_user_context(False)


def per_platform(on_cpu: Callable, otherwise: Callable, *args, plain: Callable):
    """Applies `on_cpu` or `otherwise` to `args`, depending on the platform.

    The choice is made when the program is lowered, because it may be compiled for
    another machine than this one.

    Args:
      on_cpu: the form for CPUs.
      otherwise: the form for all other platforms, with the same results.
      *args: arrays that the forms take.
      plain: the form that replaces both where `plain_forms` holds.

    Returns:
      What the chosen form returns.
    """
    if plain_forms.value:
        return plain(*args)
    return jax.lax.platform_dependent(*args, cpu=on_cpu, default=otherwise)
