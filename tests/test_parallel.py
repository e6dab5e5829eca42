import subprocess
import sys
import threading
import time
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import programs
from vse_jax import parallel
from vse_jax.errors import InputError, TrainingError
from vse_jax.parallel import setup


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


@pytest.mark.parametrize(
    ("microbatches", "nearby"),
    [(5, "4 or 8"), (3, "2 or 4"), (0, "1"), (-2, "1"), (17, "16"), (1000, "16")],
)
def test_microbatches_that_do_not_divide_the_pairs_of_a_device_are_refused(
    microbatches, nearby
):
    with pytest.raises(InputError) as error:
        setup.check_microbatches(microbatches, 128)
    assert str(error.value) == (
        f"config.microbatches is {microbatches}, which does not divide the 16 pairs of "
        f"config.batch_size=128 on each of 8 devices; set it to {nearby}"
    )


@pytest.mark.parametrize("microbatches", [1, 2, 16])
def test_microbatches_that_divide_the_pairs_of_a_device_are_taken(microbatches):
    setup.check_microbatches(microbatches, 128)


def select_platform(monkeypatch, device_files, platforms=None, plugins=()):
    """Returns the platforms of JAX's configuration after the selection."""
    monkeypatch.setattr(setup.glob, "glob", lambda text: device_files.get(text, []))
    monkeypatch.setattr(setup.importlib.metadata, "entry_points", lambda **_: plugins)
    chosen = [platforms]
    monkeypatch.setattr(
        setup.jax,
        "config",
        types.SimpleNamespace(
            jax_platforms=platforms, update=lambda _, value: chosen.append(value)
        ),
    )
    setup.select_platform("")
    return chosen[-1]


def test_tpu_is_looked_for_only_where_one_may_be(monkeypatch):
    def select(*arguments):
        with monkeypatch.context() as patch:
            return select_platform(patch, *arguments)

    assert select({}) == "cpu"
    assert select({"/dev/accel[0-9]*": ["/dev/accel0"]}) is None
    assert select({"/dev/vfio/[0-9]*": ["/dev/vfio/0"]}) is None
    assert select({}, "tpu,cpu") == "tpu,cpu"  # JAX found the chips, or a user says so
    assert select({}, None, ("cuda",)) is None


