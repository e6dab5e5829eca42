"""Evaluation: embed a split, rank, report. Also `--mode=eval`."""

import dataclasses
import json
import logging
import sys
from collections.abc import Callable, Iterable

import ml_collections
import numpy as np
import tqdm
from etils import epath
from ml_collections.config_flags import config_path

from vse_jax import files, parallel, pictures, retrieval
from vse_jax.checkpoint import Checkpoints, Restored
from vse_jax.data import input_pipeline
from vse_jax.data.input_pipeline import SplitIndex
from vse_jax.data.records import content_of
from vse_jax.data.text.vocabulary import Vocabulary
from vse_jax.errors import InputError, TrainingError, reporting_writes
from vse_jax.experiment import Experiment, create_experiment
from vse_jax.options import value_of
from vse_jax.train_step import make_embed_steps

logger = logging.getLogger(__name__)

COCO_TEST_IMAGES = 5_000
# Options that may be set anew for an evaluation; all others are the checkpoint's.
EVALUATION_OPTIONS = (
    "data.root",
    "data.annotations",
    "data.strict",
    "data.crops",
    "data.data_dir",
    "data.name",
    "data.vocabulary",
    "data.validation_split",
    "data.test_split",
    "evaluation_batch_size",
    "platform",
    "distributed",
    "compilation_cache",
)


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Embeddings of a split and the metrics of ranking them.

    Attributes:
      split: its name.
      index: which caption belongs to which image.
      images: `[images, embed]` float32.
      captions: `[captions, embed]` float32.
      metrics: see `retrieval.recalls`.
      fold_metrics: the mean over five folds, for splits of COCO's size (its 1K
        protocol).
    """

    split: str
    index: SplitIndex
    images: np.ndarray
    captions: np.ndarray
    metrics: dict[str, float]
    fold_metrics: dict[str, float] | None


class Evaluator:
    """Embeds and ranks splits of an experiment's dataset; compiled once."""

    def __init__(self, experiment: Experiment):
        self._experiment = experiment
        embed_images, embed_captions = make_embed_steps(
            experiment.create_model(train=False)
        )
        self._embed_images = parallel.map_over_devices(embed_images)
        self._embed_captions = parallel.map_over_devices(embed_captions)

    def evaluate(self, variables: dict, split: str) -> Evaluation:
        """Evaluates a split.

        Args:
          variables: the model's, on all devices.
          split: its name.

        Raises:
          InputError: if there is no such split, or it is empty.
          TrainingError: if an embedding is not finite, or memory does not suffice.
        """
        size = self._experiment.config.evaluation_batch_size
        with parallel.reporting_memory(size, "evaluation_batch_size"):
            return self._evaluate(variables, split)

    def _evaluate(self, variables, split):
        builder, config = self._experiment.builder, self._experiment.config
        host = parallel.this_host()
        index = input_pipeline.split_index(builder, split, config.data.tokenizer)
        images = _embed(
            self._embed_images,
            variables,
            input_pipeline.image_batches(builder, split, config, **host),
            position="image_id",
            total=len(index.image_id),
            what=f"{split} images",
        )
        captions = _embed(
            self._embed_captions,
            variables,
            input_pipeline.caption_batches(
                builder,
                split,
                self._experiment.vocabulary,
                config,
                **host,
            ),
            position="caption_index",
            total=len(index.captions),
            what=f"{split} captions",
        )
        return _rank(split, index, images, captions, config.loss.similarity)


def _embed(
    embed: Callable,
    variables: dict,
    batches: Iterable[dict],
    *,
    position: str,
    total: int,
    what: str,
) -> np.ndarray:
    """Embeds all rows, in the order of the split; `position` names the -1 of padding.

    Rows of images come in order, rows of captions say where they belong.
    """
    embeddings = None
    done = 0
    progress = tqdm.tqdm(
        total=total, desc=f"embedding {what}", disable=None, leave=False
    )
    with progress:
        for batch in batches:
            where = parallel.gather_over_hosts(batch.pop(position))
            embedded = parallel.unreplicate(embed(variables, parallel.shard(batch)))
            exists = where >= 0
            count = int(exists.sum())
            if embeddings is None:
                embeddings = np.full((total, embedded.shape[1]), np.nan, np.float32)
            in_order = np.arange(done, done + count)
            rows = in_order if position == "image_id" else where[exists]
            embeddings[rows] = embedded[exists]
            done += count
            progress.update(count)
    if not np.isfinite(embeddings).all():
        raise TrainingError(
            f"some embeddings of the {what} are not finite; the parameters of this "
            "checkpoint are of no use, evaluate an earlier one"
        )
    return embeddings


