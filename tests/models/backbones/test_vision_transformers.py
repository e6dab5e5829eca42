"""Vision transformers against those of Hugging Face's transformers, in PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import traverse_util

from tests.models.backbones import hugging_face
from vse_jax.models.backbones import create_backbone, spec_of
from vse_jax.models.transformers.positions import bicubic_weights
from vse_jax.torch_import import vision_weights

pytestmark = pytest.mark.usefixtures("quick_compilation")

KINDS = tuple(hugging_face.KINDS)


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def saved(kind, tmp_path_factory):
    """A model, its folder and its sizes."""
    model = hugging_face.create(kind)
    folder = hugging_face.save(model, tmp_path_factory.mktemp(kind))
    return model, folder, hugging_face.sizes_of(kind, folder)


def draw_images(height, width, batch=2):
    generator = np.random.default_rng(0)
    return generator.integers(0, 256, (batch, height, width, 3), np.uint8)


def module_and_variables(kind, folder, sizes, *, pooled, **options):
    name = hugging_face.NAMES[kind]
    module = create_backbone(name, sizes, pooled=pooled, **options)
    return module, vision_weights.load(name, folder, sizes, pooled=pooled)


# Its own grid, more rows, fewer columns, and pixels beyond the last patch.
GRIDS = [(4, 4, 0), (6, 3, 0), (3, 5, 3)]


def test_the_architecture_with_registers_may_have_none(tmp_path):
    """It smooths the positions of smaller images all the same."""
    model = hugging_face.create("registers", num_register_tokens=0, num_hidden_layers=1)
    folder = hugging_face.save(model, tmp_path)
    sizes = hugging_face.sizes_of("registers", folder)
    module, variables = module_and_variables("registers", folder, sizes, pooled=False)
    image = draw_images(2 * sizes.patch, 3 * sizes.patch)
    with torch.no_grad():
        expected = hugging_face.run("registers", model, image, sizes, pooled=False)
    features = jax.jit(module.apply)(variables, image)
    np.testing.assert_allclose(features, expected, atol=1e-5)


@pytest.mark.parametrize("pooled", [False, True])
def test_features_equal_transformers(kind, saved, pooled):
    model, folder, sizes = saved
    module, variables = module_and_variables(kind, folder, sizes, pooled=pooled)
    for rows, columns, more in GRIDS:
        image = draw_images(rows * sizes.patch + more, columns * sizes.patch + more)
        with torch.no_grad():
            expected = hugging_face.run(kind, model, image, sizes, pooled=pooled)
        features = jax.jit(module.apply)(variables, image)
        assert features.dtype == jnp.float32
        assert expected.std() > 0.1
        np.testing.assert_allclose(features, expected, atol=1e-5)
        spec = spec_of(hugging_face.NAMES[kind], sizes)
        assert features.shape[-1] == (spec.pooled_dim if pooled else spec.dim)


def test_gradients_equal_pytorch(kind, saved):
    """Of every parameter."""
    model, folder, sizes = saved
    name, image = hugging_face.NAMES[kind], draw_images(6 * sizes.patch, 28)
    output = hugging_face.run(kind, model, image, sizes, pooled=True)
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(1))
    (output * weights).sum().backward()
    module, variables = module_and_variables(kind, folder, sizes, pooled=True)

    def loss(params):
        return (module.apply({"params": params}, image) * weights.numpy()).sum()

    gradients = traverse_util.flatten_dict(jax.jit(jax.grad(loss))(variables["params"]))
    arrays = published_gradients(model, folder)
    converted = vision_weights.convert(name, arrays, sizes, "gradients", pooled=True)
    expected = traverse_util.flatten_dict(converted["params"])
    for path, gradient in gradients.items():
        scale = np.abs(expected[path]).max()
        # A softmax ignores what is added to all keys.
        assert scale > 1e-3 or path[-2:] == ("key", "bias")
        np.testing.assert_allclose(
            gradient, expected[path], atol=1e-5 * scale + 1e-5, err_msg=str(path)
        )


def published_gradients(model, folder):
    """Returns the gradients by the names of the published files."""
    for parameter in model.parameters():
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        parameter.data, parameter.grad = parameter.grad, parameter.data
    path = f"{folder}/gradients"
    model.save_pretrained(path)
    for parameter in model.parameters():
        parameter.data, parameter.grad = parameter.grad, parameter.data
    return vision_weights.pretrained_folder.read(path).arrays


def test_bfloat16_is_close_to_float32(saved, kind):
    _, folder, sizes = saved
    image = draw_images(sizes.image_size, sizes.image_size)
    exact, rounded = (
        np.asarray(jax.jit(module.apply)(variables, image), np.float32)
        for module, variables in (
            module_and_variables(kind, folder, sizes, pooled=False, dtype=dtype)
            for dtype in (jnp.float32, jnp.bfloat16)
        )
    )
    error = np.abs(rounded - exact).mean()
    assert 0 < error < 0.05 * exact.std()


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize(("old", "new"), [(4, 4), (4, 7), (7, 3), (16, 5), (2, 9)])
def test_bicubic_weights_equal_pytorch(old, new, antialias):
    identity = torch.eye(old)[None, :, :, None].expand(1, old, old, 2).contiguous()
    resized = torch.nn.functional.interpolate(
        identity, size=(new, 2), mode="bicubic", antialias=antialias
    )
    weights = bicubic_weights(old, new, antialias=antialias)
    np.testing.assert_allclose(weights.T, resized[0, :, :, 0], atol=1e-6)


FULL = {
    "clip": {"patch_size": 32},
    "siglip": {"patch_size": 16},
    "dinov2": {"patch_size": 14, "mlp_ratio": 4, "image_size": 518},
}


@pytest.mark.slow
@pytest.mark.parametrize("full", FULL)
def test_full_size_equals_transformers(full, tmp_path):
    """ViT-B, with its own initial parameters, on images of 224 pixels."""
    _, name, _ = hugging_face.KINDS[full]
    options = {"image_size": 224} | FULL[full]
    config = getattr(hugging_face.transformers, f"{name}Config")(
        **options, hidden_size=768, num_hidden_layers=12, num_attention_heads=12
    )
    torch.manual_seed(0)
    model = getattr(hugging_face.transformers, f"{name}Model")(config).eval()
    folder = hugging_face.save(model, tmp_path)
    sizes = hugging_face.sizes_of(full, folder)
    image = draw_images(224, 224, batch=1)
    for pooled in (False, True):
        with torch.no_grad():
            expected = hugging_face.run(full, model, image, sizes, pooled=pooled)
        module, variables = module_and_variables(full, folder, sizes, pooled=pooled)
        features = jax.jit(module.apply)(variables, image)
        np.testing.assert_allclose(features, expected, atol=1e-4)
