"""Batches from the devices' memory equal those that are read, bit for bit."""

import jax
import numpy as np
import pytest
import tensorflow_datasets as tfds

from tests.small_datasets import make_builder  # noqa: F401
from vse_jax import parallel, resident_features, training_data
from vse_jax.compilation import shapes
from vse_jax.compilation.resident import resident_features as resident_features_of
from vse_jax.data.text.vocabulary import training_vocabulary
from vse_jax.errors import InputError
from vse_jax.experiment import Experiment
from vse_jax.feature_packing import Packing
from vse_jax.parallel import tables

IMAGES, CAPTIONS = 37, 3
STEPS = 2 * IMAGES * CAPTIONS // 16  # two epochs
SPECIAL = (-0.0, np.nan, np.inf, 6e-8, -65504.0)


def make_examples(make_builder, regions=6, dim=8):  # noqa: F811
    examples = make_builder.examples(IMAGES, CAPTIONS, regions, dim)
    for example in examples:
        example["regions"][0, : len(SPECIAL)] = SPECIAL
    return examples


def make_experiment(config, builder, augment=True):
    config.batch_size = 16
    config.data.device_resident = True
    config.data.augment = augment
    config.data.token_lengths = (24,)
    return Experiment(config, builder, training_vocabulary(builder, 1))


def of_regions(make_builder, **sizes):  # noqa: F811
    feature = make_builder.region_features(shape=(None, sizes.get("dim", 8)))
    return make_builder(
        {"regions": feature}, train=make_examples(make_builder, **sizes)
    )


def of_features(make_builder, dtype):  # noqa: F811
    examples = make_examples(make_builder, dim=9)
    for example in examples:
        example["feature"] = example.pop("regions")[0].astype(dtype)
    feature = tfds.features.Tensor(shape=(9,), dtype=dtype, encoding="bytes")
    return make_builder({"feature": feature}, train=examples)


BUILDERS = {
    "regions": of_regions,
    "odd": lambda make: of_regions(make, regions=np.arange(IMAGES) % 5 + 1, dim=7),
    "wide": lambda make: of_regions(make, dim=130),
    "float16": lambda make: of_features(make, np.float16),
    "float32": lambda make: of_features(make, np.float32),
}


def assert_same_batches(experiment, backend):
    resident = training_data.ResidentData(experiment)
    streamed = training_data.StreamedData(experiment).batches(0, STEPS)
    mapped = parallel.map_over_devices(
        # Its state is a batch, and the step returns the batch that it gets.
        resident.in_step(lambda state, batch: batch),
        (parallel.SPLIT, parallel.SPLIT),
        parallel.SPLIT,
        backend=backend,
    )
    batches = resident.batches(0, STEPS)
    for planned, expected in zip(batches, streamed, strict=True):
        assert not planned.keys() & {"regions", "feature"}
        found = mapped(np.zeros(8), resident.put(planned))
        assert found.keys() == expected.keys()
        for name, array in parallel.shard(expected).items():
            assert found[name].dtype == array.dtype
            assert np.asarray(found[name]).tobytes() == array.tobytes(), name


@pytest.mark.parametrize("augment", [True, False])
@pytest.mark.parametrize("kind", BUILDERS)
def test_batches_are_those_that_are_read(make_builder, config, kind, augment):  # noqa: F811
    builder = BUILDERS[kind](make_builder)
    experiment = make_experiment(config, builder, augment)
    assert_same_batches(experiment, "pmap" if augment else "shard_map")


def test_large_batches_are_taken_in_blocks(make_builder, config, monkeypatch):  # noqa: F811
    monkeypatch.setattr(tables, "_BLOCK_BYTES", 8 * 512)  # one row of each device
    experiment = make_experiment(config, of_regions(make_builder))
    assert_same_batches(experiment, "shard_map")


