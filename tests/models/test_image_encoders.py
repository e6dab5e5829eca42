import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vse_jax.models.backbones import create_backbone
from vse_jax.models.image_encoders import Backbone, ImageEncoder
from vse_jax.models.kernels.ranked_sum import ranked_sum
from vse_jax.models.normalization import l2_normalize
from vse_jax.models.pooling import GeneralizedPooling

pytestmark = pytest.mark.usefixtures("quick_compilation")

COUNT = np.array([4, 1, 3], np.int32)
REGIONS = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32)
EXISTS = np.arange(4) < COUNT[:, None]
REGION_KINDS = ("region_residual", "region_parallel", "region_linear")


@functools.cache
def encoder(kind, train):
    model = ImageEncoder(kind, 6, jnp.float32, train, lambda tree: tree)
    batch = {"regions": REGIONS, "region_count": COUNT}
    variables = jax.jit(model.init)(jax.random.key(0), batch)

    @jax.jit
    def run(variables, regions):
        def total(params):
            embedded, updated = model.apply(
                variables | {"params": params},
                {"regions": regions, "region_count": COUNT},
                mutable=["batch_stats"],
            )
            weights = np.random.default_rng(1).normal(size=embedded.shape)
            return (embedded * weights).sum(), (embedded, updated)

        return jax.grad(total, has_aux=True)(variables["params"])

    return variables, run


def naive_embedding(kind, variables):
    """Returns embedded regions before pooling, computed by NumPy in evaluation mode."""
    params = jax.tree.map(np.asarray, variables["params"]["encoder"])
    projection = params["projection"]
    projected = REGIONS @ projection["kernel"] + projection["bias"]
    if kind == "region_linear":
        assert params.keys() == {"projection", "pooling"}
        return projected
    statistics = variables["batch_stats"]["encoder"]["mlp"]["norm"]
    mlp = params["mlp"]
    hidden = projected if kind == "region_residual" else REGIONS
    hidden = hidden @ mlp["hidden"]["kernel"] + mlp["hidden_bias"]
    hidden = (hidden - statistics["mean"]) / np.sqrt(statistics["variance"] + 1e-5)
    hidden = np.maximum(0, hidden * mlp["norm"]["scale"] + mlp["norm"]["bias"])
    return projected + hidden @ mlp["out"]["kernel"] + mlp["out"]["bias"]


def pooling_weights(variables):
    pool = GeneralizedPooling()
    apply = functools.partial(pool.apply, method=pool.rank_weights)
    params = variables["params"]["encoder"]["pooling"]
    return jax.jit(apply, static_argnums=1)({"params": params}, 4)


@pytest.mark.parametrize("kind", REGION_KINDS)
def test_regions_are_projected_and_refined_and_pooled(kind):
    variables, run = encoder(kind, train=False)
    _, (embedded, _) = run(variables, REGIONS)
    weights = pooling_weights(variables)[COUNT - 1]
    expected = ranked_sum(naive_embedding(kind, variables), weights, COUNT)
    np.testing.assert_allclose(embedded, expected, atol=1e-5)


@pytest.mark.parametrize("train", [False, True])
def test_padding_regions_are_ignored(train):
    variables, run = encoder("region_residual", train)
    filled = np.where(EXISTS[..., None], REGIONS, np.float32(50))
    gradients, (embedded, updated) = run(variables, filled)
    expected_gradients, (expected, expected_updated) = run(variables, REGIONS)
    np.testing.assert_allclose(embedded, expected, atol=1e-6)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, atol=1e-5),
        (gradients, updated),
        (expected_gradients, expected_updated),
    )


def test_bias_removed_by_the_normalization_is_not_trained():
    variables, run = encoder("region_residual", train=True)
    gradients, (embedded, updated) = run(variables, REGIONS)
    assert not np.asarray(gradients["encoder"]["mlp"]["hidden_bias"]).any()
    assert np.asarray(gradients["encoder"]["mlp"]["hidden"]["kernel"]).any()

    # It affects only the running mean.
    moved = jax.tree.map(lambda x: x, variables)
    moved["params"]["encoder"]["mlp"]["hidden_bias"] += 1.0
    _, (same, shifted) = run(moved, REGIONS)
    np.testing.assert_allclose(same, embedded, atol=1e-5)
    means = [
        x["batch_stats"]["encoder"]["mlp"]["norm"]["mean"] for x in (shifted, updated)
    ]
    np.testing.assert_allclose(means[0], means[1] + 0.1, atol=1e-6)


