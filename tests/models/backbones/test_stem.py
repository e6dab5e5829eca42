import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vse_jax.models.backbones.stem import ConvolutionalStem

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def stem():
    model = ConvolutionalStem(
        jnp.float32,
        train=False,
        gather_over_devices=lambda array: array,
        patch=2,
        features=(4, 6),
    )
    image = np.zeros((2, 16, 12, 3), np.uint8)
    variables = jax.jit(model.init)(jax.random.key(0), image)
    apply = jax.jit(model.apply)
    return lambda image: np.asarray(apply(variables, image))


def test_patches_and_convolutions_reduce_the_grid(stem):
    regions = stem(np.zeros((2, 16, 12, 3), np.uint8))
    assert regions.shape == (2, 4 * 3, 6)


def test_regions_are_local_and_in_reading_order(stem):
    image = np.full((2, 16, 12, 3), 90, np.uint8)
    before = stem(image).reshape(2, 4, 3, 6)
    image[1, 14, 10] = 255  # in the last region of the second image
    after = stem(image).reshape(2, 4, 3, 6)
    changed = (before != after).any(-1)
    assert changed[1, 3, 2]
    assert not changed[0].any()
    assert not changed[1, :2].any()


def test_regions_encode_their_position(stem):
    """The image is uniform, and the compared regions do not touch its border."""
    regions = stem(np.full((2, 32, 32, 3), 127, np.uint8))[0].reshape(8, 8, 6)
    assert np.abs(regions[2, 2] - regions[2, 5]).max() > 1e-3
    assert np.abs(regions[2, 2] - regions[5, 2]).max() > 1e-3
