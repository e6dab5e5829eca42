import json
import re
import shutil

import numpy as np
import pytest
import safetensors.numpy
import torch

from tests.models.backbones import hugging_face
from vse_jax.errors import InputError
from vse_jax.torch_import import text_weights, vision_weights

transformers = hugging_face.transformers


@pytest.fixture(scope="module", params=hugging_face.KINDS)
def kind(request):
    return request.param


@pytest.fixture
def folder(kind, tmp_path):
    return hugging_face.save(hugging_face.create(kind), tmp_path / kind)


def rewrite_config(folder, **options):
    path = f"{folder}/config.json"
    with open(path) as file:
        content = json.load(file) | options
    with open(path, "w") as file:
        json.dump(content, file)


def refusal(function, *args, **kwargs):
    with pytest.raises(InputError) as error:
        function(*args, **kwargs)
    message = str(error.value)
    assert "\n" not in message
    return message


def test_defaults_are_those_of_transformers(kind, folder):
    """Published files leave out what equals the defaults."""
    name = hugging_face.NAMES[kind]
    complete = getattr(transformers, f"{hugging_face.KINDS[kind][1]}Config")()
    with open(f"{folder}/config.json", "w") as file:
        json.dump({"model_type": complete.model_type}, file)
    sizes = vision_weights.read_sizes(name, folder)
    assert sizes["dim"] == complete.hidden_size
    assert sizes["layers"] == complete.num_hidden_layers
    assert sizes["heads"] == complete.num_attention_heads
    assert sizes["patch"] == complete.patch_size
    assert sizes["image_size"] == complete.image_size
    assert sizes["activation"] == complete.hidden_act
    assert sizes["epsilon"] == complete.layer_norm_eps
    assert sizes["registers"] == getattr(complete, "num_register_tokens", 0)
    mlp_dim = getattr(complete, "intermediate_size", 0)
    assert sizes["mlp_dim"] == mlp_dim or complete.hidden_size * complete.mlp_ratio


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_a_whole_model_has_the_same_tower(kind, folder, tmp_path):
    name = hugging_face.NAMES[kind]
    tower = hugging_face.create(kind)
    cls = {"clip": "CLIP", "siglip": "Siglip"}[kind]
    config = getattr(transformers, f"{cls}Config")(
        vision_config=tower.config.to_dict(),
        text_config={"hidden_size": 8, "num_attention_heads": 2, "vocab_size": 9},
    )
    whole = getattr(transformers, f"{cls}Model")(config)
    whole.vision_model.load_state_dict(tower.state_dict())
    path = hugging_face.save(whole, tmp_path / "whole")
    assert vision_weights.read_sizes(name, path) == vision_weights.read_sizes(
        name, folder
    )
    sizes = hugging_face.sizes_of(kind, folder)
    for pooled in (False, True):
        ours, theirs = (
            vision_weights.load(name, given, sizes, pooled=pooled)
            for given in (path, folder)
        )
        assert_same(ours, theirs)


def assert_same(actual, expected):
    flat, other = (
        {str(path): leaf for path, leaf in hugging_face.leaves(tree)}
        for tree in (actual, expected)
    )
    assert flat.keys() == other.keys()
    for path, leaf in flat.items():
        np.testing.assert_array_equal(leaf, other[path])


def test_old_sections_replace_the_others(tmp_path):
    """As in transformers; the options of a `..._dict` are complete with defaults."""
    sections = {
        "vision_config": {"hidden_act": "gelu", "hidden_size": 64, "patch_size": 16},
        "vision_config_dict": {"hidden_size": 96},
        "text_config": {"hidden_act": "gelu", "num_hidden_layers": 3},
        "text_config_dict": {"num_hidden_layers": 5},
    }
    content = {"model_type": "clip"} | sections
    (tmp_path / "config.json").write_text(json.dumps(content))
    expected = transformers.CLIPConfig(**json.loads(json.dumps(sections)))
    sizes = vision_weights.read_sizes("clip_vision", str(tmp_path))
    vision, text = expected.vision_config, expected.text_config
    assert (sizes["dim"], sizes["patch"]) == (vision.hidden_size, vision.patch_size)
    assert sizes["activation"] == vision.hidden_act == "quick_gelu"
    sizes = text_weights.read_sizes("clip_text", str(tmp_path))
    assert sizes["layers"] == text.num_hidden_layers == 5
    assert sizes["activation"] == text.hidden_act == "quick_gelu"


def test_other_models_are_refused(tmp_path):
    folder = hugging_face.save(hugging_face.create("dinov2"), tmp_path)
    message = refusal(vision_weights.read_sizes, "clip_vision", folder)
    assert message.startswith(f"{folder}/config.json: its model_type is 'dinov2'")
    assert message.endswith("set config.model.backbone.name to 'dinov2'")
    rewrite_config(folder, model_type="bert")
    message = refusal(vision_weights.read_sizes, "clip_vision", folder)
    assert message.endswith("choose the weights of such a model")


