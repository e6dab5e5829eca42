"""Embeds a split, ranks it and computes the metrics."""

import dataclasses
import functools
from typing import NamedTuple

import ml_collections
import numpy as np

from vse_jax.compile_ahead import Compilation
from vse_jax.data.split_index import SplitIndex
from vse_jax.errors import InputError
from vse_jax.evaluation import bootstrap, hubness, retrieval
from vse_jax.evaluation.embedder import Embedder, Embeddings
from vse_jax.evaluation.suites import Result, Suite
from vse_jax.experiment import Experiment


class Corrected(NamedTuple):
    """Metrics with scores corrected for hubness, see `hubness`.

    Attributes:
      metrics: see `retrieval.recalls`.
      fold_metrics: mean metrics over folds; None without folds.
    """

    metrics: dict[str, float]
    fold_metrics: dict[str, float] | None


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The embeddings and metrics of a split.

    Attributes:
      split: name of the split.
      index: index of the split, which relates captions to images.
      embeddings: embeddings of the images and captions.
      ranks: ranks of the right answers.
      metrics: see `retrieval.recalls`.
      fold_metrics: mean metrics over `config.data.folds` folds; None without folds.
      corrected: metrics with scores corrected for hubness; None if not asked for.
      of_suite: metrics of `config.evaluation.suite`; None for `recall`.
    """

    split: str
    index: SplitIndex
    embeddings: Embeddings
    ranks: retrieval.Ranks
    metrics: dict[str, float]
    fold_metrics: dict[str, float] | None
    corrected: Corrected | None = None
    of_suite: Result | None = None

    @functools.cached_property
    def intervals(self) -> dict[str, list[float]]:
        """Bootstrap intervals of the metrics over images, see `bootstrap.intervals`."""
        index = self.index
        return bootstrap.intervals(self.ranks, index.image_id, index.caption_image_id)

    def with_suite(self, suite: Suite | None, similarity: str) -> "Evaluation":
        """Adds the metrics of a suite.

        Args:
          suite: see `suites.open_suite`; None adds nothing.
          similarity: one of `similarity.SIMILARITIES`.
        """
        if suite is None:
            return self
        result = suite.measure(self.embeddings, similarity)
        return dataclasses.replace(self, of_suite=result)


class Evaluator:
    """Evaluates splits of an experiment's dataset; compiles once per batch shape."""

    def __init__(self, experiment: Experiment):
        self._config = experiment.config
        self._embedder = Embedder(experiment)

    def programs(self, variables: dict, split: str) -> list[Compilation]:
        """Returns the programs of an evaluation, see `Embedder.programs`."""
        return self._embedder.programs(variables, split)

    def evaluate(self, variables: dict, split: str) -> Evaluation:
        """Evaluates a split.

        Args:
          variables: variables of the model, on all devices.
          split: name of the split.

        Raises:
          InputError: if the split does not exist, is empty, or has fewer images than
            folds.
          TrainingError: if an embedding is not finite, or if memory is insufficient.
        """
        index, embeddings = self._embedder.embed(variables, split)
        similarity, folds = self._config.loss.similarity, self._config.data.folds
        return evaluate_embeddings(split, index, embeddings, similarity, folds)

    def evaluate_for_report(self, variables: dict, split: str) -> Evaluation:
        """Evaluates a split, also corrected if `config.evaluation.hubness` is set.

        Args:
          variables: variables of the model, on all devices.
          split: name of the split.

        Raises:
          InputError: see `evaluate` and `correct`.
          TrainingError: see `evaluate`.
        """
        evaluation = self.evaluate(variables, split)
        if self._config.evaluation.hubness:
            return self.correct(variables, evaluation)
        return evaluation

    def correct(self, variables: dict, evaluation: Evaluation) -> Evaluation:
        """Adds the metrics with scores corrected for hubness; embeds the train split.

        Args:
          variables: variables of the model, on all devices.
          evaluation: evaluation of a split.

        Returns:
          The evaluation with `corrected`.

        Raises:
          InputError: if the dataset has no train split.
        """
        _, bank = self._embedder.embed(variables, self._config.data.train_split)
        return correct(evaluation, bank, self._config)


def correct(
    evaluation: Evaluation,
    bank: Embeddings,
    config: ml_collections.ConfigDict,
) -> Evaluation:
    """Adds the metrics with scores corrected for hubness.

    Args:
      evaluation: evaluation of a split.
      bank: embeddings of the training split.
      config: see `configs/common.py`.

    Returns:
      The evaluation with `corrected`.

    Raises:
      InputError: if the bank is empty.
    """
    index, embeddings = evaluation.index, evaluation.embeddings
    similarity, folds = config.loss.similarity, config.data.folds
    biases = hubness.biases(
        embeddings,
        bank,
        alpha=config.evaluation.hubness_alpha,
        k=config.evaluation.hubness_k,
        similarity=similarity,
    )
    arguments = (*embeddings, index.image_id, index.caption_image_id, similarity)
    metrics = retrieval.recalls(retrieval.rank(*arguments, biases=biases))
    fold_metrics = None
    if folds:
        fold_metrics = retrieval.evaluate_folds(*arguments, folds, biases=biases)
    corrected = Corrected(metrics, fold_metrics)
    return dataclasses.replace(evaluation, corrected=corrected)


def evaluate_embeddings(
    split: str, index: SplitIndex, embeddings: Embeddings, similarity: str, folds: int
) -> Evaluation:
    """Ranks the embeddings of a split and computes the metrics.

    Args:
      split: name of the split.
      index: index of the split, which relates captions to images.
      embeddings: embeddings of the images and captions.
      similarity: one of `similarity.SIMILARITIES`.
      folds: number of folds to average over in addition, 0 for none.

    Raises:
      InputError: see `check_folds`.
    """
    ids = index.image_id, index.caption_image_id
    ranks = retrieval.rank(*embeddings, *ids, similarity)
    metrics = retrieval.recalls(ranks)
    fold_metrics = None
    if folds:
        check_folds(folds, split, index)
        fold_metrics = retrieval.evaluate_folds(*embeddings, *ids, similarity, folds)
    return Evaluation(split, index, embeddings, ranks, metrics, fold_metrics)


def check_folds(folds: int, split: str, index: SplitIndex) -> None:
    """Checks that every fold of a split has images and captions.

    Args:
      folds: `config.data.folds`, 0 for none.
      split: name of the split.
      index: index of the split.

    Raises:
      InputError: if there are more folds than images, or if a fold has no caption.
    """
    if folds > index.image_count:
        raise InputError(
            f"config.data.folds is {folds}, but the split {split!r} has "
            f"{index.image_count} images; set it to 0"
        )
    parts = np.array_split(index.caption_counts, folds) if folds else []
    for fold, counts in enumerate(parts):
        if not counts.any():
            raise InputError(
                f"config.data.folds is {folds}, but the images of fold {fold} of the "
                f"split {split!r} have no captions; set it to 0"
            )
