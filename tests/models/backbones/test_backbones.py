import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.backbones import pytorch_backbones
from vse_jax.models import backbones
from vse_jax.torch_import import backbone_weights

pytestmark = pytest.mark.usefixtures("quick_compilation")

NAMES = tuple(backbones.SPECS)[1:]


create = functools.partial(backbones.create_backbone, pooled=False)


def _dim(name, pooled):
    spec = backbones.SPECS[name]
    return spec.pooled_dim if pooled else spec.dim


def draw_images(height, width, batch=2):
    generator = np.random.default_rng(0)
    return generator.integers(0, 256, (batch, height, width, 3), np.uint8)


def weights_of(network):
    return {name: tensor.numpy() for name, tensor in network.state_dict().items()}


def relative_error(actual, expected):
    assert actual.shape == expected.shape
    assert np.isfinite(expected).all()
    assert expected.std() > 1e-3  # the outputs are not constant
    difference = np.abs(np.asarray(actual, np.float32) - expected)
    return difference.max() / np.abs(expected).max()


# One backbone of each family is enough for the pooled feature.
CASES = [(name, False) for name in NAMES if name != "vgg19"]
CASES += [(name, True) for name in ("resnet50", "vgg19", "efficientnet_lite0")]


@pytest.mark.parametrize(("name", "pooled"), CASES)
def test_features_equal_pytorch(name, pooled):
    size = 70
    network = pytorch_backbones.create(name, size)
    variables = backbone_weights.convert(name, weights_of(network), "drawn")
    # Not square, unless the PyTorch network requires it.
    image = draw_images(size, size if name.startswith("efficientnet") else 109)
    expected = pytorch_backbones.run(network, image, pooled=pooled)
    # Not compiled as a whole, so that layers of equal shapes are compiled once.
    features = create(name, pooled=pooled).apply(variables, image)
    assert relative_error(features, expected) < 1e-4
    assert features.shape[-1] == _dim(name, pooled)


def test_regions_of_vgg_equal_pytorch():
    network = pytorch_backbones.vgg_convolutions()
    pytorch_backbones.randomize(network)
    arrays = {f"features.{name}": array for name, array in weights_of(network).items()}
    variables = backbone_weights.convert("vgg19", arrays, "drawn", pooled=False)
    image = draw_images(70, 109)
    regions = jax.jit(create("vgg19").apply)(variables, image)
    expected = pytorch_backbones.run_vgg_convolutions(network, image)
    assert relative_error(regions, expected) < 1e-4
    assert regions.shape[1:] == (2 * 3, 512)


def test_bfloat16_is_close_to_float32():
    network = pytorch_backbones.create("efficientnet_lite0", 70)
    variables = backbone_weights.convert(
        "efficientnet_lite0", weights_of(network), "drawn"
    )
    image = draw_images(70, 70)
    exact, rounded = (
        create("efficientnet_lite0", dtype=dtype).apply(variables, image)
        for dtype in (jnp.float32, jnp.bfloat16)
    )
    assert rounded.dtype == jnp.bfloat16
    error = np.abs(np.asarray(rounded, np.float32) - exact).mean()
    assert 0 < error < 0.05 * np.asarray(exact).std()


def test_stem_has_no_pooled_feature():
    regions = create("stem").init_with_output(jax.random.key(0), draw_images(32, 32))[0]
    assert regions.shape == (2, 4, backbones.SPECS["stem"].dim)
    with pytest.raises(ValueError, match="no pooled feature"):
        create("stem", pooled=True)
