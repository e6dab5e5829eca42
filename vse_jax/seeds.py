"""Several seeds of one configuration: the program's `--seeds`.

Each seed has a workdir of its own, beside the others: `WORKDIR_seed0`, `WORKDIR_seed1`.
It is the run that `--config.seed=0 --workdir=WORKDIR_seed0` makes, bit for bit.
"""

import gc
import logging
from collections.abc import Mapping, Sequence

import jax
import ml_collections
from etils import epath

from vse_jax import parallel, run_config, saved_model, starting_point, train
from vse_jax.checkpoint import Checkpoints, find_description
from vse_jax.data import input_pipeline
from vse_jax.errors import InputError, reporting_writes
from vse_jax.evaluate import OpenRun, open_run
from vse_jax.evaluation import report
from vse_jax.evaluation.suites import TITLES, format_metrics_of
from vse_jax.run_report.statistics import mean_and_deviation
from vse_jax.seed_workdirs import Seed, beside, of_workdir
from vse_jax.stages import plan_stages

logger = logging.getLogger(__name__)

# Options of an evaluation that decide what its metrics mean.
_OF_EVALUATION = (
    "data.folds",
    "evaluation.suite",
    "evaluation.hubness",
    "evaluation.hubness_alpha",
    "evaluation.hubness_k",
)
# The metrics in `eval/<split>.json`, with their titles.
_TITLES = {
    "metrics": "",
    "fold_metrics": "mean of {folds} folds",
    "hubness_metrics": "corrected for hubness",
    "hubness_fold_metrics": "corrected for hubness, mean of {folds} folds",
    **{f"{name}_metrics": f"{title}, means" for name, title in TITLES.items()},
}


def train_and_evaluate(
    config: ml_collections.ConfigDict,
    workdir: str,
    numbers: Sequence[int],
    output: str = "",
    seconds_before: float = 0.0,
) -> bool:
    """Trains and evaluates one seed after the other, then prints their mean.

    A seed that has finished is evaluated again, but not trained.

    Args:
      config: configuration of all seeds.
      workdir: start of the names of their folders.
      numbers: the seeds.
      output: JSON file; "" for `WORKDIR_seeds_<split>.json`.
      seconds_before: time that the start has taken already, for the log.

    Returns:
      Whether all seeds are finished; False if a signal stopped one, after saving.

    Raises:
      InputError: if the configuration, the dataset or a workdir is invalid.
      TrainingError: if a training fails, or a file cannot be written.
    """
    seeds = of_workdir(workdir, numbers)
    configs = [_with_seed(config, seed.number) for seed in seeds]
    # The last workdir should not be refused after days of training.
    for seed, own in zip(seeds, configs, strict=True):
        if saved := find_description(seed.workdir):
            complete, _ = starting_point.complete(own, saved)
            run_config.check_same_run(saved, complete, seed.workdir)
    reports = []
    for place, (seed, own) in enumerate(zip(seeds, configs, strict=True), 1):
        which = f"seed {seed.number} ({place} of {len(seeds)})"
        logger.info("%s: %s", which, seed.workdir)
        reported = train.train_and_evaluate(own, seed.workdir, seconds_before)
        if reported is None:
            return False
        reports.append(reported)
        seconds_before = 0.0
        _release_memory()
    _summarize(seeds, reports, workdir, output)
    return True


def evaluate(
    workdir: str,
    numbers: Sequence[int],
    split: str = "",
    checkpoint: str = "best",
    overrides: dict | None = None,
    output: str = "",
) -> None:
    """Evaluates the run of each seed, then prints their mean.

    Args:
      workdir: start of the names of the runs' folders.
      numbers: the seeds.
      split: name of the split; "" for the default split of the first run.
      checkpoint: `best`, `latest` or a step, of every run.
      overrides: values by dotted option names, for every run.
      output: JSON file; "" for `WORKDIR_seeds_<split>.json`.

    Raises:
      InputError: if a run cannot be opened, or is no seed of the same configuration.
      TrainingError: if a file cannot be written.
    """
    seeds = of_workdir(workdir, numbers)
    _check_seeds(seeds, checkpoint, overrides)
    reports = []
    for seed in seeds:
        run = open_run(seed.workdir, split, checkpoint, overrides)
        split = run.split
        _warn_if_unfinished(run)
        reports.append(run.evaluate_and_report()[1])
    _summarize(seeds, reports, workdir, output)


def _with_seed(config, number):
    config = config.copy_and_resolve_references()
    config.seed = number
    return config


def _release_memory() -> None:
    """Releases the arrays and programs of a training that has ended."""
    gc.collect()  # cycles of references hold arrays on the devices
    jax.clear_caches()


def _check_seeds(
    seeds: Sequence[Seed], checkpoint: str, overrides: dict | None
) -> None:
    runs = {
        seed.workdir: saved_model.read_description(seed.workdir, checkpoint)
        for seed in seeds
    }
    for seed, run in zip(seeds, runs.values(), strict=True):
        found = run["config"]["seed"]
        if found != seed.number:
            raise InputError(
                f"{seed.workdir} has a run with config.seed={found}; expected "
                f"{seed.number}; move it to another folder"
            )
    run_config.check_same_but_seed(runs)
    _check_same_evaluation(runs, overrides)


