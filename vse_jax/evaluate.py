"""Evaluation of a checkpoint: the program's `--mode=eval`."""

import logging
from typing import NamedTuple

import numpy as np

from vse_jax import files, parallel, run_config, saved_model
from vse_jax.checkpoint import Restored
from vse_jax.data.records import content_of
from vse_jax.data.text import vocabularies
from vse_jax.errors import InputError, differences, reporting_writes
from vse_jax.evaluation.evaluator import Evaluation, Evaluator
from vse_jax.evaluation.report import report
from vse_jax.evaluation.suites import open_suite
from vse_jax.experiment import Experiment, create_experiment
from vse_jax.models.vse import content_dim

logger = logging.getLogger(__name__)

# Photos of other datasets may be extracted in the same way.
_FREE_IN_EXTRACTION = (
    "photos",
    "config.data.builder",
    "config.extract.shard_megabytes",
)


def evaluate(
    workdir: str,
    split: str = "",
    checkpoint: str = "best",
    overrides: dict | None = None,
) -> dict[str, float]:
    """Evaluates a checkpoint; prints a table and writes `eval/<split>.json`.

    Args:
      workdir: folder of the run.
      split: name of the split; "" for the test split, or for the validation split if
        there is no test split.
      checkpoint: `best` on the validation split, `latest`, or a step.
      overrides: values by dotted option names, for `run_config.EVALUATION_OPTIONS`.
        The checkpoint determines all other options.

    Returns:
      The metrics, see `retrieval.recalls`.

    Raises:
      InputError: if the checkpoint, dataset or split does not exist, if an option
        cannot be overridden, or if the suite has another split.
    """
    run = open_run(workdir, split, checkpoint, overrides)
    evaluation, _ = run.evaluate_and_report()
    return evaluation.metrics


class OpenRun(NamedTuple):
    """A checkpoint with the split that it is evaluated on.

    Attributes:
      workdir: folder of the run.
      experiment: the run's dataset, vocabulary and model.
      restored: content of the checkpoint.
      split: name of the split.
    """

    workdir: str
    experiment: Experiment
    restored: Restored
    split: str

    def evaluate(self) -> Evaluation:
        """Embeds the split and ranks it."""
        variables = parallel.replicate(self.restored.variables)
        return Evaluator(self.experiment).evaluate_for_report(variables, self.split)

    def evaluate_and_report(self) -> tuple[Evaluation, dict]:
        """Prints a table and writes files; returns also what `report` returns.

        Raises:
          InputError: if the suite has another split.
        """
        suite = open_suite(self.experiment, self.split)
        similarity = self.experiment.config.loss.similarity
        evaluation = self.evaluate().with_suite(suite, similarity)
        with reporting_writes(self.workdir):
            step = self.restored.step
            reported = report(self.experiment, evaluation, self.workdir, step)
        return evaluation, reported


def open_run(
    workdir: str,
    split: str = "",
    checkpoint: str = "best",
    overrides: dict | None = None,
) -> OpenRun:
    """Restores a checkpoint and checks that the split fits it.

    The arguments are those of `evaluate`.

    Raises:
      InputError: if the checkpoint, dataset or split does not exist or does not fit, or
        if an option cannot be overridden.
    """
    restored = saved_model.restore(workdir, checkpoint)
    config = run_config.merge(restored.run["config"], overrides or {})
    parallel.check_batch_size(config.evaluation_batch_size, "evaluation_batch_size")
    experiment = create_experiment(config, vocabularies.of_run(restored.run))
    experiment.check_same_on_hosts()
    check_dimensions(experiment, content_dim(restored.variables))
    split = split or experiment.default_split
    check_dataset(experiment, restored, workdir, split)
    if config.evaluation.hubness:
        check_dataset(experiment, restored, workdir, config.data.train_split)
    experiment.log_unknown_words(split)
    return OpenRun(workdir, experiment, restored, split)


def check_dataset(
    experiment: Experiment, restored: Restored, workdir: str, split: str
) -> None:
    """Checks that the split did not change since training, nor the kind of features.

    If the user names other data explicitly, a difference of the split is only logged.

    Args:
      experiment: experiment with the dataset.
      restored: the checkpoint; its variables are not used.
      workdir: folder of the run.
      split: name of the split.

    Raises:
      InputError: if they changed; says what.
    """
    run = restored.run
    _check_extraction(experiment, run)
    _check_pca(experiment, restored)
    remembered = (run["dataset"] or {}).get("splits", {})
    found = experiment.identity.summary()["splits"]
    parts = [part for part in split.split("+") if part in remembered]
    if experiment.config.data.vocabulary == "checkpoint":
        return
    if all(found.get(part) == remembered[part] for part in parts):
        return
    changed = experiment.difference(run, workdir)
    message = (
        f"{experiment.builder.data_dir}: the split {split!r} has changed since "
        f"training: {changed}"
    )
    if _same_place(experiment.config.data, run["config"]["data"]):
        raise InputError(
            f"{message}; restore it, set config.data.root to other data to evaluate on "
            "that, or set config.data.vocabulary=checkpoint"
        )
    logger.warning("%s", message)


def _same_place(data, saved):
    options = ("root", "data_dir", "name", "annotations")
    return all(
        files.absolute(data[option]) == files.absolute(saved[option])
        for option in options
    )


def _check_extraction(experiment, run):
    trained_on = run["extraction"]
    found = experiment.extraction
    if not trained_on or not found:
        return
    if differing := differences(_deciding(trained_on), _deciding(found)):
        raise InputError(
            f"{experiment.builder.data_dir}: its features were extracted with other "
            f"options than those of the training: {', '.join(differing)}; extract them "
            "with the same options"
        )


def _deciding(extraction):
    """Returns the options of an extraction that decide its features."""
    return {k: v for k, v in extraction.items() if k not in _FREE_IN_EXTRACTION}


def _check_pca(experiment, restored):
    """Refuses features of another PCA: equal options fit another on other photos."""
    trained_on, found = restored.pca, experiment.pca_arrays
    if not trained_on or not found or not restored.run["extraction"]:
        return
    same = trained_on.keys() == found.keys() and all(
        array.shape == found[name].shape
        and np.allclose(array, found[name], rtol=1e-2, atol=1e-3)
        for name, array in trained_on.items()
    )
    if not same:
        raise InputError(
            f"{experiment.builder.data_dir}: its features were projected with another "
            "PCA than those of the training, as it was fitted on other photos; copy "
            "pca.npz of the training's features to the new folder of features before "
            "you extract, or extract and train without config.extract.pca_dim"
        )


def check_dimensions(experiment: Experiment, expected: int | None) -> None:
    """Checks that features have the size that the model was trained on.

    Args:
      experiment: experiment with the dataset.
      expected: dimensions of a region or a feature that the model takes.

    Raises:
      InputError: if they differ.
    """
    content = content_of(experiment.builder)
    if content.key != "image" and content.dim != expected:
        raise InputError(
            f"{experiment.builder.data_dir} has {content.key} of {content.dim} "
            f"dimensions, but the checkpoint was trained on {expected}; set "
            "config.data.root to features of the same kind"
        )