SPOILT = {
    "missing": (
        lambda a: a.pop("layernorm.weight"),
        r"missing: layernorm\.weight$",
    ),
    "unexpected": (
        lambda a: a.update({"encoder.layer.7.norm1.bias": a["layernorm.bias"]}),
        r"unexpected: encoder\.layer\.7\.norm1\.bias$",
    ),
    "mis-shaped": (
        lambda a: a.update(
            {"embeddings.cls_token": a["embeddings.cls_token"][..., 1:]}
        ),
        r"mis-shaped: embeddings\.cls_token \(31,\) instead of \(32,\)$",
    ),
}


@pytest.mark.parametrize("change", SPOILT)
def test_parameters_that_do_not_match_are_listed(change, tmp_path):
    spoil, expected = SPOILT[change]
    folder = hugging_face.save(hugging_face.create("dinov2"), tmp_path)
    sizes = hugging_face.sizes_of("dinov2", folder)
    path = tmp_path / "model.safetensors"
    arrays = safetensors.numpy.load_file(path)
    spoil(arrays)
    safetensors.numpy.save_file({n: a.copy() for n, a in arrays.items()}, path)
    message = refusal(vision_weights.load, "dinov2", folder, sizes, pooled=False)
    assert message.startswith(f"{folder}: not the weights of dinov2 with the sizes of")
    assert re.search(expected, message)


@pytest.mark.parametrize("kind", ["siglip"])
def test_a_missing_part_of_an_attention_is_named_as_in_the_file(kind, folder):
    sizes = hugging_face.sizes_of(kind, folder)
    path = f"{folder}/model.safetensors"
    arrays = safetensors.numpy.load_file(path)
    arrays.pop("head.attention.in_proj_bias")
    safetensors.numpy.save_file(arrays, path)
    message = refusal(vision_weights.load, "siglip_vision", folder, sizes, pooled=True)
    assert "missing: head.attention.in_proj_bias[0]" in message
    # Regions do not need it.
    vision_weights.load("siglip_vision", folder, sizes, pooled=False)


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("num_channels", 1, "num_channels is 1, which is not supported; expected 3"),
        ("qkv_bias", False, "qkv_bias is False, which is not supported"),
        ("patch_size", [16, 16], "patch_size is [16, 16]; expected a whole number"),
        ("num_hidden_layers", 0, "num_hidden_layers is 0; expected a whole number"),
        ("num_hidden_layers", 10**7, "num_hidden_layers is 10000000; expected a whole"),
        ("hidden_size", 10**30, "hidden_size is 1000000000000000000000000000000; ex"),
        ("mlp_ratio", 10**30, "mlp_ratio is 1000000000000000000000000000000; expect"),
        ("num_register_tokens", "4", "num_register_tokens is '4'; expected a whole"),
        ("mlp_ratio", "wide", "mlp_ratio is 'wide'; expected a number"),
        ("mlp_ratio", float("inf"), "mlp_ratio is inf; expected a number"),
        ("use_swiglu_ffn", "no", "use_swiglu_ffn is 'no', which is not supported"),
        ("layer_norm_eps", [1e-6], "layer_norm_eps is [1e-06]; expected a number"),
        ("hidden_act", 3, "hidden_act is 3; expected a name"),
        ("hidden_act", ["gelu"], "hidden_act is ['gelu']; expected a name"),
        ("layer_norm_eps", None, "layer_norm_eps is None; expected a number"),
        ("vision_config", [1], "its vision_config is [1]; expected a JSON object"),
        ("model_type", None, 'add "model_type": "dinov2" to the file'),
    ],
)
def test_unsupported_options_are_refused(option, value, expected, tmp_path):
    folder = hugging_face.save(hugging_face.create("dinov2"), tmp_path)
    rewrite_config(folder, **{option: value})
    assert expected in refusal(vision_weights.read_sizes, "dinov2", folder)


@pytest.mark.parametrize("kind", ["clip"])
def test_pytorch_files_and_float16(kind, folder, tmp_path):
    sizes = hugging_face.sizes_of(kind, folder)
    expected = vision_weights.load("clip_vision", folder, sizes, pooled=True)
    arrays = safetensors.numpy.load_file(f"{folder}/model.safetensors")
    # Older files have buffers too.
    tensors = {
        f"vision_model.{n}": torch.tensor(a).half().float() for n, a in arrays.items()
    } | {"vision_model.embeddings.position_ids": torch.arange(17)[None]}
    path = tmp_path / "pytorch_model.bin"
    torch.save(tensors, path)
    shutil.copy(f"{folder}/config.json", tmp_path)
    for weights in (str(tmp_path), str(path)):
        loaded = vision_weights.load("clip_vision", weights, sizes, pooled=True)
        for (name, leaf), (_, other) in zip(
            sorted(hugging_face.leaves(loaded)),
            sorted(hugging_face.leaves(expected)),
            strict=True,
        ):
            np.testing.assert_allclose(leaf, other, atol=2e-3, err_msg=str(name))
            assert leaf.dtype == np.float32


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_options_of_dinov2_are_not_those_of_others(kind, tmp_path):
    """Hugging Face's code ignores them too; registers would replace patches."""
    folder = hugging_face.save(hugging_face.create(kind), tmp_path)
    name = hugging_face.NAMES[kind]
    expected = vision_weights.read_sizes(name, folder)
    rewrite_config(
        folder, num_register_tokens=2, mlp_ratio=9, use_swiglu_ffn=True, qkv_bias=False
    )
    assert vision_weights.read_sizes(name, folder) == expected