def _check_same_evaluation(runs: Mapping[str, dict], overrides: dict | None) -> None:
    """Checks that all runs are evaluated by the same options, or raises InputError.

    Training does not depend on them, so seeds of one configuration may have saved
    others. Metrics by other options have no common mean.
    """
    configs = [
        run_config.merge(run["config"], overrides or {}) for run in runs.values()
    ]
    for option in _OF_EVALUATION:
        values = [run_config.value_of(config, option) for config in configs]
        for workdir, value in zip(runs, values, strict=True):
            if value != values[0]:
                raise InputError(
                    f"config.{option} is {values[0]!r} in {next(iter(runs))} and "
                    f"{value!r} in {workdir}; set it for all, such as by "
                    f"--config.{option}={values[0]}"
                )


def _warn_if_unfinished(run: OpenRun) -> None:
    """Warns of a run that can be resumed, if its training data is at hand."""
    saved = Checkpoints(run.workdir, read_only=True).steps()  # none in an export
    trained_on = run.restored.run["dataset"] or {}
    if not saved or run.experiment.identity.digest != trained_on.get("digest"):
        return
    config, builder = run.experiment.config, run.experiment.builder
    per_epoch = input_pipeline.steps_per_epoch(builder, config)
    steps = plan_stages(config, per_epoch)[-1].stop
    if saved[0] < steps:
        logger.warning(
            "%s has not finished training: step %d of %d", run.workdir, saved[0], steps
        )


def _summarize(
    seeds: Sequence[Seed], reports: Sequence[dict], workdir: str, output: str
) -> None:
    """Prints the means and deviations and writes them, on the primary host."""
    if not parallel.is_primary_host():
        return
    summary = summarize(seeds, reports)
    print(format_summary(summary))
    for run in summary["runs"]:
        print(
            f"{'seed ' + str(run['seed']) + ':':12} rSum {run['metrics']['rsum']:.1f}, "
            f"{run['workdir']}, checkpoint of step {run['step']:,}"
        )
    path = output or f"{beside(workdir)}_seeds_{summary['split']}.json"
    with reporting_writes(path):
        report.write_json(epath.Path(path).expanduser(), summary)
    print(f"summary:     {path}", flush=True)


def summarize(seeds: Sequence[Seed], reports: Sequence[dict]) -> dict:
    """Returns the mean and the sample standard deviation (n - 1) of each metric.

    Args:
      seeds: at least two seeds.
      reports: content of their `eval/<split>.json`.

    Returns:
      The content of the summary file. `mean` and `standard_deviation` have the same
      groups of metrics as a report.
    """
    first = reports[0]
    groups = [group for group in _TITLES if group in first]
    statistics = {
        group: {
            name: mean_and_deviation([each[group][name] for each in reports])
            for name in first[group]
        }
        for group in groups
    }
    shared = ("split", "images", "captions", "folds")
    of_run = ("step", *groups)
    return {
        **{name: first[name] for name in shared if name in first},
        "seeds": [seed.number for seed in seeds],
        "mean": _part(statistics, 0),
        "standard_deviation": _part(statistics, 1),
        "standard_deviation_is": "of the sample, with n - 1",
        "runs": [
            {"seed": seed.number, "workdir": seed.workdir}
            | {name: each[name] for name in of_run}
            for seed, each in zip(seeds, reports, strict=True)
        ],
        "config": {n: v for n, v in first["config"].items() if n != "seed"},
    }


def _part(statistics, place):
    return {
        group: {name: pair[place] for name, pair in of_metrics.items()}
        for group, of_metrics in statistics.items()
    }


def format_summary(summary: dict) -> str:
    """Returns tables of means and standard deviations, with a title."""
    title = (
        f"{summary['split']} split, {summary['images']:,} images, "
        f"{summary['captions']:,} captions, mean of {len(summary['seeds'])} seeds and "
        "sample standard deviation (n - 1)"
    )
    parts = [f"\n{title}"]
    for group, mean in summary["mean"].items():
        if heading := _TITLES[group].format(folds=summary.get("folds")):
            parts.append(heading)
        if (suite := group.removesuffix("_metrics")) in TITLES:
            parts.append(format_metrics_of(suite, mean))
        else:
            parts.append(_table(mean, summary["standard_deviation"][group]))
    return "\n".join(parts)


def _table(mean, deviation):
    def cell(name):
        return f"{mean[name]:7.1f} \u00b1{deviation[name]:5.1f}"

    names = ("R@1", "R@5", "R@10", "median", "mean")
    lines = [f"{'':14}" + "".join(f"{name:>14}" for name in names)]
    for direction, title in (("i2t", "image to text"), ("t2i", "text to image")):
        keys = [f"{direction}_{name}" for name in ("r1", "r5", "r10", "medr", "meanr")]
        lines.append(f"{title:14}" + "".join(map(cell, keys)))
    return "\n".join([*lines, f"{'rSum':14}{cell('rsum')}"])
