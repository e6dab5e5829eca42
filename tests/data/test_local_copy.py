import concurrent.futures
import re
import shutil

import numpy as np
import pytest
from etils import epath

from tests import object_store
from vse_jax import files, storage
from vse_jax.data import datasets, identity, local_copy, records, split_index
from vse_jax.errors import InputError


@pytest.fixture
def remote(bucket, shapes_builder, tmp_path, emulator):
    """A prepared dataset in the bucket, with an empty folder for its copy."""
    files.upload_folder(epath.Path(shapes_builder.data_dir), bucket)
    emulator.requests.clear()
    builder = local_copy.open_dataset(bucket)
    return local_copy.locate(builder, str(tmp_path / "copy"))


def read(builder, split="train"):
    reader = records.RecordReader(builder, split)
    return reader.read(np.arange(len(reader))).tolist()


def test_dataset_is_prepared_in_a_bucket(bucket, shapes_builder, tmp_path, config):
    """ArrayRecord writes only to local disks, so files are uploaded."""
    data = config.data
    data.builder, data.scene_counts = "shapes", (24, 10, 10)
    data.data_dir, data.local_copy = str(bucket), str(tmp_path / "copy")
    builder = datasets.prepare(data)
    assert builder.data_dir.startswith(str(bucket))
    for split in ("train", "test"):
        assert read(builder, split) == read(shapes_builder, split)
    again = datasets.prepare(data)
    assert again.data_dir == builder.data_dir
    assert builder.local_copy == again.local_copy == data.local_copy


def of_records(emulator):
    return emulator.count(r"array_record.*alt=media")


def test_records_are_those_of_the_dataset(remote, shapes_builder):
    for split in ("train", "dev", "train+test"):
        assert read(remote, split) == read(shapes_builder, split)


def test_each_file_is_read_in_one_request(remote, emulator):
    read(remote)
    shards = len(remote.info.splits["train"].filepaths)
    assert of_records(emulator) == shards
    assert len(emulator.requests) <= 30 + 4 * shards, emulator.summary()


def test_copy_is_shared_and_found_again(remote, emulator, bucket, tmp_path):
    read(remote)
    emulator.requests.clear()
    again = local_copy.locate(local_copy.open_dataset(bucket), str(tmp_path / "copy"))
    read(again)
    assert of_records(emulator) == 0


def test_several_readers_share_one_download(remote, emulator, bucket):
    def open_and_read(_):
        builder = local_copy.open_dataset(bucket)
        return read(local_copy.locate(builder, remote.local_copy))

    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        first, *others = threads.map(open_and_read, range(4))
    assert all(other == first for other in others)
    assert of_records(emulator) == len(remote.info.splits["train"].filepaths)


def test_only_the_splits_that_are_read_are_copied(remote, tmp_path):
    read(remote, "dev")
    (folder,) = (tmp_path / "copy").iterdir()
    assert {p.name for p in folder.glob("*array_record*")} == {
        epath.Path(path).name for path in remote.info.splits["dev"].filepaths
    }


def test_truncated_and_unfinished_files_are_copied_again(remote, tmp_path):
    expected = read(remote)
    (folder,) = (tmp_path / "copy").iterdir()
    for path in folder.glob("*train.array_record*"):
        (folder / f"incomplete.{path.name}").write_bytes(b"x")
        path.write_bytes(path.read_bytes()[:-10])
    assert read(remote) == expected
    assert not list(folder.glob("incomplete.*"))


def test_replaced_dataset_is_copied_again(remote, emulator):
    expected = read(remote)
    path = epath.Path(remote.info.splits["train"].filepaths[0])
    path.write_bytes(path.read_bytes())  # another version of the same size
    emulator.requests.clear()
    assert read(remote) == expected
    assert of_records(emulator) >= 1


def test_full_disk_is_reported_with_the_arithmetic(remote, monkeypatch, tmp_path):
    usage = shutil.disk_usage(tmp_path)._replace(free=2**28)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(InputError) as error:
        read(remote)
    assert re.search(
        r"the split 'train' has 0\.\d\d GB to copy, but .*copy has only 0\.27 GB free, "
        r"of which 0\.27 GB remain free; .* set config\.data\.local_copy",
        str(error.value),
    )


def test_remote_folder_for_copies_is_refused(remote):
    with pytest.raises(InputError, match=r"config\.data\.local_copy is 'gs://b/c'"):
        local_copy.locate(remote, "gs://b/c")


def test_missing_file_is_reported(remote):
    path = epath.Path(remote.info.splits["dev"].filepaths[0])
    path.unlink()
    with pytest.raises(InputError, match=rf"{path.name} is missing"):
        read(remote)


def test_index_and_identity_are_stored_in_the_bucket(
    remote, emulator, bucket, shapes_builder, tmp_path
):
    index = split_index.split_index(remote, "train")
    assert index.captions == split_index.split_index(shapes_builder, "train").captions
    assert identity.identity_of(remote).digest == (
        identity.identity_of(shapes_builder).digest
    )
    names = storage.list_folder(bucket)[0].keys()
    assert {"index-train-nltk.npz", "identity.npz"} <= names
    shutil.rmtree(tmp_path / "copy")
    other_host = local_copy.open_dataset(bucket)
    emulator.requests.clear()
    split_index._download.cache_clear()  # as in another process
    for _ in range(2):
        again = split_index.split_index(other_host, "train")
    assert again.captions == index.captions
    assert emulator.count("index-train.*alt=media") == 1
    identity.identity_of(other_host)
    assert of_records(emulator) == 0


def test_files_of_another_dataset_are_not_copied(remote, bucket, tmp_path):
    (bucket / "large.bin").write_text("x")
    read(remote)
    (folder,) = (tmp_path / "copy").iterdir()
    assert not (folder / "large.bin").exists()
    assert object_store.ROOT in remote.data_dir
