"""`--mode=export`: writes a trained model to a folder that other programs can use."""

import json
import logging
import sys
from collections.abc import Iterator

import ml_collections
from etils import epath

from vse_jax import parallel, run_config, saved_model
from vse_jax.checkpoint import Restored
from vse_jax.data.batch_options import token_lengths
from vse_jax.data.photo_geometry import geometry_of
from vse_jax.data.text import vocabularies
from vse_jax.errors import InputError, one_line, reporting_writes, unreadable
from vse_jax.exporting import folder, model_card
from vse_jax.exporting.encoders import PLATFORMS, Encoder, encoders
from vse_jax.extraction.backbone_file import BACKBONE_FILE
from vse_jax.image_inputs import extraction_config, photo_size

logger = logging.getLogger(__name__)

_OF_EVALUATIONS = {"step", "split", "digest", "metrics", "config"}
FOLDER = "export"  # in the workdir, unless --output names another


def export(workdir: str, checkpoint: str = "best", output: str = "") -> epath.Path:
    """Exports a checkpoint: weights, description, model card and encoders.

    Each encoder is written as ONNX and as StableHLO for `encoders.PLATFORMS`.

    Args:
      workdir: folder of the run.
      checkpoint: `best` on the validation split, `latest`, or a step.
      output: the folder to write; "" for `export` in the workdir.

    Returns:
      The folder.

    Raises:
      InputError: if there is no such checkpoint, if the folder contains anything that
        is not of an export, or if onnx is not installed.
      TrainingError: if a file cannot be written.
    """
    target = output or str(epath.Path(workdir).expanduser() / FOLDER)
    _check_onnx_installed()
    folder.check_replaceable(target)
    restored = saved_model.restore(workdir, checkpoint)
    if not parallel.is_primary_host():
        return epath.Path(target)
    config = run_config.from_json(restored.run["config"])
    backbone = saved_model.extraction_backbone(workdir, restored)
    exported = encoders(restored, backbone)
    _warn_of_photos(workdir, restored.run["extraction"], backbone)
    description = summarize(restored, config, exported)
    evaluations = _evaluations(workdir, restored)
    with reporting_writes(target):
        folder.write_folder(
            target,
            restored,
            backbone=backbone,
            summary=description,
            card=model_card.write(restored.run, config, description, evaluations),
            programs=_programs(exported, description),
        )
    _report(epath.Path(target).expanduser(), exported, evaluations, workdir)
    return epath.Path(target)


def _warn_of_photos(workdir, extraction, backbone):
    """Logs why a model of extracted features is exported without their backbone."""
    if not extraction:
        return
    why = ""
    if not backbone:
        why = (
            f"{workdir} lacks {BACKBONE_FILE}; copy it from the folder of the features "
            "and export again"
        )
    elif not photo_size(extraction):
        why = (
            "the size of the photos is not known: config.data.image_size was 0 in the "
            "extraction"
        )
    if why:
        logger.warning("the export takes features but no photos, as %s", why)


def _check_onnx_installed():
    try:
        import onnx  # noqa: F401
    except ImportError:
        raise InputError(
            "--mode=export needs onnx, which is not installed; pip install onnx"
        ) from None


def summarize(
    restored: Restored, config: ml_collections.ConfigDict, exported: list[Encoder]
) -> dict:
    """Returns what a reader of `config.json` wants to know first.

    Args:
      restored: content of the checkpoint.
      config: its configuration.
      exported: the encoders.
    """
    model, vocabulary = config.model, vocabularies.of_run(restored.run)
    names = {None: None} | dict(enumerate(vocabulary.words))
    return {
        "architecture": {
            "image_encoder": model.image_encoder,
            "text_encoder": model.text_encoder,
            "pooling": model.pooling,
            "backbone": model.backbone.name or None,
            "word_dim": model.word_dim,
        },
        "embed_dim": model.embed_dim,
        "similarity": config.loss.similarity,
        "preprocessing": {
            "photo": _photo(restored.run),
            "caption": {
                "tokenizer": restored.run["tokenizer"],
                "first_and_last": [names[vocabulary.start], names[vocabulary.end]],
                "unknown": names[vocabulary.unknown],
                "longest": token_lengths(config)[-1],
            },
        },
        "encoders": {encoder.name: _signature(encoder) for encoder in exported},
    }