def _rank(split, index, images, captions, similarity):
    arguments = (images, captions, index.image_id, index.caption_image_id, similarity)
    metrics = retrieval.recalls(retrieval.rank(*arguments))
    fold_metrics = None
    if len(images) == COCO_TEST_IMAGES:
        fold_metrics = retrieval.evaluate_folds(*arguments)
    return Evaluation(split, index, images, captions, metrics, fold_metrics)


def evaluate(
    workdir: str,
    split: str = "",
    checkpoint: str = "best",
    overrides: dict | None = None,
) -> dict[str, float]:
    """Evaluates a checkpoint of a run: the program's `--mode=eval`.

    Writes `eval/<split>.json` into the workdir and prints a table.

    Args:
      workdir: of the run.
      split: its name; "" for the test split, or the validation split if there is none.
      checkpoint: `best` on the validation split, `latest`, or the step of one.
      overrides: options by their dotted names, of `EVALUATION_OPTIONS`. The rest of
        the configuration comes from the checkpoint.

    Returns:
      The metrics.

    Raises:
      InputError: if there is no such checkpoint, dataset or split, or if another
        option is given another value.
    """
    checkpoints = Checkpoints(workdir, read_only=True)
    restored = _restore(checkpoints, workdir, checkpoint)
    config = merge_config(restored.run["config"], overrides or {})
    parallel.check_batch_size(config.evaluation_batch_size, "evaluation_batch_size")
    vocabulary = Vocabulary.from_json(json.dumps(restored.run["vocabulary"]))
    experiment = create_experiment(config, vocabulary)
    _check_dimensions(experiment, restored)
    split = split or default_split(experiment)
    experiment.log_unknown_words(split)

    evaluation = Evaluator(experiment).evaluate(
        parallel.replicate(restored.variables), split
    )
    with reporting_writes(workdir):
        report(experiment, evaluation, workdir, restored.step)
    return evaluation.metrics


def merge_config(saved: dict, overrides: dict) -> ml_collections.ConfigDict:
    """The checkpoint's configuration, with the options that are set anew.

    Raises:
      InputError: if an option that is not one of `EVALUATION_OPTIONS` is set to
        another value than the checkpoint's.
    """
    config = config_from_json(saved)
    before = config.copy_and_resolve_references()
    for option, value in overrides.items():
        _override(config, option, value)
    for option in sorted(overrides.keys() - set(EVALUATION_OPTIONS)):
        was, now = value_of(before, option), value_of(config, option)
        if was != now:
            raise InputError(
                f"config.{option} is {was!r} in the checkpoint and cannot be {now!r} "
                f"in its evaluation; what can be set is {', '.join(EVALUATION_OPTIONS)}"
            )
    return config


def _override(config, option, value):
    try:
        config_path.set_value(option, config, value)
    except (IndexError, KeyError):
        raise InputError(
            f"config.{option} is {value!r}, but the checkpoint was trained without such"
            " an option; leave it out"
        ) from None


def config_from_json(saved: dict) -> ml_collections.ConfigDict:
    """Undoes `json.loads(config.to_json())`: lists were tuples."""
    return _from_json(saved)


def default_split(experiment: Experiment) -> str:
    """The test split if the dataset has it, else the validation split."""
    data = experiment.config.data
    if data.test_split in experiment.builder.info.splits:
        return data.test_split
    logger.warning(
        "there is no split %r (config.data.test_split) but %s: evaluating %r",
        data.test_split,
        ", ".join(experiment.builder.info.splits),
        data.validation_split,
    )
    return data.validation_split


