"""Files of the PyTorch repositories are read from a bucket."""

import json

import numpy as np
import safetensors.numpy
import torch

from vse_jax.torch_import import torch_file, vocabulary_file, weight_file


def upload(path, target):
    target.write_bytes(path.read_bytes())
    return str(target)


def test_checkpoint(bucket, tmp_path):
    arrays = {"weight": torch.arange(6.0).reshape(2, 3)}
    torch.save({"model": arrays, "epoch": 3}, tmp_path / "a.pth")
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
