"""Provides eight virtual devices for every test, and a small dataset of images."""

import atexit
import os
import shutil
import sys
import tempfile

from vse_jax import huge_pages

# Memory of the workers of xdist, and of the programs that tests start.
os.environ.update(huge_pages.ENVIRONMENT | os.environ)
# JAX reads these once, when it is imported.
_DEVICES = "--xla_force_host_platform_device_count"
if _DEVICES not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_DEVICES}=8".strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# What a test or its processes compile, later ones load. Each worker has its own folder,
# since JAX may read a file that another worker has not written to its end.
_CACHE = tempfile.mkdtemp(prefix="vse_jax_compiled_")
os.environ["JAX_COMPILATION_CACHE_DIR"] = _CACHE
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
atexit.register(shutil.rmtree, _CACHE, ignore_errors=True)
# The models of transformers import triton if it is installed. Its LLVM crashes beside
# TensorFlow's.
sys.modules.setdefault("triton", None)

import pytest  # noqa: E402

from configs import common  # noqa: E402
from tests.object_store import bucket, emulator, running_emulator  # noqa: E402, F401


@pytest.fixture
def config():
    """A copy of the default configuration, which a test may change."""
    return common.get_config()


@pytest.fixture(scope="session")
def shapes_builder(tmp_path_factory):
    """A prepared dataset of images: 24 for training, 10 per evaluation split."""
    from vse_jax.data import datasets

    settings = common.get_config().data
    settings.builder = "shapes"
    settings.scene_counts = (24, 10, 10)
    settings.data_dir = str(tmp_path_factory.mktemp("shapes"))
    return datasets.prepare(settings)


@pytest.fixture(scope="session")
def scene_run(tmp_path_factory):
    """A workdir of a tiny model on drawn scenes, and its experiment."""
    from tests import saved_runs

    folder = tmp_path_factory.mktemp("scene_run")
    config = saved_runs.of_scenes(folder / "data")
    return folder / "run", saved_runs.save(folder / "run", config)


@pytest.fixture(scope="session")
def scene_model(scene_run):
    """The model of `scene_run`, as `vse_jax.load` loads it."""
    import vse_jax

    return vse_jax.load(scene_run[0])


@pytest.fixture(scope="module")
def quick_compilation():
    """Disables most compiler optimizations, for large programs on small arrays."""
    import jax

    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def few_branches():
    """Compiles each product of packed rows once instead of for many sizes."""
    from vse_jax.models.kernels import packed_gru

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packed_gru, "PACKED_PARTS", 1)
        yield


def pytest_collection_modifyitems(items):
    """Puts real runs of the program first: the longest files keep all workers busy."""
    items.sort(key=lambda item: not hasattr(item.module, "programs"))
