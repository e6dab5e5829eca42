import functools

import jax
import numpy as np
import pytest
import torch

from vse_jax.models.kernels.convolution import convolve


def draw(*shape):
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


# Rows and columns of the kernel, stride, padding, channels, groups, features.
CASES = {
    "pointwise": (1, 1, 0, 6, 1, 4),
    "pointwise, stride": (1, 2, 0, 6, 1, 4),
    "plain": (3, 1, 1, 6, 1, 4),
    "depthwise": (3, 1, 1, 6, 6, 6),
    "depthwise, stride": (5, 2, 2, 6, 6, 6),
    "depthwise, two features": (3, 1, 1, 6, 6, 12),
    "groups, joined": (3, 2, 1, 48, 6, 24),
    "groups, not joined": (3, 1, 1, 80, 2, 40),
}


@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_equal_pytorch(case):
    size, stride, padding, channels, groups, features = CASES[case]
    x, kernel = draw(2, 9, 8, channels), draw(size, size, channels // groups, features)
    pads = ((padding, padding), (padding, padding))

    theirs_x = torch.tensor(x.transpose(0, 3, 1, 2), requires_grad=True)
    theirs_kernel = torch.tensor(kernel.transpose(3, 2, 0, 1), requires_grad=True)
    theirs = torch.nn.functional.conv2d(
        theirs_x, theirs_kernel, None, stride, padding, groups=groups
    )
    cotangent = draw(*theirs.shape)
    theirs.backward(torch.from_numpy(cotangent))

    ours, vjp = jax.vjp(
        jax.jit(lambda x, kernel: convolve(x, kernel, stride, pads, groups)), x, kernel
    )
    np.testing.assert_allclose(
        ours, theirs.detach().permute(0, 2, 3, 1), rtol=1e-4, atol=1e-4
    )
    grad_x, grad_kernel = vjp(cotangent.transpose(0, 2, 3, 1))
    np.testing.assert_allclose(grad_x, theirs_x.grad.permute(0, 2, 3, 1), atol=1e-4)
    np.testing.assert_allclose(
        grad_kernel, theirs_kernel.grad.permute(2, 3, 1, 0), atol=1e-3
    )


@pytest.mark.parametrize(("platform", "grouped"), [("cpu", False), ("tpu", True)])
def test_form_depends_on_the_target_platform(platform, grouped):
    def depthwise(x, kernel):
        return convolve(x, kernel, 1, ((1, 1), (1, 1)), 6)

    lowered = jax.jit(depthwise).trace(draw(1, 8, 8, 6), draw(3, 3, 1, 6))
    text = lowered.lower(lowering_platforms=(platform,)).as_text()
    assert ("feature_group_count = 6" in text) == grouped


@pytest.mark.parametrize(
    ("platform", "is_product"), [("cpu", True), ("cuda", True), ("tpu", False)]
)
def test_pointwise_form_depends_on_the_target_platform(platform, is_product):
    def gradients(x, kernel, cotangent):
        pointwise = functools.partial(convolve, stride=2, padding=((0, 0), (0, 0)))
        return jax.vjp(pointwise, x, kernel)[1](cotangent)

    traced = jax.jit(gradients).trace(
        draw(1, 8, 8, 6), draw(1, 1, 6, 4), draw(1, 4, 4, 4)
    )
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert ("stablehlo.dot_general" in text) == is_product
    assert ("stablehlo.convolution" in text) != is_product
