"""The folder of an exported model, in the layout of Hugging Face's models.

`config.json` is written last, so a folder that has it is complete. `model.safetensors`
contains all arrays. Their names are paths joined by `/`, below the collection:
`params/text/words/embedding`. The PCA of the features is below `pca`. The backbone that
extracted them is in a file of its own, as in a workdir.
"""

import json
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import safetensors
import safetensors.numpy
from etils import epath
from flax import traverse_util

from vse_jax import files
from vse_jax.array_trees import digest
from vse_jax.checkpoint import Restored
from vse_jax.errors import InputError, one_line, unreadable
from vse_jax.extraction.backbone_file import BACKBONE_FILE, to_safetensors

FORMAT, FORMAT_VERSION = "vse_jax", 1
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
VOCABULARY_FILE = "vocabulary.json"  # of words
TOKENIZER_FILE = "tokenizer.json"  # of a pretrained text encoder, instead
CARD_FILE = "README.md"
# What the program itself puts into the folder; anything else belongs to the user.
_PROGRAM_SUFFIXES = (".onnx", ".stablehlo")
_ALWAYS = (CONFIG_FILE, WEIGHTS_FILE, CARD_FILE)
_SOMETIMES = (BACKBONE_FILE, VOCABULARY_FILE, TOKENIZER_FILE)
# Folders that --mode=eval, and a search without --gallery, add.
_ADDED = ("eval", "galleries")
_ARRAYS = ("variables", "pca")  # each has a digest
_DIGESTS = tuple(f"run.digests.{name}" for name in (*_ARRAYS, "vocabulary"))
_AGAIN = "copy the folder again, or export again"


def is_export(path: str) -> bool:
    """Returns whether a folder contains a complete export."""
    return (_folder(path) / CONFIG_FILE).exists()


def holds_model(path: str) -> bool:
    """Returns whether a folder contains an export.

    Raises:
      InputError: if it is an export without `config.json`, such as a part of a copy.
    """
    folder, is_complete = _folder(path), is_export(path)
    if not is_complete and (folder / WEIGHTS_FILE).exists():
        raise InputError(
            f"{folder}: has {WEIGHTS_FILE} of an export, but no {CONFIG_FILE}; {_AGAIN}"
        )
    return is_complete


def check_replaceable(path: str) -> None:
    """Checks that an export may be written to a folder.

    Raises:
      InputError: if the folder contains anything that is not of an export.
    """
    folder = _folder(path)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file; set --output to a folder")
    others = [
        item.name
        for item in (folder.iterdir() if folder.exists() else ())
        if not _is_own(item.name)
    ]
    if others:
        raise InputError(
            f"{folder}: contains {sorted(others)[0]!r}, which is not of an export; set "
            "--output to a new folder"
        )
    if is_export(path):
        _read_config(folder)  # another program's config.json is not replaced


def _is_own(name):
    name = name.removeprefix(files.UNFINISHED)
    return name in (*_ALWAYS, *_ADDED) or _is_optional(name)


def _is_optional(name):
    return name in _SOMETIMES or name.endswith(_PROGRAM_SUFFIXES)


def write_folder(
    path: str,
    restored: Restored,
    *,
    backbone: Mapping[str, Any],
    summary: Mapping[str, Any],
    card: str,
    programs: Iterator[tuple[str, bytes]],
) -> None:
    """Writes an export, and replaces an earlier one in the same folder.

    Args:
      path: the folder.
      restored: content of the checkpoint.
      backbone: variables of the backbone that extracted the training's features; {} if
        there is none.
      summary: entries of `config.json` for readers, such as the architecture.
      card: the model card, Markdown.
      programs: file names and contents of the encoders.

    Raises:
      InputError: if the folder contains anything that is not of an export.
      OSError: if a file cannot be written.
    """
    check_replaceable(path)
    folder = _folder(path)
    with files.sole_writer(folder):
        _replace(folder, _contents(restored, backbone, summary, card, programs))


def _replace(folder, contents):
    """Writes all files under temporary names, then replaces an earlier export."""
    names = []
    for name, content in contents:
        (folder / f"{files.UNFINISHED}{name}").write_bytes(content)
        names.append(name)
    # From here until `config.json` is back, there is no export.
    (folder / CONFIG_FILE).unlink(missing_ok=True)
    for item in list(folder.iterdir()):
        is_finished = not item.name.startswith(files.UNFINISHED)
        if is_finished and _is_optional(item.name):  # perhaps no longer exported
            item.unlink()
    for name in names:
        (folder / f"{files.UNFINISHED}{name}").replace(folder / name)


