"""Reports an evaluation: a table on the terminal, a JSON file and a picture."""

import json
import shlex
import sys

import ml_collections
from etils import epath

from vse_jax import files, parallel
from vse_jax.evaluation import pictures
from vse_jax.evaluation.evaluator import Corrected, Evaluation
from vse_jax.evaluation.suites import TITLES, Result, format_metrics_of
from vse_jax.experiment import Experiment


def report(
    experiment: Experiment, evaluation: Evaluation, workdir: str, step: int
) -> dict:
    """Prints a table and writes `eval/<split>.json`, and a picture if there are photos.

    Other hosts than the primary do nothing.

    Args:
      experiment: experiment that was evaluated.
      evaluation: evaluation of one of its splits.
      workdir: folder of the run.
      step: step of the checkpoint.

    Returns:
      The content of the JSON file; {} on other hosts than the primary.
    """
    if not parallel.is_primary_host():
        return {}
    folds = experiment.config.data.folds
    print(format_report(evaluation, f"checkpoint of step {step:,}", folds))
    if evaluation.corrected:
        images = evaluation.index.image_count
        print(format_corrected(evaluation.corrected, experiment.config, images))
    if evaluation.of_suite:
        print(format_suite(evaluation.of_suite))
    content_of_run = _content_of_run(experiment, evaluation, step)
    path = path_of(workdir, f"{evaluation.split}.json")
    write_json(path, content_of_run)
    print(f"metrics:     {path}")
    picture = pictures.retrieved(experiment, evaluation)
    if picture is not None:
        pictures.save(picture, path.with_suffix(".png"))
        print(f"pictures:    {path.with_suffix('.png')}")
    sys.stdout.flush()
    return content_of_run


def _content_of_run(experiment, evaluation, step):
    """Returns the content of `eval/<split>.json`."""
    config = experiment.config
    return content(evaluation, config.data.folds) | {
        "step": step,
        "digest": experiment.identity.splits[evaluation.split].digest,
        "config": json.loads(config.to_json()),
    }


def print_commands(workdir: str, caption: str) -> None:
    """Prints the commands that show the curves of a training and search with its model.

    Args:
      workdir: folder of the run.
      caption: an example of a query.
    """
    program = "python", "main.py"
    for name, command in (
        ("TensorBoard", ["tensorboard", "--logdir", workdir]),
        (
            "search",
            [*program, "--mode=search", f"--workdir={workdir}", f"--query={caption}"],
        ),
        ("page", [*program, "--mode=serve", f"--workdir={workdir}"]),
    ):
        print(f"{name + ':':12} {shlex.join(command)}", flush=True)


def path_of(workdir: str, name: str) -> epath.Path:
    """Returns the path of a file in `eval/` of a run, and creates the folder."""
    directory = epath.Path(workdir).expanduser() / "eval"
    directory.mkdir(parents=True, exist_ok=True)
    return directory / name


def write_json(path: epath.Path, content: dict) -> None:
    """Writes a JSON file atomically."""
    with files.unfinished(path, shared=True) as unfinished:
        unfinished.write_text(json.dumps(content, indent=2))


def content(evaluation: Evaluation, folds: int) -> dict:
    """Returns the part of `eval/<split>.json` that describes the evaluation.

    Args:
      evaluation: evaluation of a split.
      folds: number of folds that `evaluation.fold_metrics` is the mean of.
    """
    of_folds = {}
    if evaluation.fold_metrics:
        of_folds = {"folds": folds, "fold_metrics": evaluation.fold_metrics}
    return {
        "split": evaluation.split,
        "images": evaluation.index.image_count,
        "captions": len(evaluation.index.captions),
        "metrics": evaluation.metrics,
        "intervals": evaluation.intervals,
        **of_folds,
        **_corrected_content(evaluation),
        **_suite_content(evaluation),
    }


