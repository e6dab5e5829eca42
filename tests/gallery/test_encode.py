"""Galleries of real sources: what they contain, and what a second encoding does."""

import os
import pathlib

import numpy as np
import pytest

import vse_jax
from configs import common
from tests import photo_files, programs, saved_runs
from vse_jax.errors import InputError
from vse_jax.gallery import encode, sources
from vse_jax.gallery.gallery import Gallery
from vse_jax.gallery.pictures import Pictures, thumbnail
from vse_jax.gallery.sources import CaptionFile, PhotoFolder, Split

pytestmark = pytest.mark.usefixtures("quick_compilation", "few_branches")


@pytest.fixture
def options():
    options = common.get_config().gallery
    options.dtype = "float32"
    return options


@pytest.fixture
def photos(tmp_path):
    root = tmp_path / "photos"
    for number in range(20):
        write_photo(root / f"{number % 3}" / f"{number:02}.jpg", number)
    return root


def write_photo(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    photo_files.drawn(80, 60, seed).save(path)


def check(gallery, model, root):
    """Checks that a gallery has exactly the photos of a folder."""
    records = gallery.rows_at(range(gallery.rows))
    paths = sorted(str(path) for path in root.rglob("*.jpg"))
    assert sorted(record.path for record in records) == paths
    expected = model.embed_images([record.path for record in records])
    found = gallery.embeddings_at(range(gallery.rows))
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_only_new_and_changed_photos_are_embedded(
    photos, tmp_path, scene_model, options, monkeypatch
):
    folder = tmp_path / "gallery"
    first = encode.encode(scene_model, PhotoFolder(photos), folder, options)
    assert first == (20, 0, 0)
    check(Gallery.open(folder), scene_model, photos)

    write_photo(photos / "new.jpg", 100)
    write_photo(photos / "0" / "00.jpg", 101)  # changed
    os.utime(photos / "0" / "00.jpg", (1, 1))
    (photos / "1" / "01.jpg").unlink()
    read = []
    real = scene_model.image_input.read
    monkeypatch.setattr(
        scene_model.image_input,
        "read",
        lambda photo: read.append(os.path.basename(photo)) or real(photo),
    )
    second = encode.encode(scene_model, PhotoFolder(photos), folder, options)
    assert second == (2, 2, 0)
    assert sorted(read) == ["00.jpg", "new.jpg"]
    monkeypatch.undo()
    check(Gallery.open(folder), scene_model, photos)

    third = encode.encode(scene_model, PhotoFolder(photos), folder, options)
    assert third == (0, 0, 0)


def test_an_interrupted_encoding_is_continued(
    photos, tmp_path, scene_model, options, monkeypatch
):
    folder = tmp_path / "gallery"
    monkeypatch.setattr("vse_jax.gallery.writer.SECONDS_BETWEEN_SHARDS", 0.0)
    monkeypatch.setitem(scene_model.config, "evaluation_batch_size", 8)
    source = PhotoFolder(photos)
    real, stopped = scene_model.embed_stream, []

    def interrupted(contents):
        for number, batch in enumerate(real(contents)):
            if number == 1 and not stopped:
                stopped.append(number)
                raise KeyboardInterrupt
            yield batch

    monkeypatch.setattr(scene_model, "embed_stream", interrupted)
    with pytest.raises(KeyboardInterrupt):
        encode.encode(scene_model, source, folder, options)
    part = Gallery.open(folder)
    assert part.rows == 8
    assert not part.complete
    assert encode.encode(scene_model, source, folder, options).added == 12
    assert Gallery.open(folder).complete
    check(Gallery.open(folder), scene_model, photos)


def test_captions_of_a_file(tmp_path, scene_model, options):
    path = tmp_path / "captions.txt"
    path.write_text("a red box\na blue star\n")
    folder = tmp_path / "gallery"
    encode.encode(scene_model, CaptionFile(path), folder, options)
    gallery = Gallery.open(folder)
    assert gallery.content == "captions"
    texts = [record.captions[0] for record in gallery.rows_at(range(2))]
    found = gallery.embeddings_at(range(2))
    np.testing.assert_allclose(found, scene_model.embed_captions(texts), atol=1e-6)


@pytest.mark.parametrize("content", [sources.IMAGES, sources.CAPTIONS])
def test_splits_are_embedded_as_in_an_evaluation(
    tmp_path, scene_run, scene_model, options, content
):
    workdir, experiment = scene_run
    folder = tmp_path / "gallery"
    source = Split(experiment, "test", content)
    encode.encode(scene_model, source, folder, options)
    _, expected = saved_runs.evaluated(experiment, workdir, "test")
    gallery = Gallery.open(folder)
    numbers = [gallery.position_of(row_id) for row_id in source.ids]
    found = gallery.embeddings_at(numbers)
    np.testing.assert_allclose(found, getattr(expected, content), atol=1e-6)


def test_pictures_of_files_and_of_splits(
    photos, tmp_path, scene_run, scene_model, options
):
    experiment = scene_run[1]
    encode.encode(
        scene_model, Split(experiment, "test", "images"), tmp_path / "split", options
    )
    gallery = Gallery.open(tmp_path / "split")
    pictures = Pictures(gallery)
    data = experiment.builder.as_data_source("test")
    for number in (0, 7):
        record = data[number]
        content = pictures.read(gallery.position_of(record["image_id"].decode()))
        np.testing.assert_array_equal(photo_files.decoded(content), record["image"])
    small = photo_files.decoded(thumbnail(content, 32))
    assert small.shape == (32, 32, 3)

    encode.encode(scene_model, PhotoFolder(photos), tmp_path / "folder", options)
    gallery = Gallery.open(tmp_path / "folder")
    path = pathlib.Path(gallery.row(0).path)
    assert Pictures(gallery).read(0) == path.read_bytes()
    path.unlink()
    assert Pictures(gallery).read(0) is None


def test_galleries_of_other_models_sources_and_types_are_refused(
    photos, tmp_path, scene_run, scene_model, options
):
    folder = tmp_path / "gallery"
    encode.encode(scene_model, PhotoFolder(photos), folder, options)
    config = scene_run[1].config.copy_and_resolve_references()
    config.seed = 1
    saved_runs.save(tmp_path / "other", config)
    other = vse_jax.load(tmp_path / "other")
    with pytest.raises(InputError, match="was encoded differently: model was"):
        encode.encode(other, PhotoFolder(photos), folder, options)
    with pytest.raises(InputError, match="was encoded with another model"):
        encode.check_model(Gallery.open(folder), other)
    with pytest.raises(InputError, match="options was"):
        encode.encode(scene_model, PhotoFolder(photos / "1"), folder, options)
    options.dtype = "float16"
    with pytest.raises(InputError, match="dtype was 'float32' and is now 'float16'"):
        encode.encode(scene_model, PhotoFolder(photos), folder, options)


def test_a_folder_of_invalid_photos_is_refused(tmp_path, scene_model, options):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_text("no photo")
    source = PhotoFolder(tmp_path / "photos")
    with pytest.raises(InputError, match="none of its 1 photos can be decoded"):
        encode.encode(scene_model, source, tmp_path / "gallery", options)


@pytest.mark.parametrize(("encoder", "axes"), [("region_residual", 3), ("global", 2)])
def test_splits_of_features(tmp_path, options, encoder, axes):
    root = programs.make_dataset(tmp_path / "root")
    if axes == 2:
        for path in root.glob("*_ims.npy"):
            np.save(path, np.load(path)[:, 0])
    config = common.get_config()
    config.update_from_flattened_dict(programs.OVERRIDES)
    config.data.update(root=str(root), data_dir=str(tmp_path / "data"))
    config.model.image_encoder = encoder
    experiment = saved_runs.save(tmp_path / "run", config)
    model = vse_jax.load(tmp_path / "run")
    source = Split(experiment, "test", "images")
    encode.encode(model, source, tmp_path / "gallery", options)
    _, expected = saved_runs.evaluated(experiment, tmp_path / "run", "test")
    gallery = Gallery.open(tmp_path / "gallery")
    numbers = [gallery.position_of(row_id) for row_id in source.ids]
    found = gallery.embeddings_at(numbers)
    np.testing.assert_allclose(found, expected.images, atol=1e-6)
    assert Pictures(gallery).read(0) is None
    photos = tmp_path / "photos"
    write_photo(photos / "a.jpg", 0)
    with pytest.raises(InputError, match="the backbone that computed them is not kn"):
        encode.encode(model, PhotoFolder(photos), tmp_path / "other", options)


def test_rows_of_all_hosts_are_counted(tmp_path, scene_model, options, monkeypatch):
    """This host's only photo is damaged, and the other one embeds five."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_text("no photo")

    def with_other_host(counts):
        return np.concatenate([counts, [[5, 2]]])

    monkeypatch.setattr(encode.parallel, "gather_over_hosts", with_other_host)
    source = PhotoFolder(tmp_path / "photos")
    found = encode.encode(scene_model, source, tmp_path / "gallery", options)
    assert found == (5, 0, 3)
