"""Evaluation of several runs together: the program's `--mode=eval --ensemble`.

The similarity of an image and a caption is the mean of the runs' similarities. For the
cosine similarity, embeddings are scaled to unit length first, so that all runs have the
same weight (VSE0 does not normalize its images). Order similarities are distances;
their mean is that of the distances as they are. The two kinds have different scales, so
an ensemble has only one of them.

The matrices are averaged tile by tile, see `evaluation.retrieval.rank`. Embeddings of
different sizes are padded with zeros, which changes neither similarity.
"""

import json
from collections.abc import Sequence

import numpy as np
from etils import epath

from vse_jax import parallel, saved_model
from vse_jax.errors import InputError, reporting_writes
from vse_jax.evaluate import OpenRun
from vse_jax.evaluation import report
from vse_jax.evaluation.embedder import Embeddings
from vse_jax.evaluation.evaluator import evaluate_embeddings
from vse_jax.evaluation.suites import open_suite
from vse_jax.several_runs import open_runs


def evaluate(
    workdirs: Sequence[str],
    split: str = "",
    checkpoint: str = "best",
    overrides: dict | None = None,
    output: str = "",
) -> dict[str, float]:
    """Evaluates the mean similarity of runs; prints a table and writes a JSON file.

    Args:
      workdirs: folders of at least two runs.
      split: name of the split; "" for the default split of the first run.
      checkpoint: `best`, `latest` or a step, of every run.
      overrides: values by dotted option names, for every run.
      output: JSON file; "" for `eval/<split>-ensemble.json` of the first run.

    Returns:
      The metrics, see `retrieval.recalls`.

    Raises:
      InputError: if a run cannot be opened, or if the runs do not fit together.
    """
    if len(workdirs) < 2:
        raise InputError(
            f"--ensemble names {len(workdirs)} run; expected at least two, such as "
            "--ensemble=runs/a,runs/b"
        )
    runs = open_runs(workdirs, split, checkpoint, overrides or {})
    _check_similarity(runs)
    _check_distinct(runs)
    suite = open_suite(runs[0].experiment, runs[0].split)
    evaluations = [run.evaluate() for run in runs]
    config = runs[0].experiment.config
    similarity, folds = config.loss.similarity, config.data.folds
    evaluation = evaluate_embeddings(
        runs[0].split,
        evaluations[0].index,
        stack([each.embeddings for each in evaluations], similarity),
        similarity,
        folds,
    ).with_suite(suite, similarity)
    with reporting_writes(output or workdirs[0]):
        _report(runs, evaluations, evaluation, folds, output)
    return evaluation.metrics


def stack(embeddings: Sequence[Embeddings], similarity: str) -> Embeddings:
    """Returns the embeddings of several models, with an axis of models.

    Args:
      embeddings: of each model, of the same images and captions.
      similarity: one of `similarity.SIMILARITIES`. For `cosine`, the result has unit
        length.

    Returns:
      `[models, images, embed]` and `[models, captions, embed]`, padded with zeros to
      the largest size.
    """
    size = max(each.images.shape[1] for each in embeddings)

    def padded(array):
        if similarity == "cosine":
            norm = np.linalg.norm(array, axis=1, keepdims=True)
            array = array / np.maximum(norm, np.finfo(np.float32).tiny)
        return np.pad(array, ((0, 0), (0, size - array.shape[1])))

    return Embeddings(
        np.stack([padded(each.images) for each in embeddings]),
        np.stack([padded(each.captions) for each in embeddings]),
    )


def _check_similarity(runs: Sequence[OpenRun]) -> None:
    first, *others = (run.experiment.config.loss.similarity for run in runs)
    for run, similarity in zip(runs[1:], others, strict=True):
        if similarity != first:
            raise InputError(
                f"{run.workdir} has the similarity {similarity!r} and "
                f"{runs[0].workdir} {first!r} (config.loss.similarity), which have "
                "different scales; average runs of the same similarity"
            )


def _check_distinct(runs: Sequence[OpenRun]) -> None:
    """Raises InputError if a run and its copy or export are named."""
    first_of = {}
    for run in runs:
        first = first_of.setdefault(saved_model.fingerprint(run.restored), run)
        if first is not run:
            raise InputError(
                f"{first.workdir} and {run.workdir} have the same model, which would "
                "count twice; name each model once"
            )


def _report(runs, evaluations, evaluation, folds, output):
    """Prints the tables and writes the JSON file, on the primary host."""
    if not parallel.is_primary_host():
        return
    print(report.format_report(evaluation, f"mean of {len(runs)} runs", folds))
    if evaluation.of_suite:
        print(report.format_suite(evaluation.of_suite))
    for run, each in zip(runs, evaluations, strict=True):
        print(
            f"alone:       rSum {each.metrics['rsum']:.1f}, {run.workdir}, "
            f"checkpoint of step {run.restored.step:,}"
        )
    path = epath.Path(output).expanduser() if output else None
    path = path or report.path_of(runs[0].workdir, f"{evaluation.split}-ensemble.json")
    members = [
        {
            "workdir": run.workdir,
            "step": run.restored.step,
            "metrics": each.metrics,
            "config": json.loads(run.experiment.config.to_json()),
        }
        for run, each in zip(runs, evaluations, strict=True)
    ]
    report.write_json(path, report.content(evaluation, folds) | {"runs": members})
    print(f"metrics:     {path}", flush=True)
