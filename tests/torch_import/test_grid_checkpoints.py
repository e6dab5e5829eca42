"""Checkpoints of vse_infty with a CNN, whose grid of features is embedded."""

import json

import jax
import numpy as np
import pytest
import torch

import vse_jax
from tests import photo_files
from tests.models.backbones import pytorch_backbones
from tests.torch_import.test_checkpoint_file import (
    content_of,
    numbered,
    write_vocabulary,
)
from vse_jax import evaluate
from vse_jax.checkpoint import Checkpoints
from vse_jax.data.text.vocabulary import Vocabulary
from vse_jax.errors import InputError
from vse_jax.models import backbones
from vse_jax.models.vse import create_model
from vse_jax.torch_import import backbone_weights, checkpoint_file, torch_checkpoint

pytestmark = pytest.mark.usefixtures("quick_compilation")

BLOCKS = (1, 2, 1, 1)
# Values of --backbone_source, our backbones, and their options.
SOURCES = {
    "detector": ("bottom_up_resnet101", {"caffe": True}),
    "wsl": ("resnext101_32x8d", {"groups": 32, "group_width": 8}),
}
SCALE, SIZE = 0.5, 128
PARTS = {
    "conv1": "base.0",
    "bn1": "base.1",
    "layer1": "base.4",
    "layer2": "base.5",
    "layer3": "base.6",
    "layer4": "top.0",
}


@pytest.fixture(params=SOURCES)
def source(request, monkeypatch):
    """A source of the CNN's weights; the CNN has few blocks."""
    name, options = SOURCES[request.param]
    monkeypatch.setitem(backbones.SPECS, name, backbones._resnet(*BLOCKS, **options))
    backbone_weights.shapes.cache_clear()
    yield request.param
    backbone_weights.shapes.cache_clear()


def network_of(source):
    _, options = SOURCES[source]
    network = pytorch_backbones.ResNet(*BLOCKS, **options)
    pytorch_backbones.randomize(network)
    return network.eval()


def named_twice(network):
    """Returns the arrays of a CNN by their names in such a file.

    That code registers the CNN, and once more its parts without the classifier.
    """
    arrays = network.state_dict()
    names = {f"resnet.{name}": array for name, array in arrays.items()}
    for name, array in arrays.items():
        layer, dot, rest = name.partition(".")
        if layer in PARTS:
            names[f"{PARTS[layer]}{dot}{rest}"] = array
    return names


def write(folder, source, **options):
    """Writes a checkpoint and its vocabulary; returns paths, CNN and its encoder."""
    content = content_of("vse_infty_bigru_model_best.pth")
    images, captions = (
        {name.removeprefix("module."): array for name, array in arrays.items()}
        for arrays in content["model"]
    )
    network = network_of(source)
    generator = torch.Generator().manual_seed(1)
    dim = len(images["fc.bias"])
    encoder = {name: a for name, a in images.items() if not name.startswith("mlp.")}
    encoder["fc.weight"] = torch.randn(dim, 2048, generator=generator) / 45
    arrays = {
        f"module.backbone.{name}": array for name, array in named_twice(network).items()
    }
    arrays |= {f"module.image_encoder.{name}": a for name, a in encoder.items()}
    content["model"] = [arrays, captions]
    vars(content["opt"]).update(
        {
            "precomp_enc_type": "backbone",
            "backbone_source": source,
            "input_scale_factor": SCALE,
            **options,
        }
    )
    path = folder / "model_best.pth"
    torch.save(content, path)
    words = len(captions["embed.weight"])
    vocabulary = write_vocabulary(folder / "vocab.json", words)
    return str(path), str(vocabulary), network, encoder


def rank_weights(encoder, count):
    """Weights of generalized pooling, for `count` values in descending order."""
    gru = torch.nn.GRU(32, 32, batch_first=True, bidirectional=True)
    prefix = "gpool.gru."
    gru.load_state_dict(
        {n.removeprefix(prefix): a for n, a in encoder.items() if prefix in n}
    )
    frequency = 10_000 ** (-torch.arange(0, 32, 2) / 32)
    angle = torch.arange(count)[:, None] * frequency
    positions = torch.stack([angle.sin(), angle.cos()], 2).flatten(1)
    states = gru(positions[None])[0][0].unflatten(1, (2, 32)).mean(1)
    return (states @ encoder["gpool.linear.weight"].T / 0.1).softmax(0)


@torch.inference_mode()
def embedded(network, encoder, photos):
    """Embeds uint8 `[batch, height, width, 3]` by PyTorch."""
    regions = torch.tensor(pytorch_backbones.run(network, photos, pooled=False))
    projected = regions @ encoder["fc.weight"].T + encoder["fc.bias"]
    ordered = projected.sort(dim=1, descending=True).values
    pooled = (ordered * rank_weights(encoder, regions.shape[1])).sum(1)
    return torch.nn.functional.normalize(pooled, dim=1).numpy()


