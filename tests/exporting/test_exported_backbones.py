"""Exported backbones against the backbones: small networks of every family."""

import functools

import jax
import numpy as np
import pytest

from tests.exporting.exported import Exported, random_variables
from vse_jax.exporting.encoders import Encoder
from vse_jax.models.backbones import SPECS, create_backbone, resnet, vgg
from vse_jax.models.backbones.efficientnet_lite import EfficientNetLite, StageSpec
from vse_jax.models.backbones.resnet import ResNet
from vse_jax.models.backbones.stem import ConvolutionalStem

pytestmark = pytest.mark.usefixtures("quick_compilation")

STAGES = (
    StageSpec(1, 3, 1, 1, 8),
    StageSpec(2, 5, 2, 6, 8),
    StageSpec(1, 3, 2, 6, 16),
)
RESNET = functools.partial(ResNet, (1, 1, 3, 1))


def small_vgg(monkeypatch):
    monkeypatch.setattr(vgg, "CONVOLUTIONS", (1, 2, 1, 1, 1))
    monkeypatch.setattr(vgg, "_WIDTHS", (4, 8, 8, 8, 8))
    monkeypatch.setattr(vgg, "POOLED_FEATURES", 16)
    return lambda pooled, dtype, **_: vgg.VGG19(pooled, dtype)


FAMILIES = {
    # Height and width that strides do not divide are padded unevenly.
    "stem": (lambda _: lambda pooled, **kwargs: ConvolutionalStem(**kwargs), 36),
    "resnet": (lambda _: RESNET, 45),
    "bottom_up": (lambda _: functools.partial(RESNET, caffe=True, bottom_up=True), 46),
    "resnext": (lambda _: functools.partial(RESNET, groups=4, group_width=8), 45),
    "efficientnet_lite": (lambda _: functools.partial(EfficientNetLite, STAGES), 45),
    "vgg": (small_vgg, 70),
}


@pytest.fixture(autouse=True)
def few_channels(monkeypatch):
    monkeypatch.setattr(resnet, "_STEM_FEATURES", 8)


def encoder_of(module, size, rng):
    image = np.zeros((1, size, size, 3), np.uint8)
    variables = random_variables(module, rng, image)
    (batch,) = jax.export.symbolic_shape("batch")
    inputs = {"image": jax.ShapeDtypeStruct((batch, size, size, 3), np.uint8)}
    apply = functools.partial(module.apply, variables)
    return Encoder("backbone", apply, inputs, "regions")


def check(module, size, tolerance):
    rng = np.random.default_rng(0)
    encoder = encoder_of(module, size, rng)
    exported = Exported(encoder)
    image = rng.integers(0, 256, (3, size, size, 3)).astype(np.uint8)
    expected = np.asarray(jax.jit(encoder.function)(image))
    tolerance *= np.abs(expected).max()
    for rows in (slice(0, 1), slice(None)):
        exported.check_onnx({"image": image[rows]}, expected[rows], tolerance)
    exported.check_stablehlo({"image": image}, expected, tolerance)


@pytest.mark.parametrize(
    ("family", "pooled"),
    [*((family, False) for family in FAMILIES), ("resnet", True), ("vgg", True)],
)
def test_family(family, pooled, monkeypatch):
    create, size = FAMILIES[family]
    options = {"train": False, "gather_over_devices": None, "dtype": np.float32}
    module = create(monkeypatch)(pooled=pooled, **options)
    check(module, size, tolerance=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", SPECS)
def test_every_backbone(name, monkeypatch):
    monkeypatch.undo()
    for pooled in {False, bool(SPECS[name].pooled_dim)}:
        check(create_backbone(name, pooled=pooled), 64, tolerance=1e-4)
