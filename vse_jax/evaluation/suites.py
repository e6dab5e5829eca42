"""Chooses the suite that evaluates a split beyond recall on its own ground truth."""

from collections.abc import Mapping
from typing import NamedTuple, Protocol

from vse_jax.data.split_index import split_index
from vse_jax.errors import InputError
from vse_jax.evaluation import coco_test, cxc, eccv
from vse_jax.evaluation.coco_test import Rows
from vse_jax.evaluation.embedder import Embeddings
from vse_jax.experiment import Experiment

TITLES = {"cxc": "Crisscrossed Captions", "eccv": "ECCV Caption"}


class Result(NamedTuple):
    """What a suite measured.

    Attributes:
      name: name of the suite, a key of `TITLES`.
      metrics: by name, see the suite.
    """

    name: str
    metrics: Mapping[str, float]


class _Tasks(Protocol):
    def measure(self, embeddings: Embeddings, similarity: str) -> dict[str, float]: ...


class Suite(NamedTuple):
    """A suite with the place of its images and captions in a split.

    Attributes:
      name: a key of `TITLES`.
      tasks: what it measures.
      rows: where the split has the images and captions.
    """

    name: str
    tasks: _Tasks
    rows: Rows

    def measure(self, embeddings: Embeddings, similarity: str) -> Result:
        """Evaluates the embeddings of the split.

        Args:
          embeddings: of the split; with an axis of models for an ensemble.
          similarity: one of `similarity.SIMILARITIES`.
        """
        metrics = self.tasks.measure(self.rows.of(embeddings), similarity)
        return Result(self.name, metrics)


def format_metrics_of(name: str, metrics: Mapping[str, float]) -> str:
    """Returns the metrics of a suite as a table.

    Args:
      name: a key of `TITLES`.
      metrics: by name, see the suite.
    """
    return {"cxc": cxc, "eccv": eccv}[name].format_metrics(metrics)


def open_suite(experiment: Experiment, split: str) -> Suite | None:
    """Reads the ground truth of `config.evaluation.suite` and finds it in a split.

    Args:
      experiment: experiment with the dataset.
      split: name of the split.

    Returns:
      None for `recall`, which every evaluation has.

    Raises:
      InputError: if the split is not COCO's test split, or if the ground truth is
        missing or damaged.
    """
    options = experiment.config.evaluation
    if options.suite == "recall":
        return None
    if options.suite == "cxc" and not options.cxc:
        raise InputError(
            "config.evaluation.suite is 'cxc', but config.evaluation.cxc is empty; set "
            "it to the folder of CxC's sts_test.csv, sis_test.csv and sits_test.csv"
        )
    coco = coco_test.read()
    index = split_index(experiment.builder, split, experiment.config.data.tokenizer)
    rows = coco_test.locate(coco, index, split, options.suite)
    if options.suite == "cxc":
        tasks = cxc.CrisscrossedCaptions.read(coco, options.cxc)
    else:
        tasks = eccv.EccvCaption.read(coco)
    return Suite(options.suite, tasks, rows)