def _photo(run) -> dict | None:
    """Returns how a photo becomes the input of the model, or of its backbone."""
    extraction = run["extraction"]
    if run["preprocessing"]:
        photo = run["preprocessing"]
    elif extraction and photo_size(extraction):
        config = extraction_config(extraction)
        photo = run_config.describe_geometry(geometry_of(config.data))
        photo["backbone"] = config.model.backbone.name
    else:
        return None
    interpolation = photo["interpolation"]
    if interpolation == "opencv":
        interpolation = "bilinear (of four pixels, as OpenCV)"
    steps = f"{interpolation} resize of the shorter side to `resize` pixels; the center"
    if photo["crop"] == "none":
        steps = f"{interpolation} resize, also of the aspect ratio, to a square"
    return {
        **photo,
        "steps": f"upright RGB; {steps} of `image_size` x `image_size` pixels; uint8, "
        "0 to 255",
    }


def _signature(encoder: Encoder) -> dict:
    inputs = {
        name: f"{spec.dtype} [{', '.join(map(str, spec.shape))}]"
        for name, spec in encoder.inputs.items()
    }
    return {"inputs": inputs, "output": f"{encoder.output} float32"}


def _programs(exported: list[Encoder], description: dict) -> Iterator:
    """Yields the names and contents of the encoders' files."""
    properties = {
        name: json.dumps(description[name])
        for name in ("architecture", "embed_dim", "similarity", "preprocessing")
    }
    for encoder in exported:
        logger.info("exporting %s", encoder.name)
        yield f"{encoder.name}.onnx", encoder.to_onnx(properties)
        yield f"{encoder.name}.stablehlo", encoder.to_stablehlo()


def _evaluations(workdir: str, restored: Restored) -> list[dict]:
    """Returns the results of `--mode=eval` for this checkpoint, by split.

    Results of other data or crops than the training's are not of this model card.
    """
    found = []
    directory = epath.Path(workdir).expanduser() / "eval"
    for path in sorted(directory.glob("*.json")):
        try:
            result = json.loads(path.read_text())
        except OSError as error:
            raise unreadable(path, error) from None
        except ValueError as error:
            raise InputError(
                f"{path}: is damaged ({one_line(error)}); evaluate again"
            ) from None
        if not isinstance(result, dict) or not result.keys() >= _OF_EVALUATIONS:
            continue  # such as of an ensemble, or of the user
        if result["step"] != restored.step:
            continue
        if _is_of_training(result, restored.run):
            found.append(result)
        else:
            logger.warning(
                "%s is of other data or crops than the training: the model card leaves "
                "it out",
                path,
            )
    return found


def _is_of_training(result, run):
    if result["config"]["data"]["crops"] != run["config"]["data"]["crops"]:
        return False
    if run["dataset"] is None:  # an imported model
        return True
    split = run["dataset"]["splits"].get(result["split"])
    return split is not None and result["digest"] == split["digest"]


def _report(directory, exported, evaluations, workdir):
    for encoder in exported:
        inputs = ", ".join(
            f"{name} {what}" for name, what in _signature(encoder)["inputs"].items()
        )
        print(f"{encoder.name + ':':15}{inputs}")
    print(f"{'formats:':15}ONNX; StableHLO for {', '.join(PLATFORMS)}")
    if not evaluations:
        print(
            f"{'model card:':15}without recalls, as this checkpoint was not evaluated: "
            f"python main.py --mode=eval --workdir={workdir}"
        )
    size = sum(path.stat().length for path in directory.iterdir() if path.is_file())
    print(f"{'export:':15}{directory}, {size / 1e6:,.1f} MB")
    sys.stdout.flush()