def test_global_features_are_projected():
    model = ImageEncoder("global", 6, jnp.float32, False, lambda tree: tree)
    feature = REGIONS[:, 0]
    variables = model.init(jax.random.key(0), {"feature": feature})
    projection = variables["params"]["encoder"]["projection"]
    projection["bias"] = projection["bias"] + 0.5
    np.testing.assert_allclose(
        model.apply(variables, {"feature": feature}),
        feature @ projection["kernel"] + 0.5,
        atol=1e-6,
    )


PHOTOS = np.random.default_rng(2).integers(0, 256, (3, 32, 32, 3), np.uint8)


def photo_encoder(kind, architecture, *, train=False, **options):
    backbone = Backbone(architecture, **options)
    return ImageEncoder(kind, 6, jnp.float32, train, lambda tree: tree, backbone)


@functools.cache
def photo_variables(kind, architecture):
    model = photo_encoder(kind, architecture)
    return jax.jit(model.init)(jax.random.key(0), {"image": PHOTOS})


def backbone_output(kind, architecture, variables):
    """Returns the output of the backbone alone for the photos."""
    alone = create_backbone(architecture, pooled=kind == "global")
    of_backbone = {name: tree["backbone"] for name, tree in variables.items()}
    return jax.jit(alone.apply)(of_backbone, PHOTOS)


def without_backbone(kind, variables, batch):
    model = ImageEncoder(kind, 6, jnp.float32, False, lambda tree: tree)
    of_encoder = {
        name: {"encoder": tree["encoder"]}
        for name, tree in variables.items()
        if "encoder" in tree
    }
    return model.apply(of_encoder, batch)


@pytest.mark.parametrize("kind", REGION_KINDS)
def test_backbone_computes_the_regions_of_photos(kind):
    variables = photo_variables(kind, "stem")
    regions = backbone_output(kind, "stem", variables)
    count = np.full(3, regions.shape[1], np.int32)
    batch = {"regions": regions, "region_count": count}
    np.testing.assert_allclose(
        photo_encoder(kind, "stem").apply(variables, {"image": PHOTOS}),
        without_backbone(kind, variables, batch),
        atol=1e-5,
    )


def test_feature_of_a_backbone_has_unit_length():
    """As in VSE++. Precomputed features are not normalized again."""
    kind, architecture = "global", "efficientnet_lite0"
    variables = photo_variables(kind, architecture)
    feature = l2_normalize(backbone_output(kind, architecture, variables))
    np.testing.assert_allclose(
        photo_encoder(kind, architecture).apply(variables, {"image": PHOTOS}),
        without_backbone(kind, variables, {"feature": feature}),
        atol=1e-5,
    )


def test_embeddings_of_crops_are_averaged():
    variables = photo_variables("region_residual", "stem")
    model = photo_encoder("region_residual", "stem")
    crops = np.stack([PHOTOS, PHOTOS[:, ::-1], PHOTOS[:, :, ::-1]], axis=1)
    each = [model.apply(variables, {"image": crops[:, i]}) for i in range(3)]
    averaged = model.apply(variables, {"image": crops})
    np.testing.assert_allclose(averaged, np.mean(each, axis=0), atol=1e-5)
    assert np.abs(each[0] - averaged).max() > 1e-3


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize(
    ("architecture", "trainable", "train_norm"),
    [
        ("stem", True, True),
        ("stem", True, False),
        ("stem", False, True),
        ("stem", False, False),
        ("efficientnet_lite0", False, True),  # computed in pieces of the batch
    ],
)
def test_trainable_and_train_norm_decide_what_is_updated(
    architecture, trainable, train_norm
):
    variables = photo_variables("region_residual", architecture)
    model = photo_encoder(
        "region_residual",
        architecture,
        train=True,
        trainable=trainable,
        train_norm=train_norm,
    )

    def total(params):
        embedded, updated = model.apply(
            variables | {"params": params}, {"image": PHOTOS}, mutable=["batch_stats"]
        )
        return jnp.square(embedded).sum(), updated["batch_stats"]

    gradients, updated = jax.jit(jax.grad(total, has_aux=True))(variables["params"])
    moved = {part: any_nonzero(gradients[part]) for part in gradients}
    assert moved == {"backbone": trainable, "encoder": True}
    before = variables["batch_stats"]
    renewed = {
        part: any_nonzero(jax.tree.map(jnp.subtract, updated[part], before[part]))
        for part in before
    }
    assert renewed == {"backbone": trainable and train_norm, "encoder": True}


def any_nonzero(tree):
    return any(np.asarray(leaf).any() for leaf in jax.tree.leaves(tree))