def _contents(restored, backbone, summary, card, programs):
    """Yields the name and the content of each file, `config.json` last."""
    arrays = {"variables": restored.variables, "pca": restored.pca}
    run = dict(restored.run)
    run["digests"] = {name: digest(arrays[name]) for name in _ARRAYS}
    vocabulary = run.pop("vocabulary")
    run["digests"]["vocabulary"] = _digest_of_json(vocabulary)
    weights = {**restored.variables, "pca": restored.pca}
    yield WEIGHTS_FILE, to_safetensors(weights, {"format": FORMAT})
    if backbone:
        yield BACKBONE_FILE, to_safetensors(backbone)
    yield from programs
    if "tokenizer" in vocabulary:
        yield TOKENIZER_FILE, _to_json(vocabulary["tokenizer"], indent=None)
    else:
        yield VOCABULARY_FILE, _to_json(vocabulary, indent=0)
    yield CARD_FILE, card.encode()
    config = {"format": FORMAT, "format_version": FORMAT_VERSION, **summary}
    config |= {"step": restored.step, "metrics": restored.metrics, "run": run}
    yield CONFIG_FILE, _to_json(config, indent=2)


def read_folder(path: str) -> Restored:
    """Reads the model of an export.

    Raises:
      InputError: if the folder is not an export, is damaged, or was written by a newer
        version of this program.
    """
    folder = _folder(path)
    config = _read_config(folder)
    run = _with_vocabulary(config["run"], folder)
    arrays = _read_arrays(folder, run["digests"])
    return Restored(
        step=config["step"],
        variables=arrays["variables"],
        optimizer={},
        run=run,
        metrics=config["metrics"],
        pca=arrays["pca"],
    )


def read_run(path: str) -> dict:
    """Reads the description of the run, without arrays; see `checkpoint`.

    Raises:
      InputError: see `read_folder`.
    """
    folder = _folder(path)
    return _with_vocabulary(_read_config(folder)["run"], folder)


def _with_vocabulary(run, folder):
    path = folder / TOKENIZER_FILE
    if path.exists():
        vocabulary = {"tokenizer": _read_json(path)}
    else:
        path = folder / VOCABULARY_FILE
        vocabulary = _read_json(path)
    found = _digest_of_json(vocabulary)
    digests = dict(run["digests"])
    if digests.pop("vocabulary") != found:
        raise InputError(f"{path}: is not what {CONFIG_FILE} describes; {_AGAIN}")
    return {**run, "digests": digests, "vocabulary": vocabulary}


def _digest_of_json(value):
    text = json.dumps(value, sort_keys=True)
    return f"{zlib.crc32(text.encode()):08x}"


def _folder(path):
    return epath.Path(files.absolute(path))


def _to_json(value, indent):
    return json.dumps(value, ensure_ascii=False, indent=indent).encode()


def _read_config(folder):
    path = folder / CONFIG_FILE
    config = _read_json(path)
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise InputError(
            f"{path}: is not of a model that vse_jax exported; set --workdir to a run, "
            "or to a folder that --mode=export wrote"
        )
    version = config.get("format_version")
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise InputError(
            f"{path}: has format_version {version!r}, and this program reads at most "
            f"{FORMAT_VERSION}; install a newer vse_jax"
        )
    missing = [
        name
        for name in ("step", "metrics", "run", "run.config", *_DIGESTS)
        if not _has(config, name.split("."))
    ]
    if missing:
        raise InputError(f"{path}: lacks {', '.join(missing)}; {_AGAIN}")
    return config


def _has(tree, names):
    for name in names:
        if not isinstance(tree, dict) or name not in tree:
            return False
        tree = tree[name]
    return True


def _read_json(path):
    try:
        return json.loads(files.read_bytes(path))
    except OSError as error:
        raise unreadable(path, error) from None
    except ValueError as error:
        raise InputError(f"{path}: is damaged ({one_line(error)}); {_AGAIN}") from None


def _read_arrays(folder, digests):
    """Returns the arrays of `_ARRAYS` as nested dicts, whose digests hold."""
    path = folder / WEIGHTS_FILE
    try:
        tree = _unflatten(safetensors.numpy.load(files.read_bytes(path)))
    except OSError as error:
        raise unreadable(path, error) from None
    except (KeyError, ValueError, safetensors.SafetensorError) as error:
        raise InputError(f"{path}: is damaged ({one_line(error)}); {_AGAIN}") from None
    arrays = {"variables": tree, "pca": tree.pop("pca", {})}
    for name in _ARRAYS:
        if digest(arrays[name]) != digests.get(name):
            raise InputError(
                f"{path}: its {name} is not what {CONFIG_FILE} describes; {_AGAIN}"
            )
    return arrays


def _unflatten(flat):
    return {"batch_stats": {}, **traverse_util.unflatten_dict(flat, sep="/")}