@pytest.mark.parametrize(
    ("rows", "row_bytes", "expected"), [(16, 2**20, 1), (64, 2**23, 2), (3, 2**40, 3)]
)
def test_blocks_are_equal_and_small_enough(rows, row_bytes, expected):
    assert tables._number_of_blocks(rows, row_bytes) == expected


def test_each_device_holds_an_equal_part(make_builder, config):  # noqa: F811
    """37 images on 8 devices are 5 on each, of which the last has 2."""
    features = resident_features.ResidentFeatures(
        make_experiment(config, of_regions(make_builder))
    )
    table = features.read()
    assert table.shape == (8, 5, 1, 128)
    parts = {shard.device: shard.data.shape for shard in table.addressable_shards}
    assert list(parts) == jax.devices()
    assert set(parts.values()) == {(1, 5, 1, 128)}
    assert not np.asarray(table)[7, 2:].any()


@pytest.mark.parametrize(
    ("shape", "dtype", "row_bytes"),
    [
        ((36, 2048), np.float16, 36 * 2048 * 2),  # COCO
        ((2048,), np.float16, 2048 * 2),
        ((2048,), np.float32, 2048 * 4),
        ((10, 7), np.float16, 512),  # 10 regions of 4 words, up to 128 words
    ],
)
def test_size_of_a_record(shape, dtype, row_bytes):
    assert Packing("regions", shape, dtype).row_bytes == row_bytes


def test_features_that_do_not_fit_are_refused_with_the_arithmetic(
    make_builder,  # noqa: F811
    config,
    monkeypatch,
):
    memory = tables.Memory(free=1_000_000_000, total=16_000_000_000)
    monkeypatch.setattr(parallel, "device_memory", lambda: memory)
    builder = of_regions(make_builder, dim=2048)
    experiment = make_experiment(config, builder)
    resident_features.ResidentFeatures(experiment)
    monkeypatch.setattr(parallel, "rows_per_device", lambda rows: 14_161 * 8)
    with pytest.raises(InputError) as error:
        resident_features.ResidentFeatures(experiment)
    assert str(error.value) == (
        f"config.data.device_resident is True, but the features of {builder.data_dir} "
        "need 2.8 GB on each of 8 devices of 16.0 GB, of which 1.0 GB are free "
        "(37 images of 24,576 bytes); use more devices, or set it to False"
    )


def test_features_for_which_a_device_has_no_room_in_one_piece_are_refused(
    make_builder,  # noqa: F811
    config,
    monkeypatch,
):
    def exhaust(*_):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")

    experiment = make_experiment(config, of_regions(make_builder))
    features = resident_features.ResidentFeatures(experiment)
    monkeypatch.setattr(parallel, "fill_table", exhaust)
    with pytest.raises(InputError, match="use more devices, or set it to False"):
        features.read()


def test_photos_are_refused(shapes_builder, config):
    with pytest.raises(InputError) as error:
        resident_features.ResidentFeatures(make_experiment(config, shapes_builder))
    assert "has photos; set it to False, or extract features" in str(error.value)
    assert "\n" not in str(error.value)


def test_memory_of_virtual_devices_is_a_share_of_the_host():
    memory = parallel.device_memory()
    assert 2**20 < memory.free == memory.total < 2**50


@pytest.mark.parametrize(("augment", "views"), [(True, 1), (False, 1), (True, 2)])
def test_shapes_that_the_compile_mode_takes(make_builder, config, augment, views):  # noqa: F811
    """They are those of a batch of a training."""
    config.loss.views = views
    experiment = make_experiment(config, of_regions(make_builder), augment)
    resident = training_data.ResidentData(experiment)
    batch = resident.put(next(resident.batches(0, 1)))
    config.data.region_dim, config.compile.regions = 8, 6
    config.compile.images = IMAGES
    found = resident_features_of(config, 8).arguments(
        shapes.train_batch(config, 16, 24), jax.devices()
    )
    assert found.keys() == batch.keys()
    for name, array in batch.items():
        assert (found[name].shape, found[name].dtype) == (array.shape, array.dtype)
