import flax.linen as nn
import jax
import numpy as np
import pytest

from vse_jax.models.kernels.batch_pieces import apply_in_pieces


class Layer(nn.Module):
    """Squares and convolves; its kernel is `[3, 3, 3, 5]`."""

    @nn.compact
    def __call__(self, image):
        return nn.Conv(5, (3, 3))(image**2.0)


def prepare(batch):
    image = np.random.default_rng(0).normal(size=(batch, 6, 4, 3)).astype(np.float32)
    layer = Layer()
    return layer, layer.init(jax.random.key(0), image), image


@pytest.mark.parametrize(("batch", "photos"), [(8, 4), (6, 4), (7, 4), (2, 4), (8, 0)])
def test_pieces_equal_the_whole_batch(batch, photos):
    layer, variables, image = prepare(batch)
    out = jax.jit(apply_in_pieces(layer, photos))(variables, image)
    assert out.shape == (batch, 6, 4, 5)
    np.testing.assert_allclose(out, layer.apply(variables, image), atol=1e-6)


@pytest.mark.parametrize(
    ("platform", "photos", "at_once"),
    [("cpu", 4, "4x6x4x3"), ("cpu", 0, "8x6x4x3"), ("tpu", 4, "8x6x4x3")],
)
def test_only_cpus_split_the_batch(platform, photos, at_once):
    layer, variables, image = prepare(8)
    traced = jax.jit(apply_in_pieces(layer, photos)).trace(variables, image)
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    (convolution,) = [line for line in text.splitlines() if "convolution(" in line]
    assert f"(tensor<{at_once}xf32>" in convolution
