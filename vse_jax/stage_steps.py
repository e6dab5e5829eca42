"""The model, the optimizer and the compiled steps of a training stage."""

import functools
from collections.abc import Callable, Sequence

import jax

from vse_jax import loss_scalars, parallel
from vse_jax.compile_ahead import Compilation
from vse_jax.experiment import Experiment
from vse_jax.losses import mines_negatives
from vse_jax.optimizer import create_optimizer, create_schedule
from vse_jax.stages import Stage
from vse_jax.state_placement import StatePlacement
from vse_jax.train_step import (
    TrainState,
    create_train_state,
    make_train_step,
    start_training,
)


class StageSteps:
    """The training steps of a stage on all devices, one for each mining.

    Attributes:
      stage: the stage.
      optimizer: the stage's optimizer.
      placement: where the state is on the devices.
    """

    def __init__(
        self,
        experiment: Experiment,
        stage: Stage,
        steps_per_epoch: int,
        *,
        train_backbone: bool,
        devices: Sequence[jax.Device] | None = None,
        in_step: Callable[[Callable], Callable] = lambda step: step,
    ):
        """Creates the steps; nothing is compiled yet.

        Args:
          experiment: the experiment.
          stage: the stage.
          steps_per_epoch: number of steps per epoch.
          train_backbone: whether any parameter of the backbone is trained.
          devices: devices of a topology that is not present, for `mapped` only; None
            for those of the run.
          in_step: maps a per-device training step to one for the batches on the
            devices, see `training_data`.
        """
        self.stage = stage
        self._devices = devices
        self._experiment = experiment
        config = experiment.config
        schedule = create_schedule(
            stage, config.optimizer.decay_factor, steps_per_epoch
        )
        groups = (*stage.groups, *loss_scalars.groups(config.loss))
        self._model = experiment.create_model(train=True, train_backbone=train_backbone)
        self.optimizer = create_optimizer(config.optimizer, schedule, groups)
        make = functools.partial(
            make_train_step,
            self._model,
            self.optimizer,
            lambda step: schedule(step - stage.start),
            config.loss,
            groups=groups,
            microbatches=config.microbatches,
            sharded=config.optimizer.sharded,
            average_decay=config.optimizer.average_decay,
            seed=config.seed,
        )
        self.placement = StatePlacement(
            self.optimizer, sharded=config.optimizer.sharded
        )
        self._state_shapes = None
        self._loss = config.loss
        self._averages = config.optimizer.average_decay > 0
        self._warmup_steps = 0
        if config.loss.warmup_mining:
            self._warmup_steps = config.loss.warmup_epochs * steps_per_epoch
        self._steps = {
            mining: self._mapped(in_step(make(mining=mining)))
            for mining in self.minings_from(stage.start)
        }

    def _mapped(self, step):
        return parallel.map_over_devices(
            step,
            (self.placement.specs, parallel.SPLIT),
            (self.placement.specs, parallel.REPLICATED),
            donate_argnums=0,
            devices=self._devices,
            backend="shard_map" if self._devices else self._experiment.config.mapping,
        )

    def mining(self, step: int) -> str:
        """Returns the mining of a step, which is another one during the warm-up."""
        is_warmup = step < self._warmup_steps
        return self._loss.warmup_mining if is_warmup else self._loss.mining

    def minings_from(self, step: int) -> list[str]:
        """Returns the minings from `step` to the end of the stage, in order."""
        first = max(step, self.stage.start)
        last = max(first, self.stage.stop - 1)
        return list(dict.fromkeys([self.mining(first), self.mining(last)]))

    def mapped(self, mining: str) -> parallel.Mapped:
        """Returns the training step with a mining of `minings_from`."""
        return self._steps[mining]

    def at(self, step: int) -> parallel.Mapped:
        """Returns the training step of step number `step`."""
        return self._steps[self.mining(step)]

    def create_state(self, example: dict) -> TrainState:
        """Returns a state with random parameters; `example` is a batch of a host."""
        return create_train_state(
            self._model,
            self.optimizer,
            example,
            self._experiment.config.seed,
            self._loss,
            averages=self._averages,
        )

    def start_from(self, variables: dict, step: int) -> TrainState:
        """Returns the state at `step` with these variables; see `start_training`."""
        return start_training(self.optimizer, variables, step, averages=self._averages)

    def state_shapes(self, example: dict) -> TrainState:
        """Returns the shapes of the state on the devices; see `create_state`.

        Only the first call traces the model, as the number of tokens changes nothing.
        """
        if self._state_shapes is None:
            state = jax.eval_shape(self.create_state, example)
            devices = self._devices or parallel.all_devices()
            self._state_shapes = self.placement.shapes(state, len(devices))
        return self._state_shapes

    def program(
        self, mining: str, example: dict, batch: dict, length: int
    ) -> Compilation:
        """Returns the program of a step.

        Args:
          mining: mining of the negatives.
          example: a batch of a host, used for the shapes of the model's input.
          batch: a batch on the devices with any number of tokens, or its shapes.
          length: number of tokens of the step's batches.
        """
        state = self.state_shapes(example)
        tokens = batch["tokens"]
        shape = (*tokens.shape[:-1], length)
        batch = batch | {"tokens": jax.ShapeDtypeStruct(shape, tokens.dtype)}
        kind = mining if mines_negatives(self._loss) else self._loss.name
        name = f"training step for {length} tokens ({kind}, from {self.stage.start})"
        return Compilation.of(name, self._steps[mining], state, batch)
