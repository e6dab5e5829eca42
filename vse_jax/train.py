"""The training loop."""

import contextlib
import functools
import logging

import jax
import ml_collections
import numpy as np
from clu import parameter_overview
from etils import epath

from vse_jax import host_connection, parallel, shared_folder, starting_point
from vse_jax.checkpoint import Checkpoints, find_description
from vse_jax.data import input_pipeline
from vse_jax.data.text import vocabularies
from vse_jax.errors import StoppedError, TrainingError, reporting_writes
from vse_jax.evaluation import pictures
from vse_jax.evaluation.evaluator import Evaluator, check_folds
from vse_jax.evaluation.report import print_commands, report
from vse_jax.evaluation.suites import open_suite
from vse_jax.experiment import Experiment, check_vocabulary, create_experiment
from vse_jax.feed import Feed
from vse_jax.goodput import CHECKPOINTS, EVALUATION, STEPS, Goodput
from vse_jax.pretrained import load_pretrained
from vse_jax.profiling import Profile
from vse_jax.run_config import check_same_run, flatten
from vse_jax.run_lock import sole_run
from vse_jax.run_report.report_mode import report_if_images
from vse_jax.stage_steps import StageSteps
from vse_jax.stages import Stage, check_groups, plan_stages, stage_of
from vse_jax.step_log import StepLog
from vse_jax.summaries import create_writer
from vse_jax.termination import Termination, exit_code, signal_name
from vse_jax.train_step import TrainState, init_variables
from vse_jax.training_data import create_training_data
from vse_jax.training_programs import TrainingPrograms

logger = logging.getLogger(__name__)


def train_and_evaluate(
    config: ml_collections.ConfigDict, workdir: str, seconds_before: float = 0.0
) -> dict | None:
    """Trains a model, or resumes training from the latest checkpoint in the workdir.

    Every `config.evaluate_every_epochs` epochs, the validation split is evaluated and a
    checkpoint is saved. At the end, the best checkpoint is evaluated on the test split.

    Args:
      config: see `configs/common.py`.
      workdir: folder for checkpoints, TensorBoard's files and reports.
      seconds_before: time that the start has taken already, for the log.

    Returns:
      What `report` returns of the best checkpoint, if training is finished; None if a
      signal stopped it early, after saving.

    Raises:
      InputError: if the configuration, the dataset or the workdir is invalid.
      TrainingError: if the loss is not finite or a checkpoint cannot be saved.
    """
    host_connection.end_at_sigterm_before_steps()
    goodput = Goodput(
        seconds_compiling=parallel.seconds_compiling, seconds_before=seconds_before
    )
    config, vocabulary = starting_point.complete(config, find_description(workdir))
    parallel.check_batches(config)
    data = config.data
    experiment = create_experiment(
        config,
        vocabulary,
        required_splits=(data.train_split, data.validation_split),
    )
    # Report a missing split now, not at the end of the first epoch.
    experiment.log_unknown_words(data.train_split, data.validation_split)
    if data.folds:
        # In an order that is the same on all hosts, which that of a set is not.
        for split in (data.validation_split, experiment.default_split):
            index = input_pipeline.split_index(
                experiment.builder, split, data.tokenizer
            )
            check_folds(data.folds, split, index)
    if config.evaluation.suite != "recall":  # another split is reported now
        open_suite(experiment, experiment.default_split)
    experiment.check_same_on_hosts()
    folder = epath.Path(workdir).expanduser()
    with (
        shared_folder.locked(sole_run(workdir), folder),
        contextlib.closing(Checkpoints(workdir)) as checkpoints,
    ):
        saved = find_description(workdir)
        check_same_run(saved, config, workdir)
        experiment.check_same_dataset(saved, workdir)
        return _train(experiment, checkpoints, workdir, goodput)


def _train(experiment, checkpoints, workdir, goodput) -> dict | None:
    training = Training(experiment, checkpoints, workdir, goodput)
    with reporting_writes(workdir):
        experiment.check_not_replaced()
        experiment.write_identity(workdir)
        experiment.keep_backbone(workdir, is_new=training.step == 0)
        is_primary = parallel.is_primary_host()
        writer = create_writer(workdir, training.step, primary=is_primary)
        try:
            finished = training.run(writer)
            with goodput.spent_on(CHECKPOINTS):
                checkpoints.wait()
        finally:
            writer.close()
        if not finished:
            return None
        with goodput.spent_on(EVALUATION):
            reported = training.report_best()
        logger.info("%s", goodput.line())
    return reported


