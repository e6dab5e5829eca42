"""Where a training state is on the devices."""

from typing import Any

import jax
import numpy as np
import optax

from vse_jax import parallel, sharded_optimizer
from vse_jax.train_step import TrainState


class StatePlacement:
    """Moves a training state between the host and the devices.

    On the host, and in a checkpoint, a state has the same form with any placement and
    any number of devices.

    Attributes:
      specs: of the state, for `parallel.map_over_devices`.
    """

    def __init__(self, optimizer: optax.GradientTransformation, *, sharded: bool):
        """Creates a placement.

        Args:
          optimizer: the optimizer that made the state.
          sharded: whether the optimizer's state is split over the devices.
        """
        self._optimizer = optimizer
        self._sharded = sharded
        self.specs: Any = parallel.REPLICATED
        if sharded:
            self.specs = TrainState(
                step=parallel.REPLICATED,
                params=parallel.REPLICATED,
                batch_stats=parallel.REPLICATED,
                opt_state=parallel.SPLIT,
                average=parallel.REPLICATED,
            )

    def shapes(self, state: TrainState, devices: int) -> TrainState:
        """Returns the shapes on this number of devices, of a state or its shapes."""
        if not self._sharded:
            return jax.eval_shape(lambda state: state, state)
        return jax.eval_shape(lambda state: self._split(state, devices), state)

    def put(self, state: TrainState) -> TrainState:
        """Puts a state, equal on all hosts, on the devices."""
        if not self._sharded:
            return parallel.replicate(state)
        opt_state = jax.tree.map(np.asarray, state.opt_state)
        whole = state.replace(opt_state=opt_state)
        split = self._split(whole, len(parallel.all_devices())).opt_state
        on_devices = parallel.replicate(state.replace(opt_state=()))
        return on_devices.replace(opt_state=parallel.put_split(split))

    def fetch(self, state: TrainState) -> TrainState:
        """Fetches a state to every host; all hosts must call it."""
        if not self._sharded:
            return parallel.unreplicate(state)
        parts = parallel.fetch_split(state.opt_state)
        opt_state = sharded_optimizer.join_state(self._optimizer, parts, state.params)
        on_host = parallel.unreplicate(state.replace(opt_state=()))
        return on_host.replace(opt_state=opt_state)

    def _split(self, state, devices):
        split = sharded_optimizer.split_state(
            self._optimizer, state.opt_state, state.params, devices
        )
        return state.replace(opt_state=split)
