import argparse
import os
import pickle
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch

from tests import programs
from tests.malicious import Malicious
from vse_jax.errors import InputError
from vse_jax.torch_import import torch_file


@pytest.mark.parametrize("zipped", [True, False])
def test_tensors_and_options_are_read(tmp_path, zipped):
    path = tmp_path / "x.pth"
    content = {
        "model": [{"w": torch.arange(6.0).reshape(2, 3)}, {"n": torch.tensor(7)}],
        "opt": argparse.Namespace(margin=0.2, name="rvse"),
        "best_rsum": np.float64(123.4),
    }
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    read = torch_file.read(str(path))
    np.testing.assert_array_equal(read["model"][0]["w"], [[0, 1, 2], [3, 4, 5]])
    assert read["model"][1]["n"] == 7
    assert read["opt"] == {"margin": 0.2, "name": "rvse"}
    assert read["best_rsum"] == 123.4


@pytest.mark.parametrize("kind", ["float8", "sparse", "meta"])
def test_tensors_that_numpy_cannot_have_are_refused(kind, tmp_path):
    tensor = {
        "float8": lambda: torch.ones(2).to(torch.float8_e4m3fn),
        "sparse": lambda: torch.eye(2).to_sparse(),
        "meta": lambda: torch.ones(2, device="meta"),
    }[kind]()
    path = tmp_path / "x.pth"
    torch.save({"w": tensor}, path)
    with pytest.raises(InputError, match=r"x\.pth: contains a tensor .* float32$"):
        torch_file.read(str(path))


@pytest.mark.parametrize("zipped", [True, False])
def test_code_is_refused_and_not_run(tmp_path, zipped):
    path, made = tmp_path / "x.pth", tmp_path / "made"
    content = {"model": [{}, {}], "opt": Malicious(made)}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(InputError, match="could run any code") as error:
        torch_file.read(str(path))
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)
    assert not made.exists()
    torch.load(path, weights_only=False)  # this runs the code
    assert made.exists()


def test_plain_pickle_is_refused_and_not_run(tmp_path):
    path, made = tmp_path / "x.pth", tmp_path / "made"
    path.write_bytes(pickle.dumps(Malicious(made)))
    with pytest.raises(InputError, match=r"x\.pth"):
        torch_file.read(str(path))
    assert not made.exists()


def write_text(path):
    path.write_text("not a checkpoint")


def write_empty(path):
    path.write_bytes(b"")


def write_zip(path):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a.txt", "a")


def write_truncated(path):
    torch.save({"w": torch.zeros(10_000)}, path)
    path.write_bytes(path.read_bytes()[:20_000])


@pytest.mark.parametrize(
    "write", [write_text, write_empty, write_zip, write_truncated, os.mkdir, None]
)
def test_other_files_are_refused_in_one_line(tmp_path, write):
    path = tmp_path / "x.pth"
    if write:
        write(path)
    with pytest.raises(InputError) as error:
        torch_file.read(str(path))
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


def test_missing_pytorch_is_reported(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(InputError, match="pip install torch"):
        torch_file.read(str(tmp_path / "x.pth"))


READ_AFTER_TENSORFLOW = """
import sys
import tensorflow
from vse_jax.torch_import import torch_file
for path in sys.argv[1:]:
    content = torch_file.read(path)
    assert content["model"]["w"].sum() == 15, content
    assert content["model"]["b"].dtype == "float32"
assert "torch._dynamo" not in sys.modules
"""


def test_files_are_read_after_tensorflow_without_pytorchs_compiler(tmp_path):
    """PyTorch's compiler crashes when it is imported after TensorFlow."""
    model = torch.nn.ParameterDict({"w": torch.arange(6.0)}).state_dict()
    model["b"] = torch.nn.Parameter(torch.ones(2, dtype=torch.bfloat16))
    moments = {"step": torch.tensor(1.0), "exp_avg": torch.ones(2, 3)}
    optimizer = {"state": {0: moments}, "param_groups": [{"lr": 5e-4, "params": [0]}]}
    content = {"model": model, "optimizer": optimizer}
    paths = [tmp_path / "zipped.pth", tmp_path / "legacy.pth"]
    for path in paths:
        is_zipped = path.stem == "zipped"
        torch.save(content, path, _use_new_zipfile_serialization=is_zipped)
    finished = subprocess.run(
        [sys.executable, "-c", READ_AFTER_TENSORFLOW, *map(str, paths)],
        cwd=programs.REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
