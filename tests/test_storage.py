import io
import os

import gcsfs.retry
import numpy as np
import pytest
from etils import epath
from PIL import Image

from tests import object_store, programs
from vse_jax import files, run_lock, storage
from vse_jax.errors import InputError, TrainingError, reporting_writes
from vse_jax.evaluation import pictures


def message(*paths):
    with pytest.raises(InputError) as error:
        storage.check_reachable(paths)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_reachable_bucket_takes_one_request(emulator):
    named = [("--workdir", "gs://bucket/runs/a"), ("config.data.root", "gs://bucket/b")]
    storage.check_reachable([*named, ("config.data.data_dir", "local/folder")])
    assert len(emulator.requests) == 1


def test_missing_bucket_is_named_with_its_option(emulator):
    assert message(("config.data.data_dir", "gs://absent/data")) == (
        "config.data.data_dir is gs://absent/data, but there is no bucket 'absent'; "
        "create it, or correct the name"
    )


def test_missing_permission_is_reported(emulator):
    reported = message(("--workdir", "gs://forbidden/run"))
    assert reported.startswith("--workdir is gs://forbidden/run: permission denied: ")
    assert "me@example.com does not have storage.objects.list access" in reported


def test_missing_credentials_are_reported(emulator):
    reported = message(("--workdir", "gs://anonymous/run"))
    assert "no valid credentials (Anonymous caller does not have" in reported
    assert "gcloud auth application-default login" in reported


def test_unreachable_store_is_reported(emulator, monkeypatch):
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:9")
    assert message(("--workdir", "gs://bucket/run")) == (
        "--workdir is gs://bucket/run: 127.0.0.1 cannot be reached (Connection "
        "refused); check the network"
    )


@pytest.mark.parametrize("path", ["gs://", "gs:///run", "gs://Bucket/run"])
def test_invalid_bucket_is_refused(path):
    assert message(("--workdir", path)) == (
        f"--workdir is {path}; expected a local path or gs://bucket/folder"
    )


@pytest.mark.parametrize("path", ["http://host/run", "s3://bucket/run"])
def test_other_stores_are_refused(path):
    assert path in message(("--workdir", path))


def test_gcsfs_is_named_if_it_is_not_installed():
    program = """
import sys
sys.modules["gcsfs"] = None
from vse_jax import storage
storage.check_reachable([("--workdir", "gs://bucket/run")])
"""
    finished = programs.finish(programs.start_python("-c", program))
    assert finished.stderr.splitlines()[-1] == (
        "vse_jax.errors.InputError: gs://bucket/run: gs:// paths need gcsfs, which is "
        "not installed; pip install gcsfs"
    )


def test_rewritten_object_of_equal_size_has_another_version(bucket):
    path = bucket / "photo.jpg"
    path.write_text("one")
    before = files.size_and_time(path)
    path.write_text("two")
    after = files.size_and_time(path)
    assert before[0] == after[0] == 3
    assert before[1] < after[1]


def test_folder_is_listed_in_one_request(emulator, bucket):
    for name in ("a.txt", "b.txt", "folder/c.txt"):
        (bucket / name).write_text(name)
    emulator.requests.clear()
    paths = [bucket / "b.txt", bucket / "a.txt"]
    listed = files.sizes_and_times(paths)
    assert len(emulator.requests) == 1
    assert listed == [files.size_and_time(path) for path in paths]
    statuses, folders = storage.list_folder(bucket)
    assert sorted(statuses) == ["a.txt", "b.txt"]
    assert folders == {"folder"}


def test_missing_object_is_an_os_error(bucket):
    (bucket / "a.txt").write_text("a")
    with pytest.raises(FileNotFoundError, match=r"b\.txt does not exist"):
        files.sizes_and_times([bucket / "a.txt", bucket / "b.txt"])
    with pytest.raises(FileNotFoundError):
        files.size_and_time(bucket / "b.txt")


def test_unfinished_object_has_another_name(bucket):
    with files.unfinished(bucket / "file") as path:
        path.write_text("whole")
        assert not (bucket / "file").exists()
    assert [found.name for found in bucket.iterdir()] == ["file"]


def test_truncated_download_is_an_error(bucket, tmp_path):
    (bucket / "file").write_text("half")
    target = epath.Path(tmp_path) / "file"
    with pytest.raises(OSError, match="has 4 bytes instead of 8"):
        storage.copy_file(bucket / "file", target, size=8)
    assert not target.exists()


def test_two_runs_cannot_use_a_workdir_in_a_bucket(bucket, monkeypatch):
    monkeypatch.setattr(run_lock, "_RENEW_SECONDS", 0.1)
    monkeypatch.setattr(run_lock, "_POLL_SECONDS", 0.3)
    with (
        run_lock.sole_run(os.fspath(bucket)),
        pytest.raises(
            InputError, match=f"in use by another run: process {os.getpid()}"
        ),
        run_lock.sole_run(os.fspath(bucket)),
    ):
        pass
    assert not (bucket / "run.lease").exists()
    with run_lock.sole_run(os.fspath(bucket)):
        pass


def test_folders_go_to_a_bucket_and_back(bucket, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    (source / "a.bin").write_bytes(b"a" * 10)
    (source / "info.json").write_text("{}")
    files.upload_folder(epath.Path(source), bucket)
    assert storage.list_folder(bucket)[0].keys() == {"a.bin", "info.json"}
    back = object_store.download(bucket, tmp_path / "back")
    assert (back / "a.bin").read_bytes() == b"a" * 10


def test_picture_is_written_to_a_bucket(bucket):
    picture = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    pictures.save(picture, bucket / "picture.png")
    with Image.open(io.BytesIO((bucket / "picture.png").read_bytes())) as image:
        np.testing.assert_array_equal(np.asarray(image), picture)


def write_while_the_store_fails():
    with reporting_writes("gs://bucket/run"):
        raise gcsfs.retry.HttpError({"code": 503, "message": "try later"})


def test_failure_of_the_store_during_a_run_is_reported():
    with pytest.raises(TrainingError) as error:
        write_while_the_store_fails()
    assert str(error.value) == (
        "cannot write to gs://bucket/run (try later, 503); check the file system and "
        "start again"
    )


def list_absent_permission():
    with storage.as_os_errors():
        storage.file_system("gs://forbidden").ls("gs://forbidden/a")


def test_failed_request_is_an_os_error_with_the_reason(emulator):
    with pytest.raises(OSError, match="does not have storage"):
        list_absent_permission()
