"""The average of a model's variables over the steps of a training.

The average after step `n` is the sum of `decay ** (n - i)` times the variables after
step `i`, divided by the sum of these factors. It is an exponential moving average whose
start does not count (Polyak and Juditsky, "Acceleration of Stochastic Approximation by
Averaging", 1992, with equal factors). It covers about the last `1 / (1 - decay)` steps.

The running statistics of batch normalization are averaged like the parameters. They are
not those of the averaged parameters, which would need another pass over the data.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp


def updated(average: Any, variables: Any, decay: float, steps: jax.Array) -> Any:
    """Returns the average after another step.

    Args:
      average: average after the previous step; any finite numbers before the first.
      variables: variables after the step, float32 arrays in the same tree.
      decay: factor of the past for each step, more than 0 and less than 1.
      steps: int32, number of steps with the new one, at least 1.
    """
    # 1 - decay ** steps, without the cancellation.
    total = -jnp.expm1(steps * math.log(decay))
    share = jnp.where(steps == 1, 1, (1 - decay) / total)
    return jax.tree.map(lambda old, new: old + share * (new - old), average, variables)
