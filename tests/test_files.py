import re

import numpy as np
import pytest
from array_record.python import array_record_module
from etils import epath

from configs import common
from vse_jax import files
from vse_jax.data import datasets


@pytest.fixture
def remote(monkeypatch):
    """Makes `files` treat every folder as one of an object store."""
    monkeypatch.setattr(files, "is_local", lambda path: False)


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_paths_of_object_stores_are_not_local():
    assert files.is_local(epath.Path("/data/features"))
    assert not files.is_local(epath.Path("gs://bucket/features"))


def test_unfinished_file_has_another_name(tmp_path):
    path = epath.Path(tmp_path) / "file"

    def fail():
        with files.unfinished(path) as unfinished:
            unfinished.write_text("half")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert names_in(tmp_path) == ["incomplete.file"]


def test_locally_written_file_is_copied(remote, tmp_path):
    path = epath.Path(tmp_path) / "file"
    with files.unfinished_local(path) as local:
        local.write_text("whole")
        assert names_in(tmp_path) == []
    assert names_in(tmp_path) == ["file"]
    assert path.read_text() == "whole"


def test_dataset_is_prepared_for_an_object_store(remote, shapes_builder, tmp_path):
    """ArrayRecord writes only to local disks, so files are copied from there."""
    data = common.get_config().data
    data.builder, data.scene_counts = "shapes", (24, 10, 10)
    data.data_dir = str(tmp_path)
    builder = datasets.prepare(data)
    assert builder.data_dir.startswith(str(tmp_path))
    for split in ("train", "test"):
        for ours, expected in zip(
            builder.as_data_source(split),
            shapes_builder.as_data_source(split),
            strict=True,
        ):
            np.testing.assert_array_equal(ours["image"], expected["image"])


@files.reporting_array_record()
def fill_disk():
    writer = array_record_module.ArrayRecordWriter("/dev/full", "group_size:1")
    writer.write(b"x" * 2**20)
    writer.close()


@files.reporting_array_record()
def fail_otherwise():
    raise RuntimeError("can't start new thread")


def test_full_disk_is_distinguished_from_other_errors():
    with pytest.raises(OSError, match=re.escape("write() failed: No space left")):
        fill_disk()
    with pytest.raises(RuntimeError, match="thread"):
        fail_otherwise()
