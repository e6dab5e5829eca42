import re

import pytest
import tensorflow as tf

from tests import object_store
from vse_jax import storage
from vse_jax.summaries import create_writer, remove_events_after


def write(workdir, steps, at=0):
    writer = create_writer(str(workdir), at)
    for step in steps:
        writer.write_scalars(step, {"loss": float(step)})
    writer.close()


def event_files(workdir):
    """Returns the files by the second and the number of their writer."""

    def numbers(path):
        return [int(number) for number in re.findall(r"\d+", path.name)]

    return sorted(workdir.glob("*events.out.tfevents*"), key=numbers)


def steps_in(workdir):
    """Returns the steps of all curves as TensorBoard reads them, file by file."""
    return [
        event.step
        for path in event_files(workdir)
        for event in tf.compat.v1.train.summary_iterator(str(path))
        if event.summary.value
    ]


@pytest.fixture
def event_file(tmp_path):
    write(tmp_path, range(1, 7))
    (path,) = event_files(tmp_path)
    return path


def test_resumed_curves_have_no_repeated_step(tmp_path, event_file):
    write(tmp_path, range(5, 9), at=4)  # killed after step 6, saved after step 4
    assert steps_in(tmp_path) == list(range(1, 9))


def test_file_without_later_events_is_unchanged(event_file):
    before = event_file.read_bytes(), event_file.stat().st_ino
    remove_events_after(event_file, 6)
    assert (event_file.read_bytes(), event_file.stat().st_ino) == before


@pytest.mark.parametrize("missing", [1, 5, 20])
def test_file_cut_off_in_its_last_record_keeps_the_others(
    tmp_path, event_file, missing
):
    """A killed process leaves such a file."""
    content = event_file.read_bytes()
    event_file.write_bytes(content[:-missing])
    write(tmp_path, [6, 7], at=5)
    assert steps_in(tmp_path) == list(range(1, 8))


def test_run_that_starts_over_keeps_no_curve(tmp_path, event_file):
    write(tmp_path, [1, 2], at=0)
    assert steps_in(tmp_path) == [1, 2]


def test_no_unfinished_file_remains(tmp_path, event_file):
    remove_events_after(event_file, 3)
    assert event_files(tmp_path) == [event_file]
    assert steps_in(tmp_path) == [1, 2, 3]


def test_only_the_primary_host_writes(tmp_path):
    workdir = tmp_path / "none"
    writer = create_writer(workdir, 0, primary=False)
    writer.write_scalars(1, {"loss": 1.0})
    writer.close()
    assert not workdir.exists()


def steps_in_bucket(bucket, tmp_path):
    return steps_in(object_store.download(bucket, tmp_path / "downloaded"))


def test_curves_of_a_bucket_are_uploaded_by_flush(bucket, tmp_path):
    writer = create_writer(str(bucket), 0)
    writer.write_scalars(1, {"loss": 1.0})
    writer.flush()
    assert steps_in_bucket(bucket, tmp_path) == [1]
    writer.write_scalars(2, {"loss": 1.0})
    writer.close()
    assert steps_in_bucket(bucket, tmp_path) == [1, 2]


def test_resumed_curves_of_a_bucket_have_no_repeated_step(bucket, tmp_path):
    write(bucket, range(1, 7))
    write(bucket, range(5, 9), at=4)
    assert steps_in_bucket(bucket, tmp_path) == list(range(1, 9))


def test_unchanged_curves_of_a_bucket_are_not_uploaded_again(bucket, emulator):
    write(bucket, range(1, 7))
    before = storage.list_folder(bucket)
    emulator.requests.clear()
    create_writer(str(bucket), 6)
    assert storage.list_folder(bucket) == before
    assert not any(method == "POST" for method, _, _ in emulator.requests)
