import copy
import functools
import json
import logging
import shutil

import jax
import numpy as np
import optax
import pytest

from configs import common
from vse_jax import run_config, saved_model
from vse_jax.array_trees import digest
from vse_jax.checkpoint import Checkpoints, find_description, read_description
from vse_jax.data.text.vocabulary import Vocabulary
from vse_jax.errors import InputError, TrainingError
from vse_jax.optimizer import create_optimizer
from vse_jax.train_step import TrainState

OPTIMIZER = optax.chain(
    optax.clip_by_global_norm(2.0), optax.adamw(optax.constant_schedule(1e-3))
)
RUN = run_config.describe(common.get_config(), Vocabulary(["a", "ü"]))


def make_state(step, *, width=50):
    """Returns a state in which every value depends on the step."""
    rng = np.random.default_rng(step)
    params = {
        "image": {"kernel": rng.normal(size=(width, 40)).astype(np.float32)},
        "text": {"bias": rng.normal(size=7).astype(np.float32)},
    }
    opt_state = jax.tree.map(
        lambda x: (x + rng.normal(size=x.shape)).astype(x.dtype), OPTIMIZER.init(params)
    )
    opt_state = jax.tree.map(np.asarray, opt_state)
    statistics = {"image": {"mean": rng.normal(size=40).astype(np.float32)}}
    return TrainState(np.int32(step), params, statistics, opt_state)


def rsum(value):
    return {"rsum": value, "i2t_r1": value / 6}


