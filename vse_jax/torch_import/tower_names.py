"""Names of our transformer towers' parameters in Hugging Face's files."""

import re

from vse_jax.models.transformers.sizes import TextSizes

Path = tuple[str, ...]

# Names of a text tower's sizes in `config.json`.
SIZES = TextSizes(
    layers="num_hidden_layers",
    dim="hidden_size",
    heads="num_attention_heads",
    mlp_dim="intermediate_size",
    positions="max_position_embeddings",
    vocabulary_size="vocab_size",
    activation="hidden_act",
    epsilon="layer_norm_eps",
    padding="pad_token_id",
)

_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "embedding": "weight"}
# CLIP and SigLIP. Parts of our paths, and what they are there.
_CLIP = {
    "patches": "embeddings.patch_embedding",
    "class_token": "embeddings.class_embedding",
    "positions": "embeddings.position_embedding.weight",
    "pre_norm": "pre_layrnorm",  # a misspelling of their code
    "norm": "post_layernorm",
    "block": "encoder.layers",
    "norm_1": "layer_norm1",
    "norm_2": "layer_norm2",
    "attention/query": "self_attn.q_proj",
    "attention/key": "self_attn.k_proj",
    "attention/value": "self_attn.v_proj",
    "attention/out": "self_attn.out_proj",
    "mlp/hidden": "mlp.fc1",
    "mlp/out": "mlp.fc2",
    "head/probe": "head.probe",
    "head/attention/out": "head.attention.out_proj",
    "head/norm": "head.layernorm",
    "head/mlp/hidden": "head.mlp.fc1",
    "head/mlp/out": "head.mlp.fc2",
}
# Their text towers, where these differ.
_TEXT = _CLIP | {
    "words": "embeddings.token_embedding",
    "norm": "final_layer_norm",
}
_DINOV2 = {
    "patches": "embeddings.patch_embeddings.projection",
    "class_token": "embeddings.cls_token",
    "registers": "embeddings.register_tokens",
    "positions": "embeddings.position_embeddings",
    "norm": "layernorm",
    "block": "encoder.layer",
    "norm_1": "norm1",
    "norm_2": "norm2",
    "scale_1": "layer_scale1.lambda1",
    "scale_2": "layer_scale2.lambda1",
    "attention/query": "attention.attention.query",
    "attention/key": "attention.attention.key",
    "attention/value": "attention.attention.value",
    "attention/out": "attention.output.dense",
    "mlp/hidden": "mlp.fc1",
    "mlp/out": "mlp.fc2",
}
_GATED = {"mlp/hidden": "mlp.weights_in", "mlp/out": "mlp.weights_out"}
_TEXT_PARTS = (
    ("norm_1",),
    ("norm_2",),
    *(("attention", name) for name in ("query", "key", "value", "out")),
    ("mlp", "hidden"),
    ("mlp", "out"),
)
# PyTorch keeps the three projections of an attention in one array.
_IN_PROJECTION = {"query": 0, "key": 1, "value": 2}


def vision_names(family: str, *, gated: bool = False) -> dict[str, str]:
    """Returns the table of `their_name` for a vision transformer.

    Args:
      family: one of `FAMILIES`.
      gated: whether its MLPs have gates.
    """
    if family != "dinov2":
        return _CLIP
    return _DINOV2 | _GATED if gated else _DINOV2


def text_names(layers: int) -> dict[str, Path]:
    """Returns our paths of the parameters of CLIP's and SigLIP's text towers.

    Args:
      layers: number of blocks.

    Returns:
      Paths by Hugging Face's names.
    """
    paths = [("words", "embedding"), ("positions",), *_with_leaves(("norm",), "scale")]
    for i in range(layers):
        for part in _TEXT_PARTS:
            leaf = "scale" if part[0].startswith("norm") else "kernel"
            paths += _with_leaves((f"block_{i}", *part), leaf)
    return {their_name(path, _TEXT): path for path in paths}


def _with_leaves(scope, leaf):
    return [(*scope, leaf), (*scope, "bias")]


def their_name(path: Path, table: dict[str, str]) -> str:
    """Returns Hugging Face's name of one of our parameters.

    A part of an array has its number in brackets, as in `in_proj_weight[0]`.

    Args:
      path: path of the parameter below `params`.
      table: see `vision_names`.
    """
    whole = "/".join(path)
    in_projection = re.fullmatch(r"head/attention/(query|key|value)/(\w+)", whole)
    if in_projection:
        part, leaf = in_projection.groups()
        return f"head.attention.in_proj_{_LEAVES[leaf]}[{_IN_PROJECTION[part]}]"
    block = re.fullmatch(r"block_(\d+)/(.+)", whole)
    prefix, rest = "", whole
    if block:
        prefix, rest = f"{table['block']}.{block[1]}.", block[2]
    if rest in table:
        return prefix + table[rest]
    scope, _, leaf = rest.rpartition("/")
    return f"{prefix}{table[scope]}.{_LEAVES[leaf]}"
