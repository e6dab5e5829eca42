"""A run is bound to its data: changed data are refused, and changes are named."""

import json
import os
import shutil

import numpy as np
import pytest

from tests import programs
from vse_jax import evaluate, train
from vse_jax.errors import InputError


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return programs.playground(tmp_path_factory.getbasetemp())


@pytest.fixture
def root(place, tmp_path):
    """A copy of the source files, which is the same dataset."""
    return shutil.copytree(place.root, tmp_path / "root")


@pytest.fixture
def config(place, root, tmp_path):
    return place.config(root=str(root), data_dir=str(tmp_path / "data"))


def change_features(root, split, *rows):
    path = root / f"{split}_ims.npy"
    regions = np.load(path)
    regions[list(rows)] += 1
    np.save(path, regions)


def refused(action, *args, **kwargs):
    with pytest.raises(InputError) as error:
        action(*args, **kwargs)
    message = str(error.value)
    assert "\n" not in message
    assert len(message) < 600
    return message


def test_training_does_not_resume_on_other_features(place, root, config):
    workdir, _ = place.trained()
    before = programs.files(workdir)
    change_features(root, "train", 3, 5)
    message = refused(train.train_and_evaluate, config, str(workdir))
    assert "(train: features of 2 images changed, such as 3)" in message
    assert f"not the dataset that {workdir} was trained on" in message
    assert "choose another --workdir" in message
    assert programs.files(workdir) == before


def test_validation_split_is_part_of_the_data(place, root, config):
    """Otherwise `best` would compare scores of two validation splits."""
    workdir, _ = place.trained()
    path = root / "dev_caps.txt"
    lines = path.read_text().splitlines()
    lines[7] = "a cat sits"
    path.write_text("\n".join(lines) + "\n")
    message = refused(train.train_and_evaluate, config, str(workdir))
    assert "(dev: captions of 1 image changed, such as 1)" in message


def test_copy_elsewhere_is_the_same(place, config, tmp_path):
    """A finished run is evaluated again on the copy."""
    workdir = shutil.copytree(place.trained()[0], tmp_path / "run")
    assert train.train_and_evaluate(config, str(workdir))


def test_evaluation_of_a_changed_split_is_refused(place):
    """If the user names the data explicitly, the change is only logged."""
    workdir, _ = place.trained()
    path = place.root / "test_ims.npy"
    content, status = path.read_bytes(), os.stat(path)
    change_features(place.root, "test", 2)
    try:
        message = refused(evaluate.evaluate, str(workdir))
    finally:
        path.write_bytes(content)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert "the split 'test' has changed since training" in message
    assert "test: features of 1 image changed, such as 2" in message


def test_other_data_that_the_user_names_is_evaluated(place, root, config, caplog):
    workdir = shutil.copytree(place.trained()[0], root.parent / "run")
    change_features(root, "test", 2)
    folders = {f"data.{name}": config.data[name] for name in ("root", "data_dir")}
    evaluate.evaluate(str(workdir), overrides=folders)
    assert "the split 'test' has changed since training" in caplog.text


def test_checkpoint_remembers_what_it_was_trained_on(place):
    workdir, _ = place.trained()
    run = programs.restored(workdir, programs.checkpoint_steps(workdir)[0]).run
    assert run["dataset"]["splits"]["train"]["images"] == programs.IMAGES["train"]
    assert run["dataset"]["splits"]["dev"]["captions"] == 5 * programs.IMAGES["dev"]
    assert len(run["dataset"]["digest"]) == 64
    assert run["tokenizer"]["name"] == "nltk"
    assert run["tokenizer"]["library"].startswith("nltk 3.")
    assert run["dtype"] == "float32"
    assert run["extraction"] is None
    assert os.path.isabs(run["config"]["data"]["root"])
    assert run["config"]["coordinator"] == ""
    json.dumps(run)
