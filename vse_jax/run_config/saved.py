"""The configuration in a checkpoint: saving, overriding and comparing it."""

import json
from collections.abc import Mapping
from typing import Any

import ml_collections
from ml_collections.config_flags import config_path

from vse_jax import files
from vse_jax.data.photo_geometry import Geometry, geometry_of
from vse_jax.data.text.vocabularies import AnyVocabulary
from vse_jax.errors import InputError, differences
from vse_jax.host_connection import CONNECTION_DEFAULTS, CONNECTION_OPTIONS
from vse_jax.run_config.values import value_of

IMPORTED_FROM = "imported_from"  # in the description of an imported checkpoint
# Options that an evaluation may override; the checkpoint determines all others.
EVALUATION_OPTIONS = (
    "data.root",
    "data.annotations",
    "data.strict",
    "data.allowed_missing",
    "data.maximum_pixels",
    "data.crops",
    "data.data_dir",
    "data.local_copy",
    "data.folds",
    "data.name",
    "data.vocabulary",
    "data.validation_split",
    "data.test_split",
    "evaluation.suite",
    "evaluation.cxc",
    "evaluation.hubness",
    "evaluation.hubness_alpha",
    "evaluation.hubness_k",
    "evaluation_batch_size",
    "mapping",
    "platform",
    *CONNECTION_OPTIONS,
    "compilation_cache",
)
# Options of --mode=compile only.
COMPILE_OPTIONS = (
    "compile.programs",
    "compile.vocabulary_size",
    "compile.regions",
    "compile.dim",
    "compile.images",
    "compile.pairs_per_epoch",
)
# Options of --mode=extract only.
EXTRACTION_OPTIONS = (
    "extract.regions",
    "extract.pool",
    "extract.pca_dim",
    "extract.numpy_layout",
    "extract.shard_megabytes",
)
# Options of galleries only.
GALLERY_OPTIONS = (
    "gallery.dtype",
    "gallery.index",
    "gallery.hubness",
    "gallery.bank_size",
)
# The best checkpoint is chosen by scores that depend on these.
_OF_BEST_CHECKPOINT = frozenset({"data.crops", "data.validation_split"})
# Options that may change when a run is resumed: no training step depends on them.
FREE_OPTIONS = frozenset(
    {
        *EVALUATION_OPTIONS,
        *COMPILE_OPTIONS,
        *EXTRACTION_OPTIONS,
        *GALLERY_OPTIONS,
        "data.device_resident",
        "log_every_steps",
        "checkpoint_every_steps",
        "evaluate_every_epochs",
        "optimizer.sharded",
        "stuck_steps",
        "profile_at_step",
    }
    - _OF_BEST_CHECKPOINT
)


def describe(
    config: ml_collections.ConfigDict,
    vocabulary: AnyVocabulary,
    *,
    dataset: dict | None = None,
    extraction: dict | None = None,
    image_size: int = 0,
) -> dict:
    """Returns the description of a run that a checkpoint saves, as JSON.

    Args:
      config: see `configs/common.py`. Local paths in it become absolute.
      vocabulary: vocabulary of the model.
      dataset: summary of the dataset's identity, see `data.identity`.
      extraction: description of the extraction of the dataset's features, if any.
      image_size: height and width of the dataset's photos in pixels, if they have one
        size and `config.data.image_size` is 0.
    """
    return {
        "config": json.loads(_of_any_start(config).to_json()),
        "vocabulary": json.loads(vocabulary.to_json()),
        "tokenizer": vocabulary.describe(config.data.tokenizer),
        "dtype": config.dtype or "float32",
        "preprocessing": _preprocessing(config, image_size),
        "dataset": dataset,
        "extraction": extraction,
    }


