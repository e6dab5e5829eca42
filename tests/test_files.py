import os
import re
import socket

import pytest
from array_record.python import array_record_module
from etils import epath

from vse_jax import files
from vse_jax.errors import InputError, TrainingError


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_paths_of_object_stores_are_not_local():
    assert files.is_local(epath.Path("/data/features"))
    assert not files.is_local(epath.Path("gs://bucket/features"))


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("", ""),
        ("./a/../b/", "{here}/b"),
        ("gs://bucket/a/", "gs://bucket/a"),
        ("gs://bucket//", "gs://bucket"),
        ("gs://", "gs://"),
    ],
)
def test_all_ways_to_write_a_path_become_one(path, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert files.absolute(path) == expected.format(here=tmp_path)


def test_unfinished_file_has_another_name(tmp_path):
    path = epath.Path(tmp_path) / "file"

    def fail():
        with files.unfinished(path) as unfinished:
            unfinished.write_text("half")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert names_in(tmp_path) == ["incomplete.file"]


def test_locally_written_file_is_uploaded(bucket):
    path = bucket / "file"
    with files.unfinished_local(path) as local:
        local.write_text("whole")
        assert not path.exists()
    assert names_in(bucket) == ["file"]
    assert path.read_text() == "whole"


def test_failed_file_is_not_uploaded(bucket):
    def fail():
        with files.unfinished_local(bucket / "file") as local:
            local.write_text("half")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert not bucket.exists()


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


def test_only_regular_files_are_opened(tmp_path):
    """Who opens a pipe waits for a writer, forever."""
    pipe = epath.Path(tmp_path) / "pipe"
    os.mkfifo(pipe)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
    for path, kind in (
        (pipe, "a pipe"),
        (epath.Path("/dev/zero"), "a device"),
        (epath.Path(tmp_path) / "socket", "a socket"),
    ):
        for function in (files.read_bytes, files.open_binary, files.size_and_time):
            with pytest.raises(OSError, match=f"it is {kind}; expected a regular"):
                function(path)


def test_pipe_of_the_shell_is_read():
    reading, writing = os.pipe()
    os.write(writing, b"a dog")
    os.close(writing)
    assert files.read_bytes(epath.Path(f"/dev/fd/{reading}")) == b"a dog"
    os.close(reading)


def test_output_that_cannot_be_written_is_reported_before_it_is_computed(tmp_path):
    files.check_output("")
    files.check_output(str(tmp_path / "new" / "out.json"))
    assert not list((tmp_path / "new").iterdir())
    with pytest.raises(InputError, match="which is a folder; name a file"):
        files.check_output(str(tmp_path))
    with pytest.raises(InputError, match="is no regular file; name another one"):
        files.check_output("/dev/null")
    (tmp_path / "file").write_text("kept")
    with pytest.raises(TrainingError, match=r"cannot write to .*file/out\.json"):
        files.check_output(str(tmp_path / "file" / "out.json"))
    existing = tmp_path / "file"
    files.check_output(str(existing))
    assert existing.read_text() == "kept"
