import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import nn

from tests import parity
from vse_jax import parallel
from vse_jax.models.backbones.layers import ConvolutionNorm

FEATURES = 6


def draw(*shape):
    return np.random.default_rng(len(shape)).normal(1, 2, shape).astype(np.float32)


@pytest.fixture(scope="module")
def maps():
    return draw(8, 6, 5, FEATURES)


def create(gather_over_devices=lambda array: array, *, train=True):
    return ConvolutionNorm(
        FEATURES,
        3,
        jnp.float32,
        train,
        gather_over_devices,
        groups=FEATURES,
        epsilon=1e-3,
    )


@pytest.fixture(scope="module")
def variables(maps):
    drawn = create().init(jax.random.key(0), maps)
    return jax.tree.map(lambda leaf: leaf + 0.3, drawn)


def in_pytorch(variables):
    convolution = nn.Conv2d(
        FEATURES, FEATURES, 3, padding=1, groups=FEATURES, bias=False
    )
    norm = nn.BatchNorm2d(FEATURES, eps=1e-3)
    params, statistics = variables["params"], variables["batch_stats"]["norm"]
    kernel = np.asarray(params["kernel"]).transpose(3, 2, 0, 1)
    arrays = {
        convolution.weight: kernel,
        norm.weight: params["norm"]["scale"],
        norm.bias: params["norm"]["bias"],
        norm.running_mean: statistics["mean"],
        norm.running_var: statistics["variance"],
    }
    with torch.no_grad():
        for tensor, array in arrays.items():
            tensor.copy_(torch.tensor(np.array(array)))
    return nn.Sequential(convolution, norm)


@pytest.mark.parametrize("train", [False, True])
def test_values_gradients_and_statistics_equal_pytorch(variables, maps, train):
    theirs = in_pytorch(variables).train(train)
    inputs = torch.tensor(maps.transpose(0, 3, 1, 2), requires_grad=True)
    outputs = theirs(inputs)
    cotangent = draw(*outputs.shape)
    outputs.backward(torch.from_numpy(cotangent))

    def apply(params, maps):
        ours = create(train=train)
        given = {**variables, "params": params}
        return ours.apply(given, maps, mutable=["batch_stats"])

    ours, vjp, updated = jax.vjp(apply, variables["params"], maps, has_aux=True)
    np.testing.assert_allclose(
        ours, outputs.detach().permute(0, 2, 3, 1), rtol=1e-4, atol=1e-4
    )
    gradients, grad_maps = vjp(cotangent.transpose(0, 2, 3, 1))
    convolution, norm = theirs
    expected = {
        "kernel": convolution.weight.grad.permute(2, 3, 1, 0).numpy(),
        "norm": {"scale": norm.weight.grad.numpy(), "bias": norm.bias.grad.numpy()},
    }
    parity.assert_trees_close(gradients, expected, rtol=1e-4, atol=2e-3)
    np.testing.assert_allclose(grad_maps, inputs.grad.permute(0, 2, 3, 1), atol=1e-4)
    expected = {
        "norm": {
            "mean": norm.running_mean.numpy(),
            "variance": norm.running_var.numpy(),
        }
    }
    parity.assert_trees_close(updated["batch_stats"], expected, rtol=1e-5, atol=1e-6)


def test_eight_devices_normalize_like_one(variables, maps):
    def on_devices(number):
        def of_device(maps):
            layer = create(parallel.gather)
            return layer.apply(variables, maps, mutable=["batch_stats"])

        mapped = jax.pmap(
            of_device, axis_name=parallel.AXIS, devices=jax.devices()[:number]
        )
        outputs, updated = mapped(maps.reshape(number, -1, *maps.shape[1:]))
        first = jax.tree.map(lambda leaf: leaf[0], updated["batch_stats"])
        return np.asarray(outputs).reshape(maps.shape), first

    (one, one_statistics), (eight, eight_statistics) = map(on_devices, (1, 8))
    np.testing.assert_allclose(eight, one, atol=1e-5)
    parity.assert_trees_close(eight_statistics, one_statistics, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [7, 8])
def test_same_padding_equals_tensorflow(size):
    maps = draw(1, size, size + 1, 3)
    layer = ConvolutionNorm(
        4, 5, jnp.float32, False, lambda tree: tree, stride=2, same_padding=True
    )
    outputs, variables = layer.init_with_output(jax.random.key(0), maps)
    expected = jax.lax.conv_general_dilated(
        maps,
        variables["params"]["kernel"],
        (2, 2),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    expected = expected / np.sqrt(1 + 1e-5)
    np.testing.assert_allclose(outputs, expected, atol=1e-4)
