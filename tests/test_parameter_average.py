import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vse_jax
from tests import programs
from vse_jax import parameter_average
from vse_jax.models.vse import VSE, create_model

DECAY, STEPS = 0.9, 40


def test_average_is_the_weighted_mean_of_the_steps():
    """The start has no weight, and a number that never changes stays as it is."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(STEPS, 7)).astype(np.float32)
    still = np.float32(rng.normal(size=5))
    average = {"moving": jnp.full(7, 100.0), "still": jnp.array(still)}
    update = jax.jit(parameter_average.updated, static_argnums=2)
    for number in range(1, STEPS + 1):
        variables = {"moving": values[number - 1], "still": still}
        average = update(average, variables, DECAY, jnp.int32(number))
        weights = DECAY ** np.arange(number)[::-1]
        expected = (weights[:, None] * values[:number]).sum(0) / weights.sum()
        np.testing.assert_allclose(average["moving"], expected, atol=2e-5)
        np.testing.assert_array_equal(average["still"], still)


@pytest.mark.parametrize("decay", [0.99, 0.9999])
def test_slow_averages_are_exact_from_the_first_step(decay):
    value = np.float32([1.5, -2.25])
    average = parameter_average.updated(jnp.zeros(2), value, decay, jnp.int32(1))
    np.testing.assert_array_equal(average, value)
    average = parameter_average.updated(average, 3 * value, decay, jnp.int32(2))
    expected = value * (decay + 3) / (decay + 1)
    np.testing.assert_allclose(average, expected, rtol=1e-6)


OPTIONS = (
    "--config.optimizer.average_decay=0.9",
    "--config.model.dropout=0.2",
    "--config.data.drop_words=0.4",
    "--config.epochs=1",
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """An uninterrupted run that averages, and the playground."""
    place = programs.playground(tmp_path_factory.getbasetemp())
    workdir = place.workdir("averaged")
    finished = place.run(f"--workdir={workdir}", *OPTIONS)
    assert finished.returncode == 0, finished.stderr
    return place, workdir


def test_run_is_resumed_bit_for_bit(trained):
    """With the average, the dropout and the rates of the augmentation."""
    place, reference = trained
    workdir = place.workdir("averaged_in_parts")
    options = (f"--workdir={workdir}", *OPTIONS)
    stopped = programs.stop_after(place.start(*options), "step 7/", signal.SIGTERM)
    assert stopped.returncode == 143, stopped.stderr
    assert programs.checkpoint_steps(workdir)[0] < programs.STEPS_PER_EPOCH
    finished = place.run(*options)
    assert finished.returncode == 0, finished.stderr
    programs.assert_same_run(workdir, reference, programs.STEPS_PER_EPOCH)


def test_average_is_the_model_that_is_evaluated_and_loaded(trained):
    place, workdir = trained
    restored = programs.restored(workdir, programs.STEPS_PER_EPOCH)
    trees = restored.variables, restored.unaveraged
    distances = jax.tree.map(lambda x, y: np.abs(x - y).max(), *trees)
    assert distances["params"]["text"]["words"]["embedding"] > 1e-5
    norm = distances["batch_stats"]["image"]["encoder"]["mlp"]["norm"]
    assert min(norm["mean"], norm["variance"]) > 1e-5
    model = vse_jax.load(str(workdir))
    found = model.embed_captions(["a red dog runs"])
    config, words = model.config, len(model.vocabulary)
    tokens = model.vocabulary.encode("a red dog runs")[None]
    batch = {"tokens": tokens, "token_count": np.int32([tokens.size])}
    plain = create_model(config, words, train=False)
    average, last = (
        plain.apply(tree, batch, method=VSE.embed_captions) for tree in trees
    )
    np.testing.assert_allclose(found, average, atol=1e-6)
    assert np.abs(found - last).max() > 1e-5
    # The metrics that choose the best checkpoint are those of the average.
    finished = programs.run(
        "--mode=eval", f"--workdir={workdir}", "--split=dev", cwd=place.folder
    )
    assert finished.returncode == 0, finished.stderr
    assert f"{restored.metrics['rsum']:.1f}" in finished.stdout
