import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vse_jax import parallel
from vse_jax.errors import InputError, TrainingError


def test_tests_run_on_eight_devices():
    assert jax.device_count() == 8


@pytest.mark.parametrize(
    ("batch_size", "nearby"),
    [(12, "8 or 16"), (7, "8"), (0, "8"), (-8, "8"), (100, "96 or 104")],
)
def test_batch_that_the_devices_do_not_divide_is_refused(batch_size, nearby):
    with pytest.raises(InputError) as error:
        parallel.check_batch_size(batch_size, "evaluation_batch_size")
    assert str(error.value) == (
        f"config.evaluation_batch_size is {batch_size}, which 8 devices do not divide; "
        f"set it to {nearby}"
    )


def test_batch_that_the_devices_divide_is_taken():
    parallel.check_batch_size(8, "batch_size")
    parallel.check_batch_size(64, "batch_size")


def test_platform_that_no_one_knows_is_refused():
    with pytest.raises(InputError, match=r"config\.platform is 'cuda', expected cpu"):
        parallel.select_platform("cuda")


def test_platform_that_is_not_there_is_refused():
    """In a process of its own: here JAX has its devices already."""
    program = (
        "from vse_jax import parallel, errors\n"
        "try:\n"
        "    parallel.select_platform('gpu')\n"
        "except errors.InputError as error:\n"
        "    print(error)\n"
    )
    process = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    if not process.stdout and not process.stderr.count("Traceback"):
        pytest.skip("this machine has a GPU")
    lines = process.stdout.splitlines()
    assert len(lines) == 1, process.stderr
    assert lines[0].startswith("config.platform is 'gpu', but JAX finds no such device")


def test_gather_keeps_the_order_of_shards():
    batch = {"x": np.arange(32.0).reshape(16, 2)}
    parts = parallel.shard(batch)["x"]
    assert parts.shape == (8, 2, 2)
    gathered = parallel.map_over_devices(parallel.gather)(parts)
    for device in range(8):
        np.testing.assert_array_equal(gathered[device], batch["x"])


def test_position_is_where_gather_puts_a_row():
    rows = np.arange(24).reshape(8, 3)

    def own_rows(rows):
        return parallel.gather(rows)[parallel.position_in_global_batch(3)]

    np.testing.assert_array_equal(parallel.map_over_devices(own_rows)(rows), rows)


def test_sums_are_over_all_devices():
    tree = {"a": np.arange(8.0), "b": np.ones((8, 2))}
    summed = parallel.map_over_devices(parallel.sum_over_devices)(tree)
    np.testing.assert_array_equal(summed["a"], [28] * 8)
    np.testing.assert_array_equal(summed["b"], np.full((8, 2), 8))


def test_gradient_reaches_the_rows_that_were_gathered():
    rows = np.random.default_rng(0).normal(size=(8, 2)).astype(np.float32)
    weights = np.random.default_rng(1).normal(size=(8, 16)).astype(np.float32)

    def part_of_loss(rows, weights):
        return (parallel.gather(rows) ** 2 * weights).sum()

    gradient = parallel.map_over_devices(jax.grad(part_of_loss))(rows, weights)
    expected = 2 * rows * weights.sum(0).reshape(8, 2)
    np.testing.assert_allclose(gradient, expected, rtol=1e-5)


def test_replicas_come_back_as_they_were():
    tree = {"a": np.arange(6.0).reshape(2, 3), "b": {"c": np.int32(7)}}
    replicated = parallel.replicate(tree)
    assert replicated["a"].shape == (8, 2, 3)
    assert len(replicated["b"]["c"].devices()) == 8
    jax.tree.map(np.testing.assert_array_equal, parallel.unreplicate(replicated), tree)


def test_one_host_needs_no_agreement():
    array = np.arange(3)
    np.testing.assert_array_equal(parallel.gather_over_hosts(array), array)
    assert parallel.agree_to_stop(True, 3)
    assert not parallel.agree_to_stop(False, 3)
    assert parallel.is_primary_host()


def test_each_shape_is_compiled_once():
    traced = []

    def double(x):
        traced.append(x.shape)
        return 2 * x

    mapped = parallel.map_over_devices(double)
    for width in (3, 5, 3, 5):
        array = np.ones((8, width), np.float32)
        np.testing.assert_array_equal(mapped(array), 2 * array)
    assert traced == [(3,), (5,)]


def test_donated_arguments_are_given_up():
    state = parallel.replicate({"x": np.zeros(4)})
    step = parallel.map_over_devices(
        lambda s: jax.tree.map(jnp.exp, s), donate_argnums=0
    )
    after = step(state)
    np.testing.assert_array_equal(parallel.unreplicate(after)["x"], 1)
    assert state["x"].is_deleted()


def exhaust_memory():
    """Asks for a tebibyte, of 8 devices each."""
    jax.block_until_ready(jax.pmap(lambda x: jnp.sort(jnp.ones(2**38) * x))(np.ones(8)))


@pytest.mark.parametrize(
    ("batch_size", "advice"),
    [
        (128, "try --config.batch_size=64"),
        (40, "try --config.batch_size=16"),
        (8, "use a smaller model or more devices"),
    ],
)
def test_lack_of_memory_names_the_batch_size_to_try(batch_size, advice):
    with (
        pytest.raises(TrainingError) as error,
        parallel.reporting_memory(batch_size, "batch_size"),
    ):
        exhaust_memory()
    message = str(error.value)
    assert message.startswith(
        f"out of memory with config.batch_size={batch_size} on 8 devices (RESOURCE_"
    )
    assert message.endswith(advice)
    assert "\n" not in message


def test_other_errors_of_a_device_stay_what_they_are():
    with (
        pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"),
        parallel.reporting_memory(8, "batch_size"),
    ):
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")
