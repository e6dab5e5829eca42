"""What a training starts from, put into its state."""

import jax
import numpy as np
import pytest

from vse_jax import saved_model
from vse_jax.errors import InputError
from vse_jax.pretrained import load_pretrained
from vse_jax.train_step import TrainState


@pytest.fixture
def run(scene_run, config):
    """The variables of a run, and a configuration that starts from it."""
    config.start_from = str(scene_run[0])
    return saved_model.restore(config.start_from).variables, config


def zeros(variables, **params):
    """Returns a state of zeros, with further parameters."""
    state = jax.tree.map(np.zeros_like, variables)
    params = state["params"] | params
    return TrainState(np.int32(0), params, state["batch_stats"], opt_state=())


def test_state_and_its_average_are_those_of_the_run(run):
    variables, config = run
    state = zeros(variables)
    found = load_pretrained(config, state.replace(average=state.variables))
    for tree in (found.variables, found.average):
        jax.tree.map(np.testing.assert_array_equal, tree, variables)


def test_scale_that_the_run_has_not_learned_starts_anew(run):
    variables, config = run
    scalars = {"log_scale": np.float32(3)}
    found = load_pretrained(config, zeros(variables, loss=scalars))
    assert found.params["loss"] == scalars
    jax.tree.map(
        np.testing.assert_array_equal, found.params["text"], variables["params"]["text"]
    )


def test_features_of_another_size_are_refused(run):
    variables, config = run
    state = zeros(variables)
    state.params["image"]["encoder"]["projection"]["kernel"] = np.zeros((2, 3))
    with pytest.raises(InputError) as error:
        load_pretrained(config, state)
    kernel = variables["params"]["image"]["encoder"]["projection"]["kernel"]
    assert str(error.value) == (
        f"{config.start_from}: its parameters are not those of a model of this "
        f"dataset; mis-shaped: params.image.encoder.projection.kernel {kernel.shape} "
        "instead of (2, 3); choose data whose images have the form of that run's"
    )
