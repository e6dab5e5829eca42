import json

import pytest

from configs import common
from vse_jax import run_config
from vse_jax.data.text.vocabulary import Vocabulary
from vse_jax.errors import InputError

FREE = ("epochs", "evaluate_every_epochs")
OF_THE_BEST = ("data.crops", "data.validation_split")


def description(config):
    """Returns the description of a run in a checkpoint."""
    return {"config": json.loads(config.to_json())}


@pytest.mark.parametrize("schedule", ["steps", "cosine"])
def test_training_is_extended_unless_its_schedule_depends_on_the_end(config, schedule):
    config.optimizer.schedule = schedule
    before = description(config)
    config.epochs += 1
    if schedule == "steps":
        run_config.check_same_run(before, config, "runs/x")
        return
    with pytest.raises(InputError, match=r"config\.epochs was 25 and is now 26"):
        run_config.check_same_run(before, config, "runs/x")


def test_training_is_not_shortened(config):
    """Its best checkpoint may be behind the new end."""
    before = description(config)
    run_config.check_same_run(before, config, "runs/x")
    config.epochs = 24
    with pytest.raises(InputError) as error:
        run_config.check_same_run(before, config, "runs/x")
    assert str(error.value) == (
        "config.epochs is 24, but runs/x has a run of 25 epochs, which cannot be "
        "shortened; set config.epochs to 25, or to more to extend the run, or choose "
        "another --workdir"
    )


def test_groups_are_saved_and_compared_one_by_one(config):
    config.optimizer.groups = (common.parameter_group("text/.*"),)
    config.fine_tuning = (
        common.fine_tuning_stage(
            epochs=1,
            learning_rate=1e-5,
            groups=(common.parameter_group("image/.*", weight_decay=0.1),),
        ),
    )
    before = description(config)
    run_config.check_same_run(before, config, "runs/x")
    assert run_config.from_json(before["config"]) == config
    config.optimizer.groups[0].weight_decay = 0.5
    config.fine_tuning[0].groups[0].frozen = True
    with pytest.raises(InputError) as error:
        run_config.check_same_run(before, config, "runs/x")
    message = str(error.value)
    assert "config.optimizer.groups[0].weight_decay was None and is now 0.5" in message
    assert "config.fine_tuning[0].groups[0].frozen was False and is now" in message


@pytest.fixture
def saved(config):
    """A configuration as it is saved in a checkpoint."""
    config.data.root = "/data/there"
    config.loss.margin = 0.3
    return json.loads(config.to_json())


def test_checkpoint_determines_all_but_evaluation_options(saved):
    overrides = {
        "data.root": "/data/here",
        "evaluation_batch_size": 64,
        "data.vocabulary": "checkpoint",
    }
    merged = run_config.merge(saved, overrides)
    assert merged.data.root == "/data/here"
    assert merged.evaluation_batch_size == 64
    assert merged.data.vocabulary == "checkpoint"
    assert merged.loss.margin == 0.3
    assert merged.data.token_lengths == (16, 24, 32, 48, 64)  # JSON has no tuples


def test_options_of_the_model_cannot_be_overridden(saved):
    with pytest.raises(InputError, match=r"config\.loss\.margin is 0\.3") as error:
        run_config.merge(saved, {"loss.margin": 0.5})
    assert "can only set config.data.root, config.data." in str(error.value)
    same = run_config.merge(saved, {"loss.margin": 0.3})
    assert same.loss.margin == 0.3


@pytest.mark.parametrize("option", FREE)
def test_options_that_no_step_depends_on_may_change(config, option):
    before = description(config)
    config.update_from_flattened_dict({option: 30})
    run_config.check_same_run(before, config, "runs/x")


@pytest.mark.parametrize("mode", ["compile", "extract", "gallery"])
def test_options_of_other_modes_may_change(config, mode):
    before = description(config)
    for name in config[mode]:
        before["config"][mode][name] = None  # any other value
    run_config.check_same_run(before, config, "runs/x")
    names = {f"{mode}.{name}" for name in config[mode]}
    assert names <= run_config.FREE_OPTIONS


def test_state_of_the_optimizer_may_move_but_microbatches_stay(config):
    before = description(config)
    config.optimizer.sharded = True
    run_config.check_same_run(before, config, "runs/x")
    config.microbatches = 2
    with pytest.raises(InputError, match=r"config\.microbatches was 1 and is now 2"):
        run_config.check_same_run(before, config, "runs/x")


