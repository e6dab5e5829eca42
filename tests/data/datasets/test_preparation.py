"""Tests versions of prepared data: an open version is never replaced."""

import os
import pathlib

import numpy as np
import pytest

from vse_jax.data import datasets
from vse_jax.data.identity import identity_of
from vse_jax.errors import InputError

OLD = np.random.default_rng(0).normal(size=(6, 3, 4)).astype(np.float16)


def write_split(root, regions, split="train"):
    root.mkdir(exist_ok=True)
    np.save(root / f"{split}_ims.npy", regions)
    captions = [f"caption {c} of {i}" for i in range(len(regions)) for c in "abcde"]
    (root / f"{split}_caps.txt").write_text("\n".join(captions) + "\n")


@pytest.fixture
def root(tmp_path):
    write_split(tmp_path / "source", OLD)
    return tmp_path / "source"


@pytest.fixture
def data(data):
    data.region_dim = 0
    return data


def regions(source):
    return np.stack([example["regions"] for example in source])


def test_reader_keeps_its_version_when_the_source_changes(root, data):
    before = datasets.prepare(data)
    reader = before.as_data_source("train")
    write_split(root, OLD + 1)
    after = datasets.prepare(data)
    np.testing.assert_array_equal(regions(reader), OLD)
    np.testing.assert_array_equal(regions(before.as_data_source("train")), OLD)
    np.testing.assert_array_equal(regions(after.as_data_source("train")), OLD + 1)
    versions = [pathlib.Path(b.data_dir).name for b in (before, after)]
    assert versions == ["1.1.0", "1.1.1"]
    assert identity_of(before).digest != identity_of(after).digest


def test_source_that_is_restored_opens_its_old_version(root, data):
    status = {path: os.stat(path) for path in root.iterdir()}
    content = {path: path.read_bytes() for path in root.iterdir()}
    before = datasets.prepare(data)
    write_split(root, OLD + 1)
    datasets.prepare(data)
    for path, old in status.items():
        path.write_bytes(content[path])
        os.utime(path, ns=(old.st_atime_ns, old.st_mtime_ns))
    assert datasets.prepare(data).data_dir == before.data_dir


def test_copy_elsewhere_is_the_same_dataset(root, data, tmp_path):
    before = identity_of(datasets.prepare(data))
    write_split(tmp_path / "copy", OLD)
    data.root = str(tmp_path / "copy")
    data.data_dir = str(tmp_path / "other")
    assert identity_of(datasets.prepare(data)).digest == before.digest


def test_touched_source_is_the_same_dataset(root, data):
    before = identity_of(datasets.prepare(data))
    os.utime(root / "train_ims.npy", (1, 1))
    assert identity_of(datasets.prepare(data)).digest == before.digest


def test_missing_split_is_reported_before_anything_is_written(root, data, tmp_path):
    with pytest.raises(
        InputError, match="there is no split 'dev'; the source has train"
    ):
        datasets.prepare(data, required_splits=("train", "dev"))
    assert not (tmp_path / "prepared").exists()
    write_split(root, OLD, "dev")
    assert datasets.prepare(data, required_splits=("train+dev",)).info.splits["dev"]


def test_incomplete_version_is_removed_and_a_complete_one_kept(root, data):
    first = pathlib.Path(datasets.prepare(data).data_dir)
    write_split(root, OLD + 1)
    second = pathlib.Path(datasets.prepare(data).data_dir)
    (second / "features.json").unlink()
    again = datasets.prepare(data)
    assert pathlib.Path(again.data_dir) == second
    np.testing.assert_array_equal(regions(again.as_data_source("train")), OLD + 1)
    assert (first / "features.json").exists()
