import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import common
from vse_jax import parameter_groups
from vse_jax.errors import InputError

PARAMS = {
    "image": {
        "backbone": {"stem": {"kernel": 1.0, "bias": -0.0}, "stage1": {"kernel": 3.0}},
        "encoder": {"kernel": 4.0},
    },
    "scale": 5.0,
}


def group(pattern, **options):
    return common.parameter_group(pattern, **options)


def test_first_match_of_a_whole_path_applies():
    groups = (group("image/backbone/stem/.*"), group("image/backbone/.*"), group(".*s"))
    assert parameter_groups.labels(groups, PARAMS) == {
        "image": {
            "backbone": {
                "stem": {"kernel": "group_0", "bias": "group_0"},
                "stage1": {"kernel": "group_1"},
            },
            "encoder": {"kernel": "default"},
        },
        "scale": "default",  # .*s matches only a part of it
    }


def test_pattern_may_pick_parameters_everywhere():
    groups = (group(".*/(kernel|scale)"), group("scale|.*/bias"))
    found = parameter_groups.labels(groups, PARAMS)
    assert found["image"]["backbone"]["stem"] == {
        "kernel": "group_0",
        "bias": "group_1",
    }
    assert found["image"]["encoder"] == {"kernel": "group_0"}
    assert found["scale"] == "group_1"


def test_no_gradient_reaches_frozen_parameters():
    groups = (group("image/backbone/.*", frozen=True), group(".*/kernel"))
    params = jax.tree.map(jnp.float32, PARAMS)

    def total(params):
        stopped = parameter_groups.stop_frozen(groups, params)
        return sum(map(jnp.exp, jax.tree.leaves(stopped)))

    gradients = jax.grad(total)(params)
    frozen = parameter_groups.frozen(groups, params)
    assert frozen["image"]["backbone"]["stem"] == {"kernel": True, "bias": True}
    expected = jax.tree.map(lambda x, f: 0 if f else np.exp(x), PARAMS, frozen)
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), gradients, expected
    )


def refused(groups, check=parameter_groups.check_options, **arguments):
    with pytest.raises(InputError) as error:
        check(groups, "optimizer.groups", **arguments)
    message = str(error.value)
    assert message.startswith("config.optimizer.groups")
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"pattern": "image/("}, r"[0].pattern is 'image/(', which is not a regular"),
        ({"pattern": ""}, "[0].pattern is ''; expected a regular expression"),
        ({"pattern": "x", "learning_rate": 0}, "greater than 0; set frozen=True"),
        ({"pattern": "x", "learning_rate": -1}, "[0].learning_rate is -1.0; expected"),
        ({"pattern": "x", "learning_rate": float("nan")}, "learning_rate is nan"),
        ({"pattern": "x", "weight_decay": -0.1}, "[0].weight_decay is -0.1; expected"),
        ({"pattern": "x", "frozen": 1}, "[0].frozen is 1; expected True or False"),
    ],
)
def test_invalid_options_are_refused(options, expected):
    assert expected in refused((group(**options),))


def test_other_objects_are_refused():
    for other in ("image/.*", {"pattern": "x"}, common.get_config().optimizer):
        message = refused((group("x"), other))
        assert "groups[1] is not a parameter group; create it with" in message


def test_pattern_without_parameters_is_refused():
    message = refused(
        (group("image/.*"), group("img/.*")),
        parameter_groups.check_matches,
        params=PARAMS,
    )
    assert message == (
        "config.optimizer.groups[1].pattern is 'img/.*', which matches no parameter; a "
        "pattern must match a whole path, and paths begin with image/backbone/, "
        "image/encoder/, scale"
    )


def test_group_without_parameters_of_its_own_is_refused():
    message = refused(
        (group("image/.*"), group("image/encoder/.*")),
        parameter_groups.check_matches,
        params=PARAMS,
    )
    assert "only parameters of earlier groups; move it before them" in message


def test_freezing_all_parameters_is_refused():
    groups = (group("image/.*", frozen=True), group(".*", frozen=True))
    message = refused(groups, parameter_groups.check_matches, params=PARAMS)
    assert "freezes every parameter of the model" in message
    both_encoders = (group("image/.*|scale", frozen=True),)
    learned = {**PARAMS, "loss": {"log_scale": 0.0}}
    for_learned = refused(both_encoders, parameter_groups.check_matches, params=learned)
    assert for_learned == message
    parameter_groups.check_matches(groups[:1], "optimizer.groups", PARAMS)
    parameter_groups.check_matches((), "optimizer.groups", PARAMS)


def test_weight_decay_can_be_set_on_the_command_line():
    """Its default of None has a type."""
    assert group("x").get_type("weight_decay") is float
    assert group("x").weight_decay is None
    assert group("x", weight_decay=0.5).weight_decay == 0.5
