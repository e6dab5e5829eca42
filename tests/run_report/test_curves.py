import pytest

from vse_jax.run_report.curves import read_curves
from vse_jax.summaries import create_writer


def write(workdir, steps, at=0):
    writer = create_writer(str(workdir), at)
    for step in steps:
        writer.write_scalars(step, {"loss": 1.0 / step, "dev/rsum": 10.0 * step})
    writer.close()


def expected(steps):
    return [(step, pytest.approx(1.0 / step)) for step in steps]


def test_curves_of_a_resumed_run_have_no_repeated_step(tmp_path):
    write(tmp_path, range(1, 7))
    write(tmp_path, range(5, 9), at=4)  # killed after step 6, saved after step 4
    curves = read_curves(str(tmp_path))
    assert curves.keys() == {"loss", "dev/rsum"}
    assert curves["loss"] == expected(range(1, 9))


def test_file_that_a_kill_cut_off(tmp_path):
    write(tmp_path, range(1, 5))
    (path,) = tmp_path.glob("events*")
    path.write_bytes(path.read_bytes()[:-3])
    curves = read_curves(str(tmp_path))
    # Each scalar is a record of its own; the last one is lost.
    assert curves["loss"] == expected(range(1, 5))[: len(curves["loss"])]
    assert sorted(map(len, curves.values())) == [3, 4]


def test_workdir_without_event_files(tmp_path):
    assert read_curves(str(tmp_path)) == {}


def test_curves_of_a_bucket(bucket):
    write(bucket, range(1, 4))
    assert read_curves(str(bucket))["loss"] == expected(range(1, 4))
