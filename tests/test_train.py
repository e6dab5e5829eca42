import json

import pytest

from configs import common
from vse_jax import train
from vse_jax.errors import InputError

OPTIONS = ("epochs", "data.crops", "evaluate_every_epochs")


def saved(config):
    """What a checkpoint says of a run."""
    return {"config": json.loads(config.to_json())}


@pytest.mark.parametrize("option", OPTIONS)
def test_what_no_step_depends_on_may_change(config, option):
    before = saved(config)
    config.update_from_flattened_dict({option: 10})
    train.check_same_run(before, config, "runs/x")


@pytest.mark.parametrize("option", OPTIONS)
def test_what_a_stage_begins_with_may_not_change(config, option):
    config.fine_tuning = (common.fine_tuning_stage(epochs=1, learning_rate=1e-5),)
    before = saved(config)
    train.check_same_run(before, config, "runs/x")
    config.update_from_flattened_dict({option: 10})
    with pytest.raises(InputError) as error:
        train.check_same_run(before, config, "runs/x")
    assert f"(config.{option} was " in str(error.value)


def test_options_of_a_stage_are_compared_one_by_one(config):
    config.fine_tuning = (common.fine_tuning_stage(epochs=1, learning_rate=1e-5),)
    before = saved(config)
    config.fine_tuning[0].learning_rate = 2e-5
    with pytest.raises(InputError) as error:
        train.check_same_run(before, config, "runs/x")
    changed = "config.fine_tuning[0].learning_rate was 1e-05 and is now 2e-05"
    assert changed in str(error.value)
