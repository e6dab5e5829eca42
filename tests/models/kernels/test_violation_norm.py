"""The norm of violations and its gradient, against the plain form and in memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vse_jax.models.kernels.violation_norm import plain_norm, violation_norm


def embeddings(images, captions, dim, seed=0):
    rng = np.random.default_rng(seed)
    return tuple(
        jnp.asarray(np.abs(rng.normal(size=(rows, dim))), jnp.float32)
        for rows in (images, captions)
    )


def gradients(function, sides, seed=1):
    cotangent = np.random.default_rng(seed).normal(size=(len(sides[0]), len(sides[1])))
    value, pull = jax.vjp(function, *sides)
    return value, pull(jnp.asarray(cotangent, jnp.float32))


# The gradient takes 128, 64 and 16 dimensions at a time; the last parts are padded.
@pytest.mark.parametrize(
    ("images", "captions", "dim"),
    [(3, 5, 300), (128, 100, 70), (300, 250, 40), (1, 1, 1)],
)
def test_norm_and_gradient_are_those_of_the_plain_form(images, captions, dim):
    sides = embeddings(images, captions, dim)
    value, of_sides = gradients(violation_norm, sides)
    expected, expected_of_sides = gradients(plain_norm, sides)
    np.testing.assert_array_equal(value, expected)
    for found, plain in zip(of_sides, expected_of_sides, strict=True):
        assert found.shape == plain.shape
        np.testing.assert_allclose(found, plain, rtol=1e-5, atol=1e-5)


def test_pairs_without_violation_have_no_gradient():
    images, captions = embeddings(4, 6, 20)
    captions = captions.at[2].set(0)
    _, (_, of_captions) = gradients(violation_norm, (images, captions))
    assert not np.asarray(of_captions[2]).any()
    assert np.isfinite(of_captions).all()
    assert np.asarray(of_captions[0]).any()


def test_pairs_of_a_nan_are_nan():
    """They would have the best similarity, 0, and a loss that looks well."""
    images, captions = embeddings(4, 6, 20)
    images = images.at[1, 3].set(jnp.nan)
    value, (of_images, _) = gradients(violation_norm, (images, captions))
    is_nan = np.isnan(np.asarray(value))
    assert is_nan[1].all()
    assert not is_nan[[0, 2, 3]].any()
    assert np.isnan(np.asarray(of_images[1])).any()


def test_models_of_an_ensemble_are_mapped():
    models = [embeddings(3, 4, 20, seed) for seed in (0, 2)]
    images, captions = map(jnp.stack, zip(*models, strict=True))
    found = jax.vmap(violation_norm)(images, captions)
    expected = [plain_norm(*sides) for sides in models]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_neither_the_norm_nor_the_gradient_stores_all_differences():
    images, captions, dim = 256, 512, 512
    sides = [
        jax.ShapeDtypeStruct((rows, dim), jnp.float32) for rows in (images, captions)
    ]

    def temporary_bytes(function):
        compiled = jax.jit(function).lower(*sides).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    def gradient(norm):
        return jax.grad(lambda *sides: norm(*sides).sum(), (0, 1))

    stored = 4 * images * captions * dim
    assert temporary_bytes(violation_norm) < stored / 100
    assert temporary_bytes(gradient(violation_norm)) < stored / 10
    # Otherwise this kernel is not needed.
    assert temporary_bytes(gradient(plain_norm)) >= stored