@pytest.fixture
def checkpoints(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    yield checkpoints
    checkpoints.close()


@pytest.fixture
def saved(tmp_path):
    """A workdir with the checkpoints of steps 1, 2 and 3; step 1 is the best."""
    checkpoints = Checkpoints(tmp_path)
    for step, value in ((1, 300.0), (2, 200.0), (3, 100.0)):
        checkpoints.save(make_state(step), RUN, rsum(value))
    checkpoints.close()
    return tmp_path


def assert_same(actual, expected):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert np.asarray(a).dtype == np.asarray(b).dtype
        np.testing.assert_array_equal(a, b)


def test_state_is_restored_bit_for_bit(checkpoints):
    state = make_state(5)
    checkpoints.save(state, RUN, rsum(12.5))
    checkpoints.wait()
    restored = checkpoints.restore([5], with_optimizer=True)
    assert restored.step == 5
    assert {name: restored.run[name] for name in RUN} == RUN
    assert restored.metrics == rsum(12.5)
    assert_same(restored.train_state(make_state(0)), state)


def test_optimizer_with_groups_is_restored_bit_for_bit(config, checkpoints):
    """Each group has its own moments and counts; a frozen group has none."""
    groups = (
        common.parameter_group("image/.*", learning_rate=0.1),
        common.parameter_group("text/.*", frozen=True),
    )
    schedule = optax.constant_schedule(1e-3)
    optimizer = create_optimizer(config.optimizer, schedule, groups)
    params = make_state(5).params | {"scale": np.ones(3, np.float32)}
    opt_state = optimizer.init(params)
    for _ in range(2):
        _, opt_state = optimizer.update(params, opt_state, params)
    state = TrainState(np.int32(5), params, {}, jax.tree.map(np.asarray, opt_state))
    checkpoints.save(state, RUN)
    checkpoints.wait()
    restored = checkpoints.restore([5], with_optimizer=True)
    template = TrainState(np.int32(0), params, {}, optimizer.init(params))
    assert_same(restored.train_state(template), state)


def test_pca_is_restored_if_there_was_one(checkpoints):
    rng = np.random.default_rng(0)
    pca = {"mean": rng.normal(size=6), "components": rng.normal(size=(6, 2))}
    checkpoints.save(make_state(1), RUN)
    checkpoints.save(make_state(2), RUN, pca=pca)
    checkpoints.wait()
    assert checkpoints.restore([1]).pca == {}
    assert_same(checkpoints.restore([2]).pca, pca)


def test_evaluation_needs_no_optimizer(saved):
    restored = Checkpoints(saved, read_only=True).restore([2])
    assert restored.optimizer == {}
    assert_same(restored.variables["params"], make_state(2).params)


def test_model_of_other_shapes_is_refused(checkpoints):
    checkpoints.save(make_state(1), RUN)
    checkpoints.wait()
    restored = checkpoints.restore([1], with_optimizer=True)
    with pytest.raises(InputError, match="do not have the shapes"):
        restored.train_state(make_state(0, width=51))


def test_keeps_the_last_two_and_the_best(checkpoints):
    values = {1: 10.0, 2: 50.0, 3: None, 4: 20.0, 5: None, 6: 30.0}
    for step, value in values.items():
        checkpoints.save(make_state(step), RUN, value and rsum(value))
    checkpoints.wait()
    assert checkpoints.steps() == [6, 5, 2]
    assert checkpoints.best_step() == 2
    assert checkpoints.would_be_best(50)
    assert not checkpoints.would_be_best(49.9)


def test_without_evaluation_there_is_no_best(checkpoints):
    assert checkpoints.steps() == []
    assert checkpoints.best_step() is None
    checkpoints.save(make_state(1), RUN)
    checkpoints.wait()
    assert checkpoints.best_step() is None
    assert checkpoints.would_be_best(0.0)


def test_best_is_the_latest_of_equal_checkpoints_as_announced(checkpoints):
    announced = None
    for step, value in enumerate((50, 60, 60, 60, 40, 60, 50, 50), start=1):
        if checkpoints.would_be_best(value):
            announced = step
        checkpoints.save(make_state(step), RUN, rsum(value))
        checkpoints.wait()
        assert checkpoints.best_step() == announced, step
    assert announced == 6
    reopened = Checkpoints(checkpoints.directory.parent, read_only=True)
    assert reopened.best_step() == announced


def test_description_is_that_of_the_latest(checkpoints):
    workdir = str(checkpoints.directory.parent)
    assert find_description(workdir) is None
    for step in (1, 2):
        checkpoints.save(make_state(step), RUN | {"number": step})
    checkpoints.wait()
    of_user = checkpoints.directory / "²" / "run"  # a digit, but no step
    of_user.mkdir(parents=True)
    (of_user / "metadata").write_text("{}")
    assert find_description(workdir)["number"] == 2


def test_without_checkpoints_nothing_is_restored(checkpoints):
    assert checkpoints.restore(checkpoints.steps()) is None


def data_file(folder):
    """Returns the largest file with arrays."""
    files = [path for path in (folder / "variables").rglob("*") if path.is_file()]
    return max(files, key=lambda path: path.stat().st_size)


def truncate(folder):
    path = data_file(folder)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_a_byte(folder):
    path = data_file(folder)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def delete_run(folder):
    shutil.rmtree(folder / "run")


def truncate_run(folder):
    (folder / "run" / "metadata").write_text("{")


def delete_optimizer(folder):
    shutil.rmtree(folder / "optimizer")


DAMAGES = [truncate, flip_a_byte, delete_run, delete_optimizer]


def test_average_is_the_model_and_training_goes_on_without_it(saved):
    """If what goes on is missing, training does not go on from the average."""
    state = make_state(4)
    state = state.replace(average=make_state(40).variables)
    template = make_state(0).replace(average=make_state(0).variables)
    checkpoints = Checkpoints(saved)
    checkpoints.save(state, RUN, rsum(50.0))
    checkpoints.wait()
    restored = checkpoints.restore([4])
    assert_same(restored.variables, make_state(40).variables)
    assert restored.unaveraged is None
    restored = checkpoints.restore([4], with_optimizer=True)
    assert_same(restored.train_state(template), state)
    shutil.rmtree(folder(saved, 4) / "unaveraged")
    with pytest.raises(InputError, match="digest of its unaveraged does not match"):
        checkpoints.restore([4], with_optimizer=True)
    checkpoints.close()


def folder(workdir, step):
    return workdir / "checkpoints" / str(step)


@pytest.mark.parametrize("damage", DAMAGES)
def test_previous_checkpoint_replaces_a_damaged_latest_one(saved, caplog, damage):
    damage(folder(saved, 3))
    checkpoints = Checkpoints(saved)
    with caplog.at_level(logging.ERROR):
        restored = checkpoints.restore(checkpoints.steps(), with_optimizer=True)
    assert_same(restored.train_state(make_state(0)), make_state(2))
    logged, moved = [
        r.getMessage() for r in caplog.records if r.name.startswith("vse_")
    ]
    assert f"{folder(saved, 3)} is damaged" in logged
    assert "\n" not in logged
    assert moved == f"moved {folder(saved, 3)} to {saved / 'damaged'}"

    # Its step can be saved again, and its content is kept for inspection.
    assert checkpoints.steps() == [2, 1]
    assert [path.name for path in (saved / "damaged").iterdir()] == ["3-0"]
    checkpoints.save(make_state(3), RUN, rsum(1.0))
    checkpoints.wait()
    assert_same(checkpoints.restore([3]).variables["params"], make_state(3).params)
    checkpoints.close()


@pytest.mark.parametrize(
    "text", ["{", "{}", "[1]", '{"rsum": "1"}', '{"rsum": NaN}', '{"rsun": 300.0}']
)
def test_checkpoint_with_damaged_metrics_is_moved_aside(saved, text):
    metrics = folder(saved, 1) / "metrics" / "metrics"
    metrics.write_text(text)
    with pytest.raises(InputError, match=f"{metrics} is damaged"):
        Checkpoints(saved, read_only=True)
    checkpoints = Checkpoints(saved)
    assert checkpoints.steps() == [3, 2]
    assert checkpoints.best_step() == 2
    checkpoints.close()
    assert (saved / "damaged" / "1-0").exists()


def test_file_in_place_of_the_folder_is_refused_at_the_start(tmp_path):
    (tmp_path / "checkpoints").write_text("")
    with pytest.raises(InputError, match=r"checkpoints cannot be used .*File exists"):
        Checkpoints(tmp_path)


def test_evaluation_moves_nothing(saved):
    flip_a_byte(folder(saved, 3))
    before = sorted(saved.rglob("*"))
    checkpoints = Checkpoints(saved, read_only=True)
    assert checkpoints.restore(checkpoints.steps()).step == 2
    assert sorted(saved.rglob("*")) == before


@pytest.mark.parametrize("read_only", [False, True])
def test_only_damaged_checkpoints_are_refused_and_not_moved(saved, read_only):
    for step in (1, 2, 3):
        truncate(folder(saved, step))
    checkpoints = Checkpoints(saved, read_only=read_only)
    with pytest.raises(InputError, match="no checkpoint could be read") as error:
        checkpoints.restore(checkpoints.steps())
    assert "\n" not in str(error.value)
    assert str(folder(saved, 3)) in str(error.value)
    assert checkpoints.steps() == [3, 2, 1]
    assert not (saved / "damaged").exists()


def test_damaged_checkpoints_in_a_bucket_are_moved_aside(bucket):
    """An object store has no folder before it has a file in it."""
    checkpoints = Checkpoints(str(bucket))
    for step in (1, 2, 3):
        checkpoints.save(make_state(step), RUN, rsum(-step))
    checkpoints.close()
    steps = bucket / "checkpoints"
    (steps / "3" / "metrics" / "metrics").write_text("{")
    checkpoints = Checkpoints(str(bucket))
    assert checkpoints.steps() == [2, 1]
    (steps / "2" / "run" / "metadata").write_text("{")
    assert_same(checkpoints.restore([2, 1]).variables["params"], make_state(1).params)
    assert checkpoints.steps() == [1]
    kept = sorted(path.name for path in (bucket / "damaged").iterdir())
    assert kept == ["2-1", "3-0"]
    assert (bucket / "damaged" / "2-1" / "run" / "metadata").read_text() == "{"


@pytest.mark.parametrize("damage", [delete_run, truncate_run])
def test_description_skips_a_damaged_checkpoint(saved, damage):
    damage(folder(saved, 3))
    assert find_description(str(saved))["config"] == RUN["config"]


def test_checkpoint_of_another_version_is_refused(saved):
    path = folder(saved, 3) / "run" / "metadata"
    run = json.loads(path.read_text())
    del run["config"]["loss"]["views"]
    path.write_text(json.dumps(run))
    readers = (
        find_description,
        functools.partial(read_description, checkpoint="3"),
        functools.partial(saved_model.restore, checkpoint="latest"),
    )
    for read in readers:
        with pytest.raises(InputError, match=r"lacks config\.loss\.views, ") as error:
            read(str(saved))
        assert str(error.value).startswith(str(saved))
        assert "\n" not in str(error.value)


def test_failed_save_is_reported_in_one_line(checkpoints, monkeypatch):
    checkpoints.save(make_state(1), RUN)
    checkpoints.wait()

    def full(*unused, **options):
        raise OSError(28, "No space left on device\nand more of it")

    monkeypatch.setattr(checkpoints._manager, "save", full)
    with pytest.raises(TrainingError) as error:
        checkpoints.save(make_state(2), RUN)
    message = str(error.value)
    assert "\n" not in message
    assert "cannot save the checkpoint of step 2" in message
    assert str(checkpoints.directory) in message
    assert "No space left on device" in message
    assert "resumes from step 1" in message


def test_failure_of_a_pending_save_is_raised_by_wait(checkpoints, monkeypatch):
    def full():
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints._manager, "wait_until_finished", full)
        with pytest.raises(TrainingError, match="the run resumes from the beginning"):
            checkpoints.wait()


def test_digest_changes_with_every_change():
    tree = {"a": {"b": np.zeros((2, 3), np.float32)}, "c": np.int32(1)}
    other = []
    for change in (
        lambda t: t["a"].update(b=np.full((2, 3), -0.0, np.float32)),
        lambda t: t["a"].update(b=np.zeros((3, 2), np.float32)),
        lambda t: t["a"].update(b=np.zeros((2, 3), np.int32)),
        lambda t: t.update(c=np.int32(2)),
        lambda t: t.update(d=t.pop("c")),
        lambda t: t.pop("c"),
    ):
        changed = copy.deepcopy(tree)
        change(changed)
        other.append(digest(changed))
    assert digest(copy.deepcopy(tree)) == digest(tree)
    assert len({digest(tree), *other}) == len(other) + 1
