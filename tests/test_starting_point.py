"""Trainings that begin with the model of another run."""

import json
import logging
import shutil
import types

import jax
import numpy as np
import pytest

from configs import common
from tests import pretrained_files, saved_runs
from vse_jax import loss_scalars, pretrained, run_config, starting_point, train
from vse_jax.checkpoint import Checkpoints
from vse_jax.errors import InputError
from vse_jax.run_config import IMPORTED_FROM
from vse_jax.torch_import import tokenizer_files
from vse_jax.train_step import TrainState

pytestmark = pytest.mark.usefixtures("quick_compilation")


def small(data_dir):
    config = saved_runs.of_scenes(data_dir)
    config.model.text_encoder = "gru"
    config.data.image_size = 32
    return config


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """A run with words that occur rarely, and its configuration."""
    folder = tmp_path_factory.mktemp("other")
    config = small(folder / "data")
    saved_runs.save(folder / "run", config)
    return folder / "run", config


def new(other, **options):
    """The configuration of a new run, which describes another model."""
    config = small(other[1].data.data_dir)
    config.start_from = str(other[0])
    config.model.update(embed_dim=24, text_encoder="bigru_gpo")
    config.data.update(image_size=0, minimum_word_count=3)
    config.optimizer.learning_rate = 1e-9
    config.epochs = 1
    config.update(options)
    return config


def restored(workdir):
    checkpoints = Checkpoints(str(workdir), read_only=True)
    return checkpoints.restore(checkpoints.steps())


def test_new_run_has_the_model_and_the_words_of_the_other(other, tmp_path):
    """The rate is so small that its training leaves the parameters as they are."""
    config = new(other)
    assert train.train_and_evaluate(config, str(tmp_path / "run"))
    before, after = restored(other[0]), restored(tmp_path / "run")
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6),
        before.variables["params"],
        after.variables["params"],
    )
    assert after.run["vocabulary"] == before.run["vocabulary"]
    assert after.run["config"]["model"] == before.run["config"]["model"]
    assert after.run["preprocessing"] == before.run["preprocessing"]
    assert config.model.embed_dim == 24  # it is unchanged


def test_started_run_needs_the_other_no_more(other, tmp_path):
    shutil.copytree(other[0], tmp_path / "other")
    config = new((tmp_path / "other", other[1]), checkpoint_every_steps=1)
    workdir = str(tmp_path / "run")
    assert train.train_and_evaluate(config, workdir)
    steps = restored(workdir).step
    shutil.rmtree(tmp_path / "other")
    config.epochs = 2
    assert train.train_and_evaluate(config, workdir)
    assert restored(workdir).step == 2 * steps


def test_pretrained_weights_beside_it_are_refused(other, tmp_path):
    config = new(other)
    config.model.text_weights = "bert"
    with pytest.raises(InputError, match="has all parameters; set only one"):
        train.train_and_evaluate(config, str(tmp_path / "run"))


@pytest.mark.parametrize(("loss", "scale"), [("infonce", 100.0), ("sigmoid", 117.0)])
def test_the_scale_of_another_loss_is_limited(loss, scale, config, monkeypatch, caplog):
    """That of published SigLIPs is 117, and that of InfoNCE at most 100."""
    weights = {"w": np.ones(2, np.float32)}
    scalars = {"log_scale": np.float32(np.log(117)), "bias": np.float32(-13)}
    saved = types.SimpleNamespace(variables={"params": {**weights, "loss": scalars}})
    monkeypatch.setattr(pretrained.saved_model, "restore", lambda path: saved)
    config.start_from, config.loss.name = "runs/siglip", loss
    own = loss_scalars.start_params(config.loss)
    state = TrainState(step=0, params=weights | own, batch_stats={}, opt_state={})
    with caplog.at_level(logging.INFO):
        params = pretrained.load_pretrained(config, state).params
    assert params["loss"].keys() == own["loss"].keys()
    assert np.exp(params["loss"]["log_scale"]) == pytest.approx(scale, rel=1e-5)
    assert f"begins with the scale {scale:g} of runs/siglip" in caplog.text


def test_weights_are_the_same_however_their_path_is_written(tmp_path, monkeypatch):
    """Also if they are gone: a folder then looks like a package."""
    folder = pretrained_files.write_bert(tmp_path / "weights")
    (tmp_path / "elsewhere").mkdir()
    config = common.get_config()
    config.model.update(text_encoder="bert", text_weights="weights")
    monkeypatch.chdir(tmp_path)
    started, _ = starting_point.complete(config, None)
    run = run_config.describe(started, tokenizer_files.read("weights"))
    shutil.rmtree(folder)
    for place, path in (
        (tmp_path, "weights"),
        (tmp_path, "./weights/"),
        (tmp_path / "elsewhere", "../weights"),
        (tmp_path / "elsewhere", str(folder)),
    ):
        monkeypatch.chdir(place)
        config.model.text_weights = path
        resumed, vocabulary = starting_point.complete(config, run)
        run_config.check_same_run(run, resumed, "run")
        assert vocabulary is not None
        given = {"model.text_weights": path}
        assert run_config.merge(run["config"], given).model.text_encoder == "bert"
    config.model.text_weights = "weights"  # another one
    with pytest.raises(InputError, match="weights: neither a folder"):
        starting_point.complete(config, run)


def test_missing_run_is_refused(other, tmp_path):
    config = new((tmp_path / "none", other[1]))
    with pytest.raises(InputError, match="none has no checkpoint"):
        train.train_and_evaluate(config, str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_imported_model_says_how_to_train_it(other, tmp_path):
    shutil.copytree(other[0], tmp_path / "imported")
    for path in (tmp_path / "imported" / "checkpoints").glob("*/run/metadata"):
        run = json.loads(path.read_text()) | {IMPORTED_FROM: "model_best.pth"}
        path.write_text(json.dumps(run))
    workdir = str(tmp_path / "imported")
    with pytest.raises(InputError, match=f"set config.start_from={workdir}"):
        train.train_and_evaluate(other[1], workdir)