def test_embeddings_equal_pytorch(source, config, tmp_path):
    path, _, network, encoder = write(tmp_path, source)
    read = torch_checkpoint.read(path)
    configured = checkpoint_file.configure(config, read, path)
    assert configured.model.image_encoder == "region_linear"
    assert configured.model.backbone.name == SOURCES[source][0]
    words = Vocabulary(list(numbered(len(read.arrays["txt.embed.weight"])))[4:])
    variables = checkpoint_file.convert(configured, words, read, path)
    photos = np.stack([photo_files.drawn(SIZE, SIZE, seed) for seed in range(3)])
    model = create_model(configured, len(words), train=False)
    found = jax.jit(lambda v, b: model.apply(v, b, method=model.embed_images))(
        variables, {"image": photos}
    )
    expected = embedded(network, encoder, photos)
    assert np.abs(expected[0] - expected[1]).max() > 0.005
    np.testing.assert_allclose(found, expected, atol=1e-4)


def karpathy_folder(root):
    """Writes photos of several shapes and their captions in Karpathy's form."""
    root.mkdir()
    images = []
    for number, split in enumerate(("train", "val", "test") * 4):
        photo = photo_files.drawn(90 + 20 * number, 240 - 10 * number, number)
        name = f"{number}.png"
        (root / name).write_bytes(photo_files.encoded(photo, "PNG"))
        sentences = [{"raw": f"word{number + i} word{number}"} for i in range(5)]
        images.append({"filename": name, "split": split, "sentences": sentences})
    (root / "dataset_flickr8k.json").write_text(json.dumps({"images": images}))
    return root


def stretched(path):
    """Resizes a photo to a square by bilinear interpolation of four pixels."""
    pixels = torch.tensor(photo_files.decoded(path.read_bytes()).transpose(2, 0, 1))
    square = torch.nn.functional.interpolate(
        pixels[None].float(), (SIZE, SIZE), mode="bilinear", align_corners=False
    )
    return square[0].permute(1, 2, 0).round().to(torch.uint8).numpy()


def test_imported_model_is_evaluated_on_stretched_photos(config, tmp_path):
    """As in their code, and not with a crop of the centre."""
    with pytest.MonkeyPatch.context() as patch:
        name, options = SOURCES["detector"]
        patch.setitem(backbones.SPECS, name, backbones._resnet(*BLOCKS, **options))
        backbone_weights.shapes.cache_clear()
        path, vocabulary, network, encoder = write(tmp_path, "detector")
        root = karpathy_folder(tmp_path / "photos")
        config.data.root, config.data.data_dir = str(root), str(tmp_path / "data")
        config.evaluation_batch_size = 8
        workdir = str(tmp_path / "run")
        checkpoint_file.import_checkpoint(config, workdir, path, vocabulary)
        metrics = evaluate.evaluate(workdir, "test")
        assert 0 < metrics["rsum"] < 600
        photos = [root / f"{number}.png" for number in range(3)]
        found = vse_jax.load(workdir).embed_images(photos)
    backbone_weights.shapes.cache_clear()
    expected = embedded(network, encoder, np.stack([stretched(p) for p in photos]))
    np.testing.assert_allclose(found, expected, atol=1e-3)
    checkpoints = Checkpoints(workdir, read_only=True)
    run = checkpoints.restore(checkpoints.steps()).run
    assert run["preprocessing"] == {
        "image_size": SIZE,
        "resize": 0,
        "crop": "none",
        "interpolation": "opencv",
        "backbone": "bottom_up_resnet101",
    }


def test_cnn_without_the_parts_is_imported_too(source, config, tmp_path):
    path, _, _, _ = write(tmp_path, source)
    content = torch.load(path, weights_only=False)
    expected = torch_checkpoint.read(path)
    configured = checkpoint_file.configure(config, expected, path)
    images = content["model"][0]
    for name in list(images):
        if ".base." in name or ".top." in name:
            del images[name]
    torch.save(content, path)
    words = Vocabulary(list(numbered(len(expected.arrays["txt.embed.weight"])))[4:])
    arguments = configured, words
    jax.tree.map(
        np.testing.assert_array_equal,
        checkpoint_file.convert(*arguments, torch_checkpoint.read(path), path),
        checkpoint_file.convert(*arguments, expected, path),
    )


def test_photos_have_the_size_of_the_options(config, tmp_path):
    path, *_ = write(tmp_path, "detector", input_scale_factor=2.0)
    configured = checkpoint_file.configure(config, torch_checkpoint.read(path), path)
    assert configured.data.image_size == 512
    assert configured.data.validation_split == "val"


@pytest.mark.parametrize("given", ["imagenet", "imagenet_res152", None])
def test_other_cnn_is_refused(given, config, tmp_path):
    path, *_ = write(tmp_path, "detector", backbone_source=given)
    with pytest.raises(InputError) as error:
        checkpoint_file.configure(config, torch_checkpoint.read(path), path)
    assert str(error.value) == (
        f"{path}: its CNN is {str(given)!r} (backbone_source), which is not supported; "
        "expected detector, wsl or imagenet_resnext"
    )


def test_cnn_of_another_architecture_is_refused(config, tmp_path):
    """It has the few blocks of these tests."""
    path, vocabulary, *_ = write(tmp_path, "detector")
    with pytest.raises(InputError, match="not the weights of bottom_up_resnet101"):
        checkpoint_file.import_checkpoint(
            config, str(tmp_path / "run"), path, vocabulary
        )
    assert not (tmp_path / "run").exists()
