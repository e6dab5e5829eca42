"""Restores a trained model from the workdir of a run, or from an export."""

import hashlib
import json

from etils import epath

from vse_jax import checkpoint as checkpoints
from vse_jax import run_config
from vse_jax.checkpoint import Checkpoints, Restored
from vse_jax.errors import InputError
from vse_jax.exporting import folder as exported
from vse_jax.extraction import backbone_file


def restore(path: str, checkpoint: str = "best") -> Restored:
    """Restores a model with its description.

    Args:
      path: folder of a run, or of an export.
      checkpoint: `best` on the validation split, `latest`, or a step; an export has
        only one.

    Raises:
      InputError: if there is no such model, if none can be read, or if another version
        of this program saved it.
    """
    if exported.holds_model(path):
        restored = exported.read_folder(path)
    else:
        restored = _restore_run(path, checkpoint)
    run_config.check_complete(restored.run, path)
    return restored


def _restore_run(path, checkpoint):
    saved = Checkpoints(path, read_only=True)
    steps = saved.steps()
    if not steps:
        raise checkpoints.no_checkpoint(path)
    if checkpoint.isdecimal():
        if checkpoint not in map(str, steps):
            raise InputError(
                f"{path} has no checkpoint of step {checkpoint}; "
                f"--checkpoint may be {', '.join(map(str, steps))}, best or latest"
            )
        return saved.restore([int(checkpoint)])
    if checkpoint not in ("", "best", "latest"):
        raise InputError(
            f"--checkpoint is {checkpoint!r}; expected best, latest or a step"
        )
    return saved.restore(steps if checkpoint == "latest" else saved.best_first())


def read_description(path: str, checkpoint: str) -> dict:
    """Reads the description of a model without starting JAX.

    Args:
      path: folder of a run, or of an export.
      checkpoint: step of the checkpoint; any other text means the latest.

    Raises:
      InputError: if there is no readable model, or if another version of this program
        saved it.
    """
    if exported.holds_model(path):
        run = exported.read_run(path)
        run_config.check_complete(run, path)
        return run
    return checkpoints.read_description(path, checkpoint)


def extraction_backbone(path: str, restored: Restored) -> dict:
    """Returns the backbone that extracted the features that a model was trained on.

    Args:
      path: folder of the run, or of the export.
      restored: what `restore` returned for it.

    Returns:
      Variables of the backbone; {} if the features were not extracted by this program,
      or if the folder does not have the file.

    Raises:
      InputError: if the file is damaged or has another backbone.
    """
    extraction = restored.run["extraction"]
    if not extraction:
        return {}
    directory = epath.Path(path).expanduser()
    variables = backbone_file.read(directory)
    expected = extraction["config.model.backbone.weights"]
    if variables and backbone_file.digest(variables) != expected:
        raise InputError(
            f"{directory / backbone_file.BACKBONE_FILE}: is not the backbone that "
            "extracted the training's features; copy it from the folder of the features"
        )
    return variables


def fingerprint(restored: Restored) -> str:
    """Returns a digest of all that decides an embedding; equal in every process.

    A gallery is bound to it.
    """
    config = restored.run["config"]
    extraction = restored.run["extraction"] or {}
    decisive = {
        "model": _without_weights(config["model"]),
        "loss.similarity": config["loss"]["similarity"],
        "data": {name: config["data"][name] for name in ("token_lengths", "crops")},
        "preprocessing": restored.run["preprocessing"],
        "extraction": {
            name: value
            for name, value in extraction.items()
            if name not in ("photos", "config.extract.shard_megabytes")
        },
        "vocabulary": restored.run["vocabulary"],
        "tokenizer": restored.run["tokenizer"]["name"],
        "dtype": restored.run["dtype"],
        "variables": restored.run["digests"]["variables"],
        "pca": restored.run["digests"]["pca"] if restored.pca else None,
    }
    text = json.dumps(decisive, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _without_weights(model):
    """Drops the paths of pretrained weights; the variables contain their values."""
    backbone = {**model["backbone"], "weights": ""}
    return {**model, "backbone": backbone, "text_weights": ""}
