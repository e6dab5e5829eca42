"""Runs the program with a tiny pretrained BERT, from training to its uses."""

import re
import shutil

import pytest

from tests import pretrained_files, programs
from vse_jax.checkpoint import Checkpoints

OPTIONS = {
    "model.text_encoder": "bert",
    "epochs": 1,
    "checkpoint_every_steps": 25,
}


def options(weights, workdir, **changes):
    given = OPTIONS | {"model.text_weights": weights} | changes
    return [
        *(f"--config.{name}={value}" for name, value in given.items()),
        f"--workdir={workdir}",
    ]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return programs.Playground(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def trained(place):
    """A workdir whose weights and tokenizer are deleted after the training."""
    folder = pretrained_files.write_bert(place.folder / "weights")
    workdir = place.workdir("bert")
    finished = place.run(*options(folder, workdir))
    assert finished.returncode == 0, finished.stderr
    folder.rename(place.folder / "gone")
    return workdir, finished


def described(workdir):
    checkpoints = Checkpoints(workdir, read_only=True)
    return checkpoints.restore(checkpoints.steps()[:1])


def test_training_starts_from_the_weights_and_changes_them(place, trained):
    restored = described(trained[0])
    tower = restored.variables["params"]["text"]["transformer"]
    arrays = pretrained_files.bert_arrays(
        pretrained_files.OPTIONS | {"vocab_size": len(pretrained_files.word_pieces())}
    )
    query = arrays["encoder.layer.1.attention.self.query.weight"].T
    found = tower["layer_1"]["attention"]["query"]["kernel"]
    assert 0 < abs(found - query).max() < 0.05


def test_run_remembers_sizes_and_tokens(trained):
    run = described(trained[0]).run
    tower = run["config"]["model"]["text_tower"]
    assert tower["layers"] == 2
    assert tower["dim"] == 12
    assert tower["positions"] == 24
    assert tower["activation"] == "gelu"
    assert run["tokenizer"]["name"] == "WordPiece"
    vocabulary = run["vocabulary"]["tokenizer"]["model"]["vocab"]
    assert tuple(vocabulary) == pretrained_files.word_pieces()


def test_eval_without_the_weights(place, trained):
    workdir, finished = trained
    again = programs.finish(programs.start("--mode=eval", f"--workdir={workdir}"))
    assert again.returncode == 0, again.stderr
    to_text, to_image = (
        re.search(rf"^{direction} .*$", finished.stdout, re.MULTILINE)[0]
        for direction in ("image to text", "text to image")
    )
    assert f"{to_text}\n{to_image}\n" in again.stdout


def test_resume_without_the_weights(place, trained, tmp_path):
    """Their path is another way to write the one of the start."""
    workdir = tmp_path / "run"
    shutil.copytree(trained[0], workdir)
    missing = f"{place.folder}/./weights/"
    finished = place.run(*options(missing, workdir, epochs=2))
    assert finished.returncode == 0, finished.stderr
    assert described(workdir).step == 50


def test_new_run_without_the_weights_is_refused(place, trained, tmp_path):
    finished = place.run(*options(place.folder / "weights", tmp_path / "run"))
    assert finished.returncode == 2
    assert "no such folder" in finished.stderr.splitlines()[-1]
