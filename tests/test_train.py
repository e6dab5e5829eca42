import pathlib

import jax
import numpy as np
import pytest

from configs import common, vsepp
from vse_jax import stage_steps, train, training_data
from vse_jax.checkpoint import Checkpoints
from vse_jax.errors import InputError


@pytest.fixture
def of_scenes(config, shapes_builder):
    """Two epochs of three steps, and a stage of one epoch with a frozen backbone.

    The seed is the largest.
    """
    config.seed = 2**32 - 1
    config.batch_size = config.evaluation_batch_size = 8
    config.epochs = 2
    config.data.builder = "shapes"
    config.data.scene_counts = (24, 10, 10)
    config.data.data_dir = str(pathlib.Path(shapes_builder.data_dir).parents[2])
    config.data.minimum_word_count = 1
    config.data.token_lengths = (12,)  # shorter than some captions
    config.model.backbone.name = "stem"
    config.model.text_encoder = "gru"
    config.model.embed_dim, config.model.word_dim = 8, 4
    config.optimizer.groups = (common.parameter_group("text/.*", learning_rate=0.1),)
    config.fine_tuning = (
        common.fine_tuning_stage(
            epochs=1, learning_rate=1e-3, groups=(vsepp.frozen_backbone(),)
        ),
    )
    return config


@pytest.mark.usefixtures("quick_compilation")
def test_stage_starts_from_the_best_checkpoint_and_keeps_frozen_parameters(
    of_scenes, tmp_path, monkeypatch, caplog
):
    evaluate = train.Evaluator.evaluate
    worse_and_worse = iter((30.0, 20.0, 10.0))

    def evaluate_worse(self, variables, split):
        evaluation = evaluate(self, variables, split)
        evaluation.metrics["rsum"] = next(worse_and_worse, 0.0)
        return evaluation

    monkeypatch.setattr(train.Evaluator, "evaluate", evaluate_worse)
    assert train.train_and_evaluate(of_scenes, str(tmp_path))
    warnings = [text for text in caplog.messages if "captions are truncated" in text]
    assert sum(text.startswith("train: ") for text in warnings) == 1
    checkpoints = Checkpoints(str(tmp_path), read_only=True)
    last, second, best = checkpoints.steps()
    assert last * 2 == second * 3 == best * 6
    last, second, best = (
        checkpoints.restore([step]).variables for step in (last, second, best)
    )
    for collection in ("params", "batch_stats"):
        image = [tree[collection]["image"] for tree in (last, second, best)]
        assert are_equal(image[0]["backbone"], image[2]["backbone"])
        assert not are_equal(image[1]["backbone"], image[2]["backbone"])
        assert not are_equal(image[0]["encoder"], image[2]["encoder"])


def test_folds_of_the_test_split_are_checked_before_the_first_step(
    of_scenes, tmp_path, monkeypatch
):
    monkeypatch.setattr(stage_steps, "make_train_step", None)
    of_scenes.data.validation_split = "train"
    of_scenes.data.folds = 12  # of 24 and 10 images
    with pytest.raises(InputError) as error:
        train.train_and_evaluate(of_scenes, str(tmp_path))
    assert str(error.value) == (
        "config.data.folds is 12, but the split 'test' has 10 images; set it to 0"
    )


def test_pattern_without_parameters_is_refused_before_the_first_step(
    of_scenes, tmp_path, monkeypatch
):
    monkeypatch.setattr(stage_steps, "make_train_step", None)
    group = common.parameter_group("image/backbone/stage9/.*", frozen=True)
    of_scenes.fine_tuning[0].groups = (group,)
    with pytest.raises(InputError) as error:
        train.train_and_evaluate(of_scenes, str(tmp_path))
    assert str(error.value) == (
        "config.fine_tuning[0].groups[0].pattern is 'image/backbone/stage9/.*', which "
        "matches no parameter; a pattern must match a whole path, and paths begin with "
        "image/backbone/, image/encoder/, text/gru/, text/words/"
    )


def test_profile_behind_the_end_is_refused_before_anything_is_read(
    of_scenes, tmp_path, monkeypatch
):
    monkeypatch.setattr(train.StageSteps, "create_state", None)
    monkeypatch.setattr(training_data.StreamedData, "batches", None)
    of_scenes.profile_at_step = 10**6
    with pytest.raises(InputError, match=r"^config\.profile_at_step is 1000000, but "):
        train.train_and_evaluate(of_scenes, str(tmp_path))


def are_equal(tree, other):
    return all(jax.tree.leaves(jax.tree.map(np.array_equal, tree, other)))
