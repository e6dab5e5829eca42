"""Writes the HTML report of runs: the program's `--mode=report`."""

from collections.abc import Sequence

from etils import epath

from vse_jax import files, parallel
from vse_jax.checkpoint import Restored
from vse_jax.data.records import content_of
from vse_jax.errors import reporting_writes
from vse_jax.evaluation.evaluator import Evaluation
from vse_jax.evaluation.report import path_of
from vse_jax.experiment import Experiment
from vse_jax.run_report.facts import RunFacts, collect
from vse_jax.run_report.page import page
from vse_jax.several_runs import open_runs


def report(
    workdirs: Sequence[str],
    split: str = "",
    checkpoint: str = "best",
    overrides: dict | None = None,
    output: str = "",
) -> None:
    """Evaluates runs and writes the report of one, or a comparison of several.

    Args:
      workdirs: folders of the runs.
      split: name of the split; "" for the default split of the first run.
      checkpoint: `best`, `latest` or a step, of every run.
      overrides: values by dotted option names, for every run.
      output: HTML file; "" for `eval/<split>.html` of the run, or
        `eval/<split>-runs.html` of the first of several.

    Raises:
      InputError: if a run cannot be opened, or if the runs have different splits.
      TrainingError: if the file cannot be written.
    """
    runs = open_runs(workdirs, split, checkpoint, overrides or {})
    with reporting_writes(output or workdirs[0]):
        facts = []
        for run in runs:
            evaluation = run.evaluate()
            if parallel.is_primary_host():
                restored = run.restored
                facts.append(collect(run.experiment, evaluation, run.workdir, restored))
        if parallel.is_primary_host():
            write(facts, output)


def report_if_images(
    experiment: Experiment, evaluation: Evaluation, workdir: str, restored: Restored
) -> None:
    """Writes the report of a training, if its dataset has images.

    Args:
      experiment: experiment that was trained.
      evaluation: evaluation of one of its splits.
      workdir: folder of the run.
      restored: checkpoint that was evaluated.
    """
    if content_of(experiment.builder).key == "image":
        write([collect(experiment, evaluation, workdir, restored)])


def write(runs: Sequence[RunFacts], output: str = "") -> None:
    """Writes the page of runs atomically, and prints its path.

    Args:
      runs: what the page shows.
      output: see `report`.
    """
    kind = "-runs" if len(runs) > 1 else ""
    if output:
        path = epath.Path(output).expanduser()
    else:
        path = path_of(runs[0].workdir, f"{runs[0].split}{kind}.html")
    with files.unfinished(path, shared=True) as unfinished:
        unfinished.write_text(page(runs))
    print(f"report:      {path}", flush=True)