@pytest.mark.parametrize("epochs", [(1.0, 20), [1, 20.0], [1, 20], (1, 20)])
def test_numbers_are_compared_as_numbers(config, epochs):
    stage = common.fine_tuning_stage(epochs=1, learning_rate=1.0, decay_epochs=(1, 20))
    config.optimizer.decay_epochs, config.fine_tuning = (1, 20), (stage,)
    before = description(config)
    stage.decay_epochs = epochs
    with config.unlocked():
        del config.optimizer["decay_epochs"]
        config.optimizer.decay_epochs = epochs
    for now in (config, run_config.from_json(description(config)["config"])):
        run_config.check_same_run(before, now, "runs/x")
        seeds = {"a": {**before, "dataset": None}}
        seeds["b"] = {**description(now), "dataset": None}
        run_config.check_same_but_seed(seeds)
    config.optimizer.decay_epochs = type(epochs)([1, 21])
    with pytest.raises(
        InputError, match=r"decay_epochs was \(1, 20\) and is now \(1, 21"
    ):
        run_config.check_same_run(before, config, "runs/x")


@pytest.mark.parametrize("option", OF_THE_BEST)
def test_scores_of_the_best_checkpoint_stay_comparable(config, option):
    before = description(config)
    other = 10 if option == "data.crops" else "test"
    config.update_from_flattened_dict({option: other})
    with pytest.raises(InputError) as error:
        run_config.check_same_run(before, config, "runs/x")
    assert f"(config.{option} was " in str(error.value)


@pytest.mark.parametrize("option", FREE)
def test_options_that_the_start_of_a_stage_depends_on_may_not_change(config, option):
    config.fine_tuning = (common.fine_tuning_stage(epochs=1, learning_rate=1e-5),)
    before = description(config)
    run_config.check_same_run(before, config, "runs/x")
    config.update_from_flattened_dict({option: 10})
    with pytest.raises(InputError) as error:
        run_config.check_same_run(before, config, "runs/x")
    assert f"(config.{option} was " in str(error.value)


def test_options_of_a_stage_are_compared_one_by_one(config):
    config.fine_tuning = (common.fine_tuning_stage(epochs=1, learning_rate=1e-5),)
    before = description(config)
    config.fine_tuning[0].learning_rate = 2e-5
    with pytest.raises(InputError) as error:
        run_config.check_same_run(before, config, "runs/x")
    changed = "config.fine_tuning[0].learning_rate was 1e-05 and is now 2e-05"
    assert changed in str(error.value)


def complete(config):
    return json.loads(json.dumps(run_config.describe(config, Vocabulary(["a"]))))


def refused(run):
    with pytest.raises(InputError) as error:
        run_config.check_complete(run, "runs/x")
    message = str(error.value)
    assert message.startswith("runs/x: lacks ")
    assert message.endswith("or train again with another --workdir")
    return message


def test_description_that_lacks_an_entry_or_an_option_is_refused(config):
    run = complete(config)
    run_config.check_complete(run, "runs/x")
    del run["config"]["gallery"], run["config"]["extract"]["pool"]
    message = refused(run)
    assert "config.gallery" in message
    assert "config.extract.pool" in message
    run["config"] = "damaged"
    assert "lacks config, since" in refused(run)
    for empty in ({}, None, [1]):
        assert "lacks config, vocabulary, tokenizer and 4 more, since" in refused(empty)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tokenizer", "x"),
        ("dtype", None),
        ("extraction", []),
        ("config.data.maximum_pixels", None),
        ("config.data.token_lengths", 24),
        ("config.data.strict", 1),
        ("config.loss.margin", True),
        ("config.epochs", 2.5),
        ("config.fine_tuning", {}),
        ("config.fine_tuning", -1),
    ],
)
def test_value_of_another_type_is_refused(config, name, value):
    """As after a hasty edit of an export's `config.json`."""
    run = complete(config)
    *path, last = name.split(".")
    entries = run
    for part in path:
        entries = entries[part]
    entries[last] = value
    with pytest.raises(InputError, match=f"^runs/x: its {name} is of another type"):
        run_config.check_complete(run, "runs/x")


def test_stage_that_lacks_an_option_is_refused(config):
    config.fine_tuning = (common.fine_tuning_stage(epochs=2, learning_rate=1e-5),)
    run = complete(config)
    run_config.check_complete(run, "runs/x")
    del run["config"]["fine_tuning"][0]["schedule"]
    assert "lacks config.fine_tuning[0].schedule, since" in refused(run)


def test_run_may_be_evaluated_on_other_devices_than_it_was_trained_on(config):
    config.platform = "tpu"
    saved = run_config.describe(config, Vocabulary(["a"]))["config"]
    assert run_config.merge(saved, {}).platform == ""
    assert run_config.merge(saved, {"platform": "gpu"}).platform == "gpu"