def _suite_content(evaluation):
    result = evaluation.of_suite
    return {} if result is None else {f"{result.name}_metrics": result.metrics}


def _corrected_content(evaluation):
    corrected = evaluation.corrected
    if corrected is None:
        return {}
    content = {"hubness_metrics": corrected.metrics}
    if corrected.fold_metrics:
        content["hubness_fold_metrics"] = corrected.fold_metrics
    return content


def format_corrected(
    corrected: Corrected, config: ml_collections.ConfigDict, images: int
) -> str:
    """Returns tables of the metrics with scores corrected for hubness.

    Args:
      corrected: metrics.
      config: configuration of the evaluation.
      images: number of images of the split.
    """
    options, folds = config.evaluation, config.data.folds
    title = (
        f"corrected for hubness with {config.data.train_split}, alpha "
        f"{options.hubness_alpha:g}, k {options.hubness_k}"
    )
    if not corrected.fold_metrics:
        return f"\n{title}\n{format_metrics(corrected.metrics)}"
    return (
        f"\n{_short(images)}, {title}\n{format_metrics(corrected.metrics)}"
        f"\n{_fold_sizes(images, folds)}, mean of {folds} folds, {title}"
        f"\n{format_metrics(corrected.fold_metrics)}"
    )


def format_suite(result: Result) -> str:
    """Returns the table of a suite, with a title."""
    return f"\n{TITLES[result.name]}\n{format_metrics_of(*result)}"


def format_report(evaluation: Evaluation, model: str, folds: int = 0) -> str:
    """Returns a table of the metrics, with a title.

    Args:
      evaluation: evaluation of a split.
      model: what was evaluated, such as `checkpoint of step 1,234`.
      folds: number of folds that `evaluation.fold_metrics` is the mean of.
    """
    images, captions = evaluation.index.image_count, len(evaluation.index.captions)
    title = (
        f"{evaluation.split} split, {images:,} images, {captions:,} captions, {model}"
    )
    table = format_metrics(evaluation.metrics, evaluation.intervals)
    if not evaluation.fold_metrics:
        return f"\n{title}\n{table}"
    return (
        f"\n{title}\n{_short(images)}\n{table}"
        f"\n{_fold_sizes(images, folds)}, mean of {folds} folds"
        f"\n{format_metrics(evaluation.fold_metrics)}"
    )


def _fold_sizes(images, folds):
    """Returns the number of images of a fold, such as 1K, or 5 to 6 if it differs."""
    least, rest = divmod(images, folds)
    return f"{_short(least)} to {_short(least + 1)}" if rest else _short(least)


def _short(count):
    """Abbreviates thousands as papers do, such as 5K for 5,000."""
    return f"{count // 1000}K" if count and count % 1000 == 0 else str(count)


def format_metrics(
    metrics: dict[str, float], intervals: dict[str, list[float]] | None = None
) -> str:
    """Returns a table: recalls in percent and ranks by direction, and rSum.

    Args:
      metrics: see `retrieval.recalls`.
      intervals: see `bootstrap.intervals`. Only that of rSum is shown, since a table
        of twelve intervals is hard to read.
    """
    lines = [f"{'':15}{'R@1':>7}{'R@5':>7}{'R@10':>7}{'median':>9}{'mean':>9}"]
    for name, direction in (("image to text", "i2t"), ("text to image", "t2i")):
        recalls = "".join(f"{metrics[f'{direction}_r{k}']:7.1f}" for k in (1, 5, 10))
        median, mean = metrics[f"{direction}_medr"], metrics[f"{direction}_meanr"]
        lines.append(f"{name:15}{recalls}{median:9.1f}{mean:9.1f}")
    lines.append(f"{'rSum':15}{metrics['rsum']:7.1f}")
    if intervals:
        low, high = intervals["rsum"]
        lines.append(f"{'95% interval':15}{low:7.1f} to {high:.1f}")
    return "\n".join(lines)
