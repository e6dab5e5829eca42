"""Files of the PyTorch repositories and pretrained weights are read from a bucket."""

import json

import jax
import numpy as np
import pytest
import safetensors.numpy
import torch

from tests import object_store, pretrained_files, whole_models
from tests.models.backbones import hugging_face
from vse_jax.checkpoint import Checkpoints
from vse_jax.errors import InputError
from vse_jax.torch_import import (
    backbone_variables,
    text_weights,
    tokenizer_files,
    torch_file,
    vocabulary_file,
    weight_file,
    whole_model,
)
from vse_jax.torch_import.resolve import resolved


def upload(path, target):
    target.write_bytes(path.read_bytes())
    return str(target)


@pytest.mark.parametrize("is_zip", [True, False])
def test_checkpoint(bucket, tmp_path, is_zip):
    """PyTorch before 1.6 wrote no zip file, as did the published models' authors."""
    arrays = {"weight": torch.arange(6.0).reshape(2, 3)}
    content = {"model": arrays, "epoch": 3}
    torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=is_zip)
    content = torch_file.read(upload(tmp_path / "a.pth", bucket / "a.pth"))
    assert content["epoch"] == 3
    np.testing.assert_array_equal(content["model"]["weight"], arrays["weight"].numpy())


def test_safetensors(bucket, tmp_path):
    arrays = {"weight": np.arange(6.0, dtype=np.float32)}
    safetensors.numpy.save_file(arrays, tmp_path / "a.safetensors")
    path = upload(tmp_path / "a.safetensors", bucket / "a.safetensors")
    np.testing.assert_array_equal(weight_file.read(path)["weight"], range(6))


def test_vocabulary(bucket):
    words = ["<pad>", "<start>", "<end>", "<unk>", "dog"]
    content = json.dumps({"word2idx": {word: i for i, word in enumerate(words)}})
    (bucket / "a_vocab.json").write_text(content)
    vocabulary, count = vocabulary_file.read(str(bucket / "a_vocab.json"))
    assert count == 5
    assert "dog" in vocabulary.words


def assert_same(found, expected):
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def of_both(config, option, folder, bucket, **options):
    """Returns the resolved configurations with weights in a folder and in a bucket."""
    configs = []
    for weights in (folder, object_store.upload(folder, bucket / "weights")):
        own = config.copy_and_resolve_references()
        own.update_from_flattened_dict(options | {option: str(weights)})
        configs.append(resolved(own))
    return configs


@pytest.mark.parametrize("tokenizer", ["vocab.txt", "tokenizer.json"])
def test_text_weights(tokenizer, bucket, tmp_path, config):
    folder = pretrained_files.write_bert(tmp_path / "bert")
    if tokenizer == "tokenizer.json":
        found = tokenizer_files.read(str(folder))
        content = json.loads(found.to_json())["tokenizer"]
        (folder / tokenizer).write_text(json.dumps(content))
        (folder / "vocab.txt").unlink()
    option = "model.text_weights"
    configs = of_both(config, option, folder, bucket, **{"model.text_encoder": "bert"})
    local, remote = configs
    assert remote.model.text_weights.startswith("gs://")
    assert remote.model.text_tower == local.model.text_tower
    assert remote.model.text_tower.layers == 2
    assert_same(text_weights.load(remote), text_weights.load(local))
    assert text_weights.read_tokenizer(remote) == text_weights.read_tokenizer(local)


def test_vision_weights(bucket, tmp_path, config):
    folder = tmp_path / "clip"
    options = {"size": {"shortest_edge": 36}, "crop_size": 32}
    hugging_face.save(hugging_face.create("clip"), folder, **options)
    name = {"model.backbone.name": "clip_vision"}
    local, remote = of_both(config, "model.backbone.weights", folder, bucket, **name)
    assert remote.model.backbone.tower == local.model.backbone.tower
    assert (remote.data.image_size, remote.data.resize) == (32, 36)
    assert_same(
        backbone_variables.load(remote.model.backbone, pooled=False),
        backbone_variables.load(local.model.backbone, pooled=False),
    )


@pytest.mark.parametrize("kind", whole_models.SAVE)
def test_whole_model(kind, bucket, tmp_path, config):
    folder = tmp_path / "model"
    whole_models.SAVE[kind](folder)
    runs = []
    for weights in (folder, object_store.upload(folder, bucket / "weights")):
        workdir = tmp_path / f"run{len(runs)}"
        whole_model.import_model(config, str(workdir), str(weights))
        runs.append(Checkpoints(workdir, read_only=True).restore([0]))
    assert_same(runs[1].variables, runs[0].variables)
    assert runs[1].run["vocabulary"] == runs[0].run["vocabulary"]


def test_absent_folder_is_refused_in_one_line(bucket, config):
    config.model.text_encoder = "bert"
    config.model.text_weights = str(bucket / "absent")
    with pytest.raises(InputError, match="absent: no such folder; expected") as error:
        resolved(config)
    assert "\n" not in str(error.value)


def test_absent_file_is_refused_in_one_line(bucket):
    path = str(bucket / "absent.safetensors")
    with pytest.raises(InputError) as error:
        weight_file.read(path)
    assert str(error.value) == f"{path}: cannot be read: No such file or directory"