class Training:
    """A training run: its state on the devices and the work between steps."""

    def __init__(
        self,
        experiment: Experiment,
        checkpoints: Checkpoints,
        workdir: str,
        goodput: Goodput,
    ):
        self._experiment = experiment
        self._goodput = goodput
        self._data = create_training_data(experiment)
        self._checkpoints = checkpoints
        self._workdir = workdir
        self._config = config = experiment.config
        self._evaluator = Evaluator(experiment)
        self._steps_per_epoch = input_pipeline.steps_per_epoch(
            experiment.builder, config
        )
        self._stages = plan_stages(config, self._steps_per_epoch)
        self._stage_steps = {}  # by the first step of the stage
        self._num_steps = self._stages[-1].stop
        self._profile = Profile(workdir, config.profile_at_step, self._num_steps)
        self._check_groups()
        state = self._restore_or_create()
        self.step = self._saved = int(state.step)
        self._state = self._steps.placement.put(state)
        self._programs = TrainingPrograms(
            experiment, self._evaluator, self._stages, self._steps_of, self._example
        )

    def _restore_or_create(self) -> TrainState:
        with reporting_writes(self._workdir):  # it moves damaged checkpoints
            restored = self._checkpoints.restore(
                self._checkpoints.steps(), with_optimizer=True
            )
        if restored is None:
            self._set_stage(self._stages[0])
            state = self._steps.create_state(self._example)
            state = load_pretrained(self._config, state)
            table = parameter_overview.get_parameter_overview(
                state.params, include_stats=False
            )
            logger.info("parameters:\n%s", table)
            return state
        vocabulary = vocabularies.of_run(restored.run)
        check_vocabulary(vocabulary, self._experiment.vocabulary)
        logger.info("resuming from the checkpoint of step %d", restored.step)
        # The state after the last step of a stage still belongs to that stage.
        self._set_stage(stage_of(self._stages, max(0, restored.step - 1)))
        create_state = functools.partial(self._steps.create_state, self._example)
        return restored.train_state(jax.eval_shape(create_state))

    def _check_groups(self) -> None:
        if any(stage.groups for stage in self._stages):
            model = None if self._config.start_from else self._config.model
            check_groups(self._stages, self._param_shapes, model)

    @functools.cached_property
    def _param_shapes(self) -> dict:
        """Shapes of the model's parameters; traced only if a pattern needs them."""
        model = self._experiment.create_model(train=True)
        # As an argument, the seed would be an int32, which half of all seeds exceed.
        init = functools.partial(
            init_variables, model, seed=self._config.seed, loss=self._config.loss
        )
        return jax.eval_shape(init, self._example)["params"]

    def _set_stage(self, stage: Stage) -> None:
        self._stage = stage
        self._steps = self._steps_of(stage)

    def _steps_of(self, stage: Stage) -> StageSteps:
        if stage.start not in self._stage_steps:
            is_frozen = stage.groups and stage.freezes_backbone(self._param_shapes)
            self._stage_steps[stage.start] = StageSteps(
                self._experiment,
                stage,
                self._steps_per_epoch,
                train_backbone=not is_frozen,
                in_step=self._data.in_step,
            )
        return self._stage_steps[stage.start]

    @functools.cached_property
    def _example(self) -> dict:
        """A batch, used for its shapes."""
        return next(self._experiment.train_batches(0, 1))

    def _begin_stage(self, stage: Stage) -> None:
        """Starts a stage from the best checkpoint so far, with a new optimizer."""
        with self._goodput.spent_on(CHECKPOINTS):
            self._checkpoints.wait()
            best = self._checkpoints.restore(self._checkpoints.best_first())
        logger.info("fine-tuning the best checkpoint, of step %d", best.step)
        self._set_stage(stage)
        state = self._steps.start_from(best.variables, self.step)
        self._state = self._steps.placement.put(state)

    def run(self, writer) -> bool:
        """Runs the remaining steps; returns False if a signal stopped them early."""
        if self.step == 0:
            writer.write_hparams(flatten(self._config))
        batches = self._data.batches(self.step, self._num_steps - self.step)
        step_log = StepLog(
            self._config,
            self._steps_per_epoch,
            self._num_steps,
            writer,
            self._how_to_resume,
        )
        feed = Feed(batches, self._data.put, step_log.is_idle)
        fits = parallel.reporting_memory(
            self._config.batch_size, "batch_size", self._config.microbatches
        )
        self._goodput.begin(STEPS)
        with Termination() as termination, fits, feed, self._profile:
            for batch, waited in feed:
                self._goodput.waited(waited)
                step_log.waited(waited)
                stage = stage_of(self._stages, self.step)
                if stage != self._stage:
                    self._begin_stage(stage)
                stopping = not self._compile(batch, termination)
                if not stopping:
                    termination.begin_steps()
                    self._profile.before_step(self.step + 1, self._state)
                    self._train(batch, step_log)
                    stopping = termination.is_due()
                if self.step > self._saved and (self._must_save() or stopping):
                    step_log.report(self.step)
                    with step_log.paused(), self._goodput.spent_on(CHECKPOINTS):
                        self._evaluate_and_save(writer)
                elif self._is_multiple_of(self._config.log_every_steps):
                    step_log.report(self.step)
                if stopping:
                    return self._leave()
            if termination.is_due():  # since the last step
                return self._leave()
        return True

    def _compile(self, batch: dict, termination: Termination) -> bool:
        """Compiles what a batch needs; returns False if a signal was received."""
        compiled = self._programs.compile_for(
            self.step, self._state.variables, batch, termination.is_received
        )
        if not compiled and not parallel.is_single_host():
            # It is before the first step, and the other hosts still compile.
            raise StoppedError(
                f"stopped by {signal_name()} during compilation; run the same command "
                "on every host to resume",
                exit_code(),
            )
        return compiled

    def _train(self, batch, step_log):
        step = self._steps.at(self.step)
        self._state, metrics = step(self._state, batch)
        self.step += 1
        step_log.add(self.step, metrics)

    def _is_multiple_of(self, every: int) -> bool:
        return self.step % every == 0

    def _must_evaluate(self) -> bool:
        every = self._config.evaluate_every_epochs * self._steps_per_epoch
        return self._is_multiple_of(every) or self.step == self._stage.stop

    def _must_save(self) -> bool:
        every = self._config.checkpoint_every_steps
        return self._must_evaluate() or self._is_multiple_of(every)

    def _evaluate_and_save(self, writer) -> None:
        metrics = self._evaluate(writer) if self._must_evaluate() else None
        # The curves must include every step that a checkpoint includes.
        writer.flush()
        state = self._steps.placement.fetch(self._state)
        self._check_finite(state)
        run, pca = self._experiment.describe(), self._experiment.pca_arrays
        self._checkpoints.save(state, run, metrics, pca)
        self._saved = self.step

    def _check_finite(self, state: TrainState) -> None:
        """Raises if parameters became non-finite although the loss was finite."""
        leaves = jax.tree.leaves(state.variables)
        if not all(np.isfinite(leaf).all() for leaf in leaves):
            raise TrainingError(
                f"some parameters are not finite after step {self.step}; "
                f"{self._how_to_resume()}; try a smaller "
                "config.optimizer.learning_rate or config.optimizer.gradient_clip"
            )

    def _evaluate(self, writer) -> dict[str, float]:
        split = self._config.data.validation_split
        self._experiment.check_not_replaced()
        with self._goodput.spent_on(EVALUATION):
            evaluation = self._evaluator.evaluate(self._state.result, split)
        metrics = evaluation.metrics
        writer.write_scalars(
            self.step, {f"{split}/{name}": value for name, value in metrics.items()}
        )
        picture = pictures.retrieved(self._experiment, evaluation)
        if picture is not None:
            writer.write_images(self.step, {f"{split}/retrieved": picture[None]})
        is_best = self._checkpoints.would_be_best(metrics["rsum"])
        logger.info(
            "%s: rSum %.1f, R@1 image to text %.1f, text to image %.1f%s",
            split,
            metrics["rsum"],
            metrics["i2t_r1"],
            metrics["t2i_r1"],
            ", the best so far" if is_best else "",
        )
        return metrics

    def _leave(self) -> bool:
        with self._goodput.spent_on(CHECKPOINTS):
            self._checkpoints.wait()
        logger.info("%s", self._goodput.line())
        when = f"after step {self.step}, which is saved"
        if self.step == 0:
            when = "before the first step"
        logger.info(
            "stopped by %s %s; run the same command to resume", signal_name(), when
        )
        return False

    def _how_to_resume(self) -> str:
        self._checkpoints.wait()  # a save that is still pending may fail
        steps = self._checkpoints.steps()
        if not steps:
            return "no checkpoint was saved before this step"
        return f"the last good checkpoint is {self._checkpoints.path(steps[0])}"

    def report_best(self) -> dict:
        """Evaluates the best checkpoint on the test split and prints the report.

        Returns:
          What `report` returns.
        """
        restored = self._checkpoints.restore(self._checkpoints.best_first())
        variables = parallel.replicate(restored.variables)
        self._experiment.check_not_replaced()
        split = self._experiment.default_split
        self._experiment.log_unknown_words(split)
        suite = open_suite(self._experiment, split)
        evaluation = self._evaluator.evaluate_for_report(variables, split)
        evaluation = evaluation.with_suite(suite, self._config.loss.similarity)
        reported = report(self._experiment, evaluation, self._workdir, restored.step)
        if parallel.is_primary_host():
            report_if_images(self._experiment, evaluation, self._workdir, restored)
            print(f"checkpoint:  {self._checkpoints.path(restored.step)}")
            print_commands(self._workdir, evaluation.index.captions[0])
        return reported
