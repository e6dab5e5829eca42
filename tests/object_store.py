"""Fixtures of an object store, for test modules to import."""

import json

import fsspec
import pytest
from etils import epath

from vse_jax import storage

BUCKET = "bucket"
ROOT = f"gs://{BUCKET}"


@pytest.fixture(scope="module")
def running_emulator():
    """An emulator for all tests of a module."""
    for package in ("gcp_storage_emulator", "gcsfs"):
        pytest.importorskip(package)
    from tests import storage_emulator  # other tests run without these packages

    emulator = storage_emulator.Emulator()
    yield emulator
    emulator.close()


@pytest.fixture
def emulator(running_emulator, monkeypatch):
    """The emulator, for this process and for those that it starts."""
    for name, value in running_emulator.environment.items():
        monkeypatch.setenv(name, value)
    options = json.loads(running_emulator.environment["FSSPEC_GCS"])
    monkeypatch.setitem(fsspec.config.conf, "gcs", options)
    forget_file_systems()
    running_emulator.requests.clear()
    yield running_emulator
    forget_file_systems()


def forget_file_systems() -> None:
    """Makes this process read the address of the object store again."""
    fsspec.get_filesystem_class("gcs").clear_instance_cache()
    epath.backend.fsspec_backend._get_filesystem.cache_clear()
    storage._list_bucket.cache_clear()


@pytest.fixture
def bucket(emulator, request):
    """A folder of the bucket, of one test alone."""
    return epath.Path(ROOT) / request.node.name.replace("[", "-").replace("]", "")


def upload(source, target: epath.Path) -> epath.Path:
    """Uploads a local folder."""
    storage.file_system(ROOT).put(f"{source}/", f"{target}/", recursive=True)
    return target


def download(source: epath.Path, target):
    """Downloads a folder to a local one."""
    storage.file_system(ROOT).get(f"{source}/", f"{target}/", recursive=True)
    return target