def report(
    experiment: Experiment, evaluation: Evaluation, workdir: str, step: int
) -> None:
    """Prints a table, and writes `eval/<split>.json` and a picture if there are images.

    Args:
      experiment: that was evaluated.
      evaluation: of one of its splits.
      workdir: of the run.
      step: of the checkpoint.
    """
    if not parallel.is_primary_host():
        return
    print(format_report(evaluation, step))
    path = write_report(workdir, evaluation, experiment.config, step)
    print(f"metrics:     {path}")
    picture = pictures.retrieved(experiment, evaluation)
    if picture is not None:
        pictures.save(picture, path.with_suffix(".png"))
        print(f"pictures:    {path.with_suffix('.png')}")
    sys.stdout.flush()


def write_report(
    workdir: str, evaluation: Evaluation, config: ml_collections.ConfigDict, step: int
) -> epath.Path:
    """Writes `eval/<split>.json` whole or not at all, and returns its path."""
    directory = epath.Path(workdir).expanduser() / "eval"
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{evaluation.split}.json"
    content = {
        "split": evaluation.split,
        "images": len(evaluation.images),
        "captions": len(evaluation.captions),
        "step": step,
        "metrics": evaluation.metrics,
        "config": json.loads(config.to_json()),
    }
    if evaluation.fold_metrics:
        content["metrics_1k_five_fold"] = evaluation.fold_metrics
    with files.unfinished(path) as unfinished:
        unfinished.write_text(json.dumps(content, indent=2))
    return path


def format_report(evaluation: Evaluation, step: int) -> str:
    """A table of recalls for people."""
    title = (
        f"{evaluation.split} split, {len(evaluation.images):,} images, "
        f"{len(evaluation.captions):,} captions, checkpoint of step {step:,}"
    )
    if not evaluation.fold_metrics:
        return f"\n{title}\n{format_metrics(evaluation.metrics)}"
    return (
        f"\n{title}\n5K\n{format_metrics(evaluation.metrics)}"
        f"\n1K, mean of five folds\n{format_metrics(evaluation.fold_metrics)}"
    )


def format_metrics(metrics: dict[str, float]) -> str:
    """Two rows of recalls in percent and ranks, and their sum."""
    lines = [f"{'':15}{'R@1':>7}{'R@5':>7}{'R@10':>7}{'median':>9}{'mean':>9}"]
    for name, direction in (("image to text", "i2t"), ("text to image", "t2i")):
        recalls = "".join(f"{metrics[f'{direction}_r{k}']:7.1f}" for k in (1, 5, 10))
        median, mean = metrics[f"{direction}_medr"], metrics[f"{direction}_meanr"]
        lines.append(f"{name:15}{recalls}{median:9.1f}{mean:9.1f}")
    lines.append(f"{'rSum':15}{metrics['rsum']:7.1f}")
    return "\n".join(lines)


def _restore(checkpoints: Checkpoints, workdir: str, checkpoint: str) -> Restored:
    steps = checkpoints.steps()
    if not steps:
        raise InputError(
            f"{workdir} has no checkpoint to evaluate; train first, or name another "
            "--workdir"
        )
    if checkpoint.isdecimal():
        if int(checkpoint) not in steps:
            raise InputError(
                f"{workdir} has no checkpoint of step {checkpoint}; "
                f"--checkpoint may be {', '.join(map(str, steps))}, best or latest"
            )
        return checkpoints.restore([int(checkpoint)])
    if checkpoint not in ("", "best", "latest"):
        raise InputError(
            f"--checkpoint is {checkpoint!r}, expected best, latest or a step"
        )
    return checkpoints.restore(
        steps if checkpoint == "latest" else checkpoints.best_first()
    )


def _check_dimensions(experiment: Experiment, restored: Restored) -> None:
    """Refuses features of another size than the model was trained on."""
    content = content_of(experiment.builder)
    kernel = restored.variables["params"]["image"]["encoder"]["projection"]["kernel"]
    if content.key != "image" and content.dim != kernel.shape[0]:
        raise InputError(
            f"{experiment.builder.data_dir} has {content.key} of {content.dim} "
            f"dimensions, but the checkpoint was trained on {kernel.shape[0]}; set "
            "config.data.root to features of the same kind"
        )


def _from_json(value):
    if isinstance(value, dict):
        options = {name: _from_json(item) for name, item in value.items()}
        return ml_collections.ConfigDict(options)
    return tuple(map(_from_json, value)) if isinstance(value, list) else value
