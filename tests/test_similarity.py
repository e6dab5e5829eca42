import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vse_jax import similarity


@pytest.fixture
def embeddings():
    rng = np.random.default_rng(0)
    return rng.normal(size=(5, 4)), rng.normal(size=(7, 4))


def naive_order(images, captions):
    scores = np.zeros((len(images), len(captions)))
    for i, image in enumerate(images):
        for j, caption in enumerate(captions):
            scores[i, j] = -np.sqrt((np.maximum(0, caption - image) ** 2).sum())
    return scores


def test_cosine_is_the_product_of_embeddings(embeddings):
    images, captions = embeddings
    np.testing.assert_allclose(
        similarity.cosine(jnp.float32(images), jnp.float32(captions)),
        [[sum(i * c) for c in captions] for i in images],
        atol=1e-6,
    )


def test_order_is_how_much_captions_exceed_images(embeddings):
    images, captions = embeddings
    scores = similarity.order(jnp.float32(images), jnp.float32(captions))
    np.testing.assert_allclose(scores, naive_order(images, captions), atol=1e-6)


def test_gradient_of_order_is_that_of_finite_differences(embeddings):
    images, captions = embeddings
    weights = np.random.default_rng(1).normal(size=(len(images), len(captions)))

    def total(images, captions):
        return (similarity.order(images, captions) * weights).sum()

    gradients = jax.grad(total, argnums=(0, 1))(
        jnp.float32(images), jnp.float32(captions)
    )
    for which, gradient in enumerate(gradients):
        for place in np.ndindex(gradient.shape):
            values = []
            for shift in (1e-5, -1e-5):
                moved = [images.copy(), captions.copy()]
                moved[which][place] += shift
                values.append((naive_order(*moved) * weights).sum())
            expected = (values[0] - values[1]) / 2e-5
            np.testing.assert_allclose(gradient[place], expected, atol=1e-4)


def test_order_without_violation_has_no_gradient():
    images, captions = jnp.ones((2, 3)), jnp.zeros((2, 3))
    assert not np.asarray(similarity.order(images, captions)).any()
    for argument in (0, 1):
        gradient = jax.grad(lambda *x: similarity.order(*x).sum(), argument)(
            images, captions
        )
        np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("name", similarity.SIMILARITIES)
def test_scores_of_half_precision_embeddings_are_float32(embeddings, name):
    images, captions = (jnp.asarray(x, jnp.bfloat16) for x in embeddings)
    scores = similarity.SIMILARITIES[name](images, captions)
    assert scores.dtype == jnp.float32
    whole = similarity.SIMILARITIES[name](
        images.astype(jnp.float32), captions.astype(jnp.float32)
    )
    np.testing.assert_array_equal(scores, whole)