def _of_any_start(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Returns a copy that is valid in any directory, on any hosts and devices."""
    config = config.copy_and_resolve_references()
    # A later start may use other processes at other addresses, and other devices.
    config.update(CONNECTION_DEFAULTS)
    config.platform = ""
    config.data.root = files.absolute(config.data.root)
    config.data.data_dir = files.absolute(config.data.data_dir)
    config.data.local_copy = files.absolute(config.data.local_copy)
    config.evaluation.cxc = files.absolute(config.evaluation.cxc)
    return config


def _preprocessing(config, image_size):
    """Describes how a photo becomes the input of the model."""
    name = config.model.backbone.name
    if not name:
        return None
    geometry = geometry_of(config.data)
    if not geometry.size:  # photos that have the size of the input are not resized
        geometry = geometry._replace(size=image_size, shorter=image_size)
    return {**describe_geometry(geometry), "backbone": name}


def describe_geometry(geometry: Geometry) -> dict:
    """Describes how a photo becomes the pixels that a backbone takes."""
    center = "center, rounded down" if geometry.rounds_down else "center"
    return {
        "image_size": geometry.size,
        "resize": geometry.shorter,
        "crop": center if geometry.shorter else "none",
        "interpolation": geometry.interpolation,
    }


def from_json(saved: Any) -> Any:
    """Converts `json.loads(config.to_json())`, which has lists for tuples, back.

    Returns:
      A `ConfigDict` for a dict, a tuple for a list, and any other value as it is.
    """
    if isinstance(saved, dict):
        options = {name: from_json(value) for name, value in saved.items()}
        return ml_collections.ConfigDict(options)
    return tuple(map(from_json, saved)) if isinstance(saved, list) else saved


def merge(saved: dict, overrides: dict) -> ml_collections.ConfigDict:
    """Returns a checkpoint's configuration with the overrides of an evaluation.

    Args:
      saved: configuration of the checkpoint as JSON.
      overrides: values by dotted option names.

    Raises:
      InputError: if an option that is not in `EVALUATION_OPTIONS` is set to another
        value than the checkpoint's.
    """
    config = from_json(saved)
    before = config.copy_and_resolve_references()
    for option, value in overrides.items():
        _override(config, option, value)
    for option in sorted(overrides.keys() - set(EVALUATION_OPTIONS)):
        was, now = value_of(before, option), value_of(config, option)
        # Paths are absolute in a checkpoint.
        if was != now and not (was and was == files.absolute(str(now))):
            raise InputError(
                f"config.{option} is {was!r} in the checkpoint and cannot be changed "
                f"to {now!r} by an evaluation, which can only set "
                f"config.{', config.'.join(EVALUATION_OPTIONS)}"
            )
    return config


def _override(config, option, value):
    try:
        config_path.set_value(option, config, value)
    except (IndexError, KeyError):
        raise InputError(
            f"config.{option} is {value!r}, but the checkpoint was trained without "
            "this option; leave it out"
        ) from None


def check_same_run(
    saved: dict | None, config: ml_collections.ConfigDict, workdir: str
) -> None:
    """Checks that a run is resumed with its own configuration.

    Args:
      saved: description in the workdir's checkpoint; None without a checkpoint.
      config: configuration of this start.
      workdir: folder of the run, for messages.

    Raises:
      InputError: if the configuration differs; names the options that do. A larger
        `epochs` extends a training that depends on no end; a smaller one is refused.
    """
    if saved is None:
        return
    if IMPORTED_FROM in saved:
        raise InputError(
            f"{workdir} has a model imported from {saved[IMPORTED_FROM]}; to train "
            f"from it, choose another --workdir and set config.start_from={workdir}"
        )
    free = set(FREE_OPTIONS)
    if config.fine_tuning:
        free.remove("evaluate_every_epochs")  # a stage starts from the best checkpoint
    elif config.optimizer.schedule == "steps":
        free.add("epochs")  # no stage follows, so training can be extended
    before = _without(free, from_json(saved["config"]))
    if differing := differences(before, _without(free, config)):
        raise InputError(
            f"{workdir} has a run with another configuration "
            f"(config.{', config.'.join(differing)}); choose another --workdir, "
            "or delete this one to start over"
        )
    epochs = saved["config"]["epochs"]
    if config.epochs < epochs:
        raise InputError(
            f"config.epochs is {config.epochs}, but {workdir} has a run of {epochs} "
            f"epochs, which cannot be shortened; set config.epochs to {epochs}, or to "
            "more to extend the run, or choose another --workdir"
        )


def check_same_but_seed(runs: Mapping[str, dict]) -> None:
    """Checks that runs are seeds of one configuration on one dataset.

    Args:
      runs: descriptions of the runs by their workdirs.

    Raises:
      InputError: if one differs from the first by more than the seed.
    """
    (first, expected), *others = runs.items()
    free = {*FREE_OPTIONS, "seed"}
    for workdir, run in others:
        options, of_first = (
            _without(free, from_json(r["config"])) for r in (run, expected)
        )
        differing = [
            f"{name} is {options.get(name)!r} instead of {of_first.get(name)!r}"
            for name in sorted(options.keys() | of_first.keys())
            if options.get(name) != of_first.get(name)
        ]
        if differing:
            raise InputError(
                f"{workdir} has a run with another configuration than {first} "
                f"(config.{', config.'.join(differing)}); name seeds of one "
                "configuration"
            )
        if run["dataset"] != expected["dataset"]:
            raise InputError(
                f"{workdir} was trained on other data than {first}; train all seeds on "
                "the same"
            )


def _without(free, config):
    """Returns all options but those in `free`, sorted by their dotted names.

    Tuples stay tuples, since their numbers are compared: 1 is 1.0, which has another
    text.
    """
    options = sorted(_flatten(config).items())
    return {name: value for name, value in options if name not in free}


def flatten(config: ml_collections.ConfigDict) -> dict:
    """Returns nested options as a flat dict with dotted names.

    Tuples of groups are flattened too; other tuples, and lists, become text.
    """
    return {
        name: str(value) if isinstance(value, tuple) else value
        for name, value in _flatten(config).items()
    }


def _flatten(config):
    """Returns the flat dict of `flatten` with tuples for lists and tuples."""
    flat = {}
    for name, value in config.items():
        if isinstance(value, list):  # a checkpoint saves both as a list
            value = tuple(value)
        if isinstance(value, ml_collections.ConfigDict):
            flat |= {f"{name}.{key}": item for key, item in _flatten(value).items()}
        elif isinstance(value, tuple) and _are_groups(value):
            for number, group in enumerate(value):
                for key, item in _flatten(group).items():
                    flat[f"{name}[{number}].{key}"] = item
        else:
            flat[name] = value
    return flat


def _are_groups(items):
    return bool(items) and isinstance(items[0], ml_collections.ConfigDict)
