"""Checkpoints of vse_infty with a CNN, whose grid of features is embedded."""

import json

import jax
import numpy as np
import pytest
import torch

import vse_jax
from tests import photo_files
from tests.torch_import import vse_infty_files
from tests.torch_import.test_checkpoint_file import numbered, write_vocabulary
from vse_jax import evaluate
from vse_jax.checkpoint import Checkpoints
from vse_jax.data.text.vocabulary import Vocabulary
from vse_jax.errors import InputError
from vse_jax.models import backbones
from vse_jax.torch_import import backbone_weights, checkpoint_file, torch_checkpoint

pytestmark = pytest.mark.usefixtures("quick_compilation")

SCALE, SIZE, EMBED = 0.5, 128, 32
WORDS = 60


@pytest.fixture(params=vse_infty_files.SOURCES)
def source(request, monkeypatch):
    """A source of the CNN's weights; the CNN has few blocks."""
    monkeypatch.setitem(backbones.SPECS, *vse_infty_files.few_blocks(request.param))
    backbone_weights.shapes.cache_clear()
    yield request.param
    backbone_weights.shapes.cache_clear()


def write(folder, source, **options):
    """Writes a checkpoint and its vocabulary; returns paths and image encoder."""
    torch.manual_seed(0)
    images = vse_infty_files.Grid(source, EMBED).eval()
    captions = vse_infty_files.GruCaptions(WORDS, EMBED)
    options = {
        "precomp_enc_type": "backbone",
        "backbone_source": source,
        "input_scale_factor": SCALE,
    } | options
    path = folder / "model_best.pth"
    vse_infty_files.save(path, images, captions, parallel=True, **options)
    vocabulary = write_vocabulary(folder / "vocab.json", WORDS)
    return str(path), str(vocabulary), images


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
    """As in their code, and not with a crop of the center."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(backbones.SPECS, *vse_infty_files.few_blocks("detector"))
        backbone_weights.shapes.cache_clear()
        path, vocabulary, encoder = write(tmp_path, "detector")
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
    with torch.inference_mode():
        expected = encoder([stretched(path) for path in photos]).numpy()
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
    path, *_ = write(tmp_path, source)
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


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("imagenet", "caffe_resnet101"),
        ("imagenet_res50", "caffe_resnet50"),
        ("vsepp_imagenet_res152", "caffe_resnet152"),
        ("imagenet_resnext", "resnext101_32x8d"),
        ("vsepp_resnext", "resnext101_32x8d"),
        ("vsepp_detector", "bottom_up_resnet101"),
    ],
)
def test_every_source_has_a_backbone(given, name, config, tmp_path):
    path, *_ = write(tmp_path, "detector", backbone_source=given)
    configured = checkpoint_file.configure(config, torch_checkpoint.read(path), path)
    assert configured.model.backbone.name == name


@pytest.mark.parametrize("given", ["imagenet_res18", None])
def test_other_cnn_is_refused(given, config, tmp_path):
    path, *_ = write(tmp_path, "detector", backbone_source=given)
    with pytest.raises(InputError) as error:
        checkpoint_file.configure(config, torch_checkpoint.read(path), path)
    assert str(error.value) == (
        f"{path}: its CNN is {str(given)!r} (backbone_source), which is not supported; "
        "expected one of detector, imagenet, imagenet_res50, imagenet_res152, "
        "imagenet_resnext, resnext, wsl"
    )


def test_cnn_of_another_architecture_is_refused(config, tmp_path):
    """It has the few blocks of these tests."""
    path, vocabulary, *_ = write(tmp_path, "detector")
    with pytest.raises(InputError, match="not the weights of bottom_up_resnet101"):
        checkpoint_file.import_checkpoint(
            config, str(tmp_path / "run"), path, vocabulary
        )
    assert not (tmp_path / "run").exists()
