"""The programs of a training, and when each of them is compiled."""

import logging
from collections.abc import Callable, Iterator, Sequence

import jax

from vse_jax import compile_ahead
from vse_jax.compile_ahead import Compilation
from vse_jax.evaluation.evaluator import Evaluator
from vse_jax.experiment import Experiment
from vse_jax.stage_steps import StageSteps
from vse_jax.stages import Stage, stage_of

logger = logging.getLogger(__name__)


class TrainingPrograms:
    """Compiles the programs of a training; see `compile_ahead`."""

    def __init__(
        self,
        experiment: Experiment,
        evaluator: Evaluator,
        stages: Sequence[Stage],
        steps_of: Callable[[Stage], StageSteps],
        example: dict,
    ):
        """Compiles nothing yet.

        Args:
          experiment: the experiment.
          evaluator: evaluates the validation split.
          stages: all stages of the training.
          steps_of: returns the steps of a stage.
          example: a batch of this host, used for its shapes.
        """
        self._experiment = experiment
        self._evaluator = evaluator
        self._stages = stages
        self._steps_of = steps_of
        self._example = example
        self._compiled = set()

    def compile_for(
        self, step: int, variables: dict, batch: dict, should_stop: Callable[[], bool]
    ) -> bool:
        """Compiles the training step of a batch if necessary.

        The first call compiles all programs where that is worthwhile, or else starts to
        compile the other programs in the background.

        Args:
          step: number of steps made.
          variables: variables of the model on the devices.
          batch: the batch on the devices.
          should_stop: returns whether to leave without waiting any longer.

        Returns:
          False if `should_stop` became true.
        """
        steps = self._steps_of(stage_of(self._stages, step))
        length = batch["tokens"].shape[-1]
        key = steps.stage.start, steps.mining(step), length
        if key in self._compiled:
            return True
        is_first = not self._compiled
        # A step may donate these arrays before a thread reads their shapes.
        variables, batch = _shapes((variables, batch))
        others = self._after(step, variables, batch)
        compile_all = is_first and compile_ahead.is_worthwhile()
        if compile_all and not compile_ahead.compile_all(list(others), should_stop):
            return False
        program = steps.program(steps.mining(step), self._example, batch, length)
        if is_first:
            logger.info("compiling the %s", program.name)
        if not compile_ahead.compile_now(program, should_stop):
            return False
        if is_first and not compile_all:
            compile_ahead.compile_in_background(others)
        self._compiled.add(key)
        return True

    def _after(self, step: int, variables: dict, batch: dict) -> Iterator[Compilation]:
        """Yields the programs from a step on, in the order of their first use."""
        lengths = self._experiment.training_plan.token_lengths(step)
        split = self._experiment.config.data.validation_split
        current = stage_of(self._stages, step)
        for stage in self._stages[self._stages.index(current) :]:
            steps = self._steps_of(stage)
            for mining in steps.minings_from(step):
                for length in lengths:
                    yield steps.program(mining, self._example, batch, length)
            if stage == current:
                yield from self._evaluator.programs(variables, split)


def _shapes(tree):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)