def test_libtpu_prints_nothing_without_a_tpu():
    pytest.importorskip("libtpu", reason="libtpu is not installed")
    environment = programs.environment() | {"ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
    del environment["JAX_PLATFORMS"]
    program = (
        "import jax\n"
        "from vse_jax.parallel import setup\n"
        "setup.select_platform('')\n"
        "print(jax.default_backend())\n"
    )
    environment["TF_ENABLE_ONEDNN_OPTS"] = "0"  # TensorFlow would print a notice
    process = programs.start_python("-c", program, env=environment)
    finished = programs.finish(process)
    assert (finished.stdout, finished.stderr) == ("cpu\n", "")


def test_platform_that_no_one_knows_is_refused():
    with pytest.raises(InputError, match=r"config\.platform is 'cuda'; expected cpu"):
        setup.select_platform("cuda")


def test_platform_that_is_not_there_is_refused():
    """In a process of its own: here JAX has its devices already."""
    program = (
        "from vse_jax import errors\n"
        "from vse_jax.parallel import setup\n"
        "try:\n"
        "    setup.select_platform('gpu')\n"
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


def map_split(function, backend="pmap"):
    """Maps a function whose arguments and results are split over the devices."""
    count = function.__code__.co_argcount
    specs = (parallel.SPLIT,) * count, parallel.SPLIT
    return parallel.map_over_devices(function, *specs, backend=backend)


@pytest.mark.parametrize("backend", parallel.BACKENDS)
def test_gather_keeps_the_order_of_shards(backend):
    batch = {"x": np.arange(32.0).reshape(16, 2)}
    parts = parallel.shard(batch)["x"]
    assert parts.shape == (8, 2, 2)
    gathered = map_split(parallel.gather, backend)(parts)
    for device in range(8):
        np.testing.assert_array_equal(gathered[device], batch["x"])


def test_position_is_where_gather_puts_a_row():
    rows = np.arange(24).reshape(8, 3)

    def own_rows(rows):
        return parallel.gather(rows)[parallel.position_in_global_batch(3)]

    np.testing.assert_array_equal(map_split(own_rows)(rows), rows)


def test_scattered_sum_and_own_part_are_split_as_gather_concatenates():
    arrays = np.random.default_rng(0).normal(size=(8, 3, 16)).astype(np.float32)

    def of_device(array):
        part = parallel.scatter_sum(array, axis=1)
        whole = parallel.gather(part, axis=1)
        return part, whole, parallel.own_part(whole, axis=1)

    part, whole, own = map_split(of_device)(arrays)
    expected = arrays.sum(0)
    for device in range(8):
        np.testing.assert_allclose(whole[device], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(np.concatenate(list(part), 1), whole[0])
    np.testing.assert_array_equal(own, part)


def test_sums_are_over_all_devices():
    tree = {"a": np.arange(8.0), "b": np.ones((8, 2))}
    summed = map_split(parallel.sum_over_devices)(tree)
    np.testing.assert_array_equal(summed["a"], [28] * 8)
    np.testing.assert_array_equal(summed["b"], np.full((8, 2), 8))


@pytest.mark.parametrize("backend", parallel.BACKENDS)
def test_gradient_reaches_the_rows_that_were_gathered(backend):
    rows = np.random.default_rng(0).normal(size=(8, 2)).astype(np.float32)
    weights = np.random.default_rng(1).normal(size=(8, 16)).astype(np.float32)

    def part_of_loss(rows, weights):
        return (parallel.gather(rows) ** 2 * weights).sum()

    specs = (parallel.SPLIT, parallel.SPLIT), parallel.SPLIT
    mapped = parallel.map_over_devices(jax.grad(part_of_loss), *specs, backend=backend)
    gradient = mapped(rows, weights)
    expected = 2 * rows * weights.sum(0).reshape(8, 2)
    np.testing.assert_allclose(gradient, expected, rtol=1e-5)


def test_replicas_come_back_as_they_were():
    tree = {"a": np.arange(6.0).reshape(2, 3), "b": {"c": np.int32(7)}}
    replicated = parallel.replicate(tree)
    assert replicated["a"].shape == (2, 3)
    assert len(replicated["b"]["c"].devices()) == 8
    jax.tree.map(np.testing.assert_array_equal, parallel.unreplicate(replicated), tree)


def test_split_arrays_come_back_as_they_were():
    tree = {"a": np.arange(48.0).reshape(8, 3, 2), "b": np.arange(8)}
    split = parallel.put_split(tree)
    assert split["a"].addressable_shards[0].data.shape == (1, 3, 2)
    jax.tree.map(np.testing.assert_array_equal, parallel.fetch_split(split), tree)


def test_one_host_needs_no_agreement():
    array = np.arange(3)
    np.testing.assert_array_equal(parallel.gather_over_hosts(array), array)
    assert parallel.agree_to_stop(True)
    assert parallel.failures_of_hosts("a file is damaged") == ["a file is damaged"]
    assert parallel.failures_of_hosts("") == [""]
    assert not parallel.agree_to_stop(False)
    assert parallel.is_primary_host()


def test_each_shape_is_compiled_once():
    traced = []

    def double(x):
        traced.append(x.shape)
        return 2 * x

    mapped = map_split(double)
    for width in (3, 5, 3, 5):
        array = np.ones((8, width), np.float32)
        np.testing.assert_array_equal(mapped(array), 2 * array)
    assert traced == [(3,), (5,)]


@pytest.mark.parametrize("backend", parallel.BACKENDS)
def test_replicated_state_has_no_axis_of_devices_and_is_donated(backend):
    def step(state, rows):
        total = parallel.sum_over_devices(rows.sum())
        return {"x": state["x"] + total, "own": rows}

    out_specs = {"x": parallel.REPLICATED, "own": parallel.SPLIT}
    mapped = parallel.map_over_devices(
        step,
        (parallel.REPLICATED, parallel.SPLIT),
        out_specs,
        donate_argnums=0,
        backend=backend,
    )
    state = parallel.replicate({"x": np.zeros(4, np.float32)})
    rows = np.arange(16, dtype=np.float32)
    after = mapped(state, parallel.put_rows({"rows": rows})["rows"])
    assert state["x"].is_deleted()
    np.testing.assert_array_equal(parallel.unreplicate(after["x"]), np.full(4, 120))
    np.testing.assert_array_equal(after["own"], rows.reshape(8, 2))


def test_program_is_compiled_ahead_of_its_call():
    mapped = map_split(lambda x: x + 1)
    rows = np.zeros((8, 2), np.float32)
    ahead = mapped.compile(jax.ShapeDtypeStruct(rows.shape, rows.dtype))
    mapped(rows)
    assert mapped.compile(rows) is ahead


def test_threads_compile_a_program_once():
    traced = []

    def double(x):
        traced.append(x.shape)
        time.sleep(0.2)
        return 2 * x

    mapped, rows = map_split(double), np.ones((8, 2), np.float32)
    threads = [threading.Thread(target=mapped.compile, args=(rows,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(traced) == 1


def exhaust_memory():
    """Asks for a tebibyte, of 8 devices each."""
    jax.block_until_ready(jax.pmap(lambda x: jnp.sort(jnp.ones(2**38) * x))(np.ones(8)))


@pytest.mark.parametrize(
    ("batch_size", "microbatches", "advice"),
    [
        (128, 0, "; try --config.batch_size=64"),
        (128, 4, "; try --config.microbatches=8 or --config.batch_size=64"),
        (128, 16, "; try --config.batch_size=64"),
        (40, 1, "; try --config.batch_size=16"),
        (8, 1, "; use a smaller model or more devices"),
    ],
)
def test_lack_of_memory_names_what_to_try(batch_size, microbatches, advice):
    with (
        pytest.raises(TrainingError) as error,
        parallel.reporting_memory(batch_size, "batch_size", microbatches),
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


def test_pass_on_moves_an_array_to_the_next_device():
    mapped = jax.pmap(parallel.pass_on, axis_name=parallel.AXIS)
    found = mapped({"x": np.arange(8)})
    np.testing.assert_array_equal(found["x"], [7, 0, 1, 2, 3, 4, 5, 6])
