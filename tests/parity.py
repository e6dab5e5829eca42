"""Golden data of the published PyTorch models, and its conversion to our names."""

import os
import pathlib

import jax
import ml_collections
import numpy as np
import pytest
from flax import traverse_util

from vse_jax import parallel
from vse_jax.global_batch import global_costs
from vse_jax.models.vse import VSE
from vse_jax.torch_import import parameter_names

_PLACES = (
    os.environ.get("VSE_PARITY_DIR", ""),
    pathlib.Path(__file__).parent / "testdata" / "parity",
)


def load(name: str) -> dict[str, np.ndarray]:
    """Reads the arrays of a golden file."""
    return read(path_of(f"{name}.npz"))


def read(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Reads all arrays of a file."""
    with np.load(path) as arrays:
        return {key: arrays[key] for key in arrays.files}


def path_of(name: str) -> pathlib.Path:
    """Returns the path of a golden file; fails the test if it does not exist."""
    for place in filter(None, _PLACES):
        path = pathlib.Path(place) / name
        if path.exists():
            return path
    pytest.fail(f"no golden file {name} in {_PLACES[1]}")


def variables(golden: dict, prefix: str) -> dict:
    """Converts the arrays whose names begin with `prefix/` to our variables.

    Returns:
      Nested dicts under `params` and `batch_stats`.
    """
    return parameter_names.variables(
        {
            name.removeprefix(f"{prefix}/").replace("gpool", "txt.gpool")
            if name.startswith(f"{prefix}/gpool")  # in the file of the pooling only
            else name.removeprefix(f"{prefix}/"): array
            for name, array in golden.items()
            if name.startswith(f"{prefix}/")
        }
    )


def batch(golden: dict) -> dict[str, np.ndarray]:
    """Returns the inputs of a golden file as a batch."""
    images = golden["in/images"]
    pairs = {
        "tokens": golden["in/captions"].astype(np.int32),
        "token_count": golden["in/caption_lengths"],
        "image_id": np.arange(len(images), dtype=np.int32),
    }
    if images.ndim == 2:
        return pairs | {"feature": images}
    return pairs | {"regions": images, "region_count": golden["in/image_lengths"]}


def bert_config(golden: dict) -> dict:
    """Returns the `config.json` of the BERT in a golden file."""
    shapes = {name: array.shape for name, array in golden.items()}
    prefix = "param/txt.bert."
    rows, dim = shapes[f"{prefix}embeddings.word_embeddings.weight"]
    stated = {
        name.removeprefix("cfg/"): array.item()
        for name, array in golden.items()
        if name.startswith("cfg/") and array.ndim == 0
    }
    return stated | {
        "hidden_size": dim,
        "vocab_size": rows,
        "max_position_embeddings": len(
            golden[f"{prefix}embeddings.position_embeddings.weight"]
        ),
        "intermediate_size": len(
            golden[f"{prefix}encoder.layer.0.intermediate.dense.weight"]
        ),
        "num_hidden_layers": sum(
            name.endswith("attention.self.query.weight") for name in golden
        ),
    }


def model(golden: dict, image_encoder: str, text_encoder: str, **options) -> VSE:
    """Returns a model with the sizes of a golden file's arrays."""
    vocabulary_size, word_dim = golden["param/txt.embed.weight"].shape
    return VSE(
        image_encoder=image_encoder,
        text_encoder=text_encoder,
        vocabulary_size=vocabulary_size,
        word_dim=word_dim,
        embed_dim=len(golden["param/img.fc.weight"]),
        **options,
    )


def loss_settings(**options) -> ml_collections.ConfigDict:
    """Returns `config.loss` with the published defaults."""
    defaults = {
        "name": "triplet",
        "margin": 0.2,
        "epsilon": 0.01,
        "similarity": "cosine",
        "reduction": "mean",
    }
    return ml_collections.ConfigDict(defaults | options)


def batch_loss(images, captions, settings, mining, image_id=None) -> jax.Array:
    """Computes the loss of a whole batch on one device."""
    if image_id is None:
        image_id = np.arange(len(images), dtype=np.int32)

    def of_device(images, captions, image_id):
        costs = global_costs(images, captions, image_id, settings, mining)
        return sum(direction.cost.sum() for direction in costs)

    one_device = jax.vmap(of_device, axis_name=parallel.AXIS)
    total = one_device(images[None], captions[None], image_id[None])[0]
    return total / (2 * len(images)) if settings.reduction == "mean" else total


def assert_trees_close(actual, expected, *, rtol=0.0, atol):
    """Compares nested dicts of arrays; names the path of arrays that differ."""
    actual = traverse_util.flatten_dict(actual, sep=".")
    expected = traverse_util.flatten_dict(expected, sep=".")
    assert actual.keys() == expected.keys()
    for path, value in expected.items():
        np.testing.assert_allclose(
            actual[path], value, rtol=rtol, atol=atol, err_msg=path
        )
