"""Extraction is bound to its photos and captions."""

import csv
import json
import os

import numpy as np
import pytest

from configs import common
from tests.photo_files import drawn
from vse_jax.errors import InputError
from vse_jax.experiment import create_experiment
from vse_jax.extraction import extract

IMAGES = {"train": 6, "dev": 2}


def write_captions(root, word="dog"):
    with (root / "captions.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "caption", "split"])
        for split, count in IMAGES.items():
            for number in range(count):
                first = word if number == 1 else "dog"
                rows.writerow([f"{split}{number}.jpg", f"a {first} runs", split])


@pytest.fixture(scope="module")
def extracted(tmp_path_factory):
    """The folder of photos, the configuration, and the workdir of the extraction."""
    folder = tmp_path_factory.mktemp("extracted")
    root = folder / "photos"
    root.mkdir()
    for split, count in IMAGES.items():
        for number in range(count):
            drawn(48, 40, number).save(root / f"{split}{number}.jpg")
    write_captions(root)
    config = common.get_config()
    config.data.builder = "image_folder"
    config.data.root = str(root)
    config.data.data_dir = str(folder / "data")
    config.data.image_size = 32
    config.evaluation_batch_size = 8
    config.extract.pca_dim = 3
    config.model.backbone.name = "stem"
    extract.extract(config, str(folder / "run"))
    return root, config, folder / "run"


def again(extracted):
    _, config, workdir = extracted
    with pytest.raises(InputError) as error:
        extract.extract(config, str(workdir))
    return str(error.value)


def test_photos_with_another_time_are_the_same(extracted):
    root, config, workdir = extracted
    os.utime(root / "train0.jpg", (1, 1))
    before = (workdir / "features" / "extraction.json").read_bytes()
    extract.extract(config, str(workdir))
    assert (workdir / "features" / "extraction.json").read_bytes() == before


def test_description_suffices_to_embed_a_new_photo(extracted):
    _, _, workdir = extracted
    features = workdir / "features"
    description = json.loads((features / "extraction.json").read_text())
    assert description["config.model.backbone.name"] == "stem"
    assert description["config.data.image_size"] == 32
    assert description["config.extract.pca_dim"] == 3
    assert len(description["config.model.backbone.weights"]) == 64
    assert description["unit_length"] is False
    assert np.load(features / "pca.npz")["components"].shape == (128, 3)


def test_training_on_the_features_remembers_how_they_were_extracted(extracted):
    _, photos_config, workdir = extracted
    config = common.get_config()
    config.data.root = str(workdir / "features")
    config.data.minimum_word_count = 1
    experiment = create_experiment(config)
    run = experiment.describe()
    described = json.loads((workdir / "features" / "extraction.json").read_text())
    assert run["extraction"] == described
    image_size = photos_config.data.image_size
    assert run["extraction"]["config.data.image_size"] == image_size
    stored = np.load(workdir / "features" / "pca.npz")
    pca = experiment.pca_arrays
    assert pca.keys() == set(stored.files)
    for name, array in pca.items():
        np.testing.assert_array_equal(array, stored[name])


def test_replaced_photos_are_refused(extracted):
    root, _, workdir = extracted
    before = {path: path.read_bytes() for path in root.glob("train[23].jpg")}
    for path in before:
        drawn(48, 40, 99).save(path)
    message = again(extracted)
    assert "train: 2 photos changed, such as train2.jpg;" in message
    assert f"{workdir / 'features'}: was extracted from other data" in message
    assert "caption" not in message
    for path, content in before.items():
        path.write_bytes(content)


def test_edited_captions_are_refused_and_named(extracted):
    root, _, _ = extracted
    write_captions(root, "cat")
    message = again(extracted)
    assert (
        "train: captions of 1 photo changed, such as train1.jpg; "
        "dev: captions of 1 photo changed, such as dev1.jpg;"
    ) in message
    assert len(message) < 500
    write_captions(root)


def test_other_options_are_named_with_their_values(extracted):
    root, config, workdir = extracted
    config = config.copy_and_resolve_references()
    config.data.image_size = 48
    message = again((root, config, workdir))
    assert "config.data.image_size was 32 and is now 48" in message
