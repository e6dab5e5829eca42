"""Checkpoints of vse_infty with BERT, and VSE-infinity's golden text encoder."""

import argparse
import json
import re

import jax
import numpy as np
import pytest
import torch

from tests import parity, pretrained_files
from tests.torch_import import vse_infty_files
from vse_jax import evaluate
from vse_jax.checkpoint import Checkpoints
from vse_jax.data.text import vocabularies
from vse_jax.errors import InputError
from vse_jax.models.vse import create_model
from vse_jax.run_config import from_json
from vse_jax.torch_import import checkpoint_file

REGION_DIM = 6


@pytest.fixture(scope="module")
def golden():
    """The text encoder's golden data, and an image encoder with its dimensions."""
    text = parity.load("vse_infty_bert_eval")
    torch.manual_seed(0)
    embed = len(text["param/txt.linear.bias"])
    return text, vse_infty_files.Regions(REGION_DIM, embed).eval()


@pytest.fixture
def checkpoint(golden, tmp_path):
    """A file as vse_infty saves it, with both encoders."""
    text, images = golden
    prefix = "param/txt."
    captions = {
        name.removeprefix(prefix): torch.from_numpy(array)
        for name, array in text.items()
        if name.startswith(prefix)
    }
    captions["bert.embeddings.position_ids"] = torch.arange(40)[None]
    branches = [
        {f"module.{name}": tensor for name, tensor in branch.items()}
        for branch in (images.state_dict(), captions)
    ]
    options = argparse.Namespace(precomp_enc_type="basic", max_violation=True)
    content = {"model": branches, "opt": options, "Eiters": 9, "epoch": 1}
    torch.save(content, tmp_path / "model_best.pth")
    return tmp_path / "model_best.pth"


@pytest.fixture
def tokenizer(golden, tmp_path):
    """A folder with a tokenizer of as many tokens as the golden model has."""
    stated = parity.bert_config(golden[0])
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    pieces = [*pretrained_files.word_pieces()]
    pieces += [f"piece{i}" for i in range(stated["vocab_size"] - len(pieces))]
    (folder / "vocab.txt").write_text("\n".join(pieces))
    (folder / "config.json").write_text(json.dumps(stated))
    return folder


def imported(config, checkpoint, tokenizer, workdir):
    checkpoint_file.import_checkpoint(
        config, str(workdir), str(checkpoint), str(tokenizer)
    )
    checkpoints = Checkpoints(workdir, read_only=True)
    return checkpoints.restore(checkpoints.steps())


@pytest.mark.parametrize("name", ["", "vocab.txt"])
def test_parity_of_imported_captions(
    golden, checkpoint, tokenizer, config, tmp_path, name
):
    config.model.text_weights = "of another configuration"
    path = tokenizer / name if name else tokenizer
    restored = imported(config, checkpoint, path, tmp_path / "run")
    config = from_json(restored.run["config"])
    assert config.model.text_encoder == "bert"
    assert config.model.text_weights == ""
    assert config.model.image_encoder == "region_parallel"
    tokens = vocabularies.of_run(restored.run)
    assert tokens.words[: len(pretrained_files.word_pieces())] == (
        pretrained_files.word_pieces()
    )
    model = create_model(config, len(tokens), train=False)
    text, images = golden
    count = len(text["in/captions"])
    regions = np.random.default_rng(0).normal(size=(count, 3, REGION_DIM))
    batch = {
        "regions": regions.astype(np.float32),
        "region_count": np.full(count, 3, np.int32),
        "tokens": text["in/captions"].astype(np.int32),
        "token_count": text["in/caption_lengths"],
    }
    with torch.no_grad():
        expected = images(torch.from_numpy(batch["regions"])).numpy()
    embedded = [
        jax.jit(model.apply, static_argnames="method")(
            restored.variables, batch, method=method
        )
        for method in ("embed_images", "embed_captions")
    ]
    np.testing.assert_allclose(embedded[0], expected, atol=1e-5)
    np.testing.assert_allclose(embedded[1], text["out/caption_emb"], atol=1e-5)


def test_imported_model_is_evaluated(checkpoint, tokenizer, config, tmp_path):
    root = tmp_path / "data"
    root.mkdir()
    for split in ("train", "dev"):
        regions = np.random.default_rng(0).normal(size=(4, 3, REGION_DIM))
        np.save(root / f"{split}_ims.npy", regions.astype(np.float32))
        captions = [f"a small red circle {'above' * (i % 3)}" for i in range(20)]
        (root / f"{split}_caps.txt").write_text("\n".join(captions))
    config.data.root, config.data.data_dir = str(root), str(tmp_path / "prepared")
    imported(config, checkpoint, tokenizer, tmp_path / "run")
    metrics = evaluate.evaluate(str(tmp_path / "run"), "dev")
    assert metrics["i2t_r10"] >= 0


def refusal(config, checkpoint, tokenizer, tmp_path):
    with pytest.raises(InputError) as info:
        imported(config, checkpoint, tokenizer, tmp_path / "run")
    message = str(info.value)
    assert "\n" not in message
    assert not (tmp_path / "run").exists() or not any((tmp_path / "run").iterdir())
    return message


def test_heads_must_be_known(golden, checkpoint, tokenizer, config, tmp_path):
    """Not even of 384 dimensions, a multiple of 64, of which MiniLM's heads have 32."""
    (tokenizer / "config.json").unlink()
    dim = parity.bert_config(golden[0])["hidden_size"]
    message = refusal(config, checkpoint, tokenizer, tmp_path)
    assert f"{dim} dimensions" in message
    assert "config.json" in message


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        # All large and base BERTs have one vocabulary, and their heads differ.
        ({"hidden_size": 95}, "its hidden_size is 95, but the BERT in .* has"),
        ({"num_hidden_layers": 23}, "its num_hidden_layers is 23, but the BERT in"),
        ({"num_attention_heads": -4}, "text_tower.heads is -4; expected a number of"),
        ({"num_attention_heads": "4"}, "its num_attention_heads is '4'; expected int"),
        ({"hidden_act": "snake"}, "text_tower.activation is 'snake'; expected one of"),
        ({"layer_norm_eps": None}, "its layer_norm_eps is None; expected float"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type is"),
    ],
)
def test_config_of_another_model(
    checkpoint, tokenizer, config, tmp_path, change, expected
):
    path = tokenizer / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    message = refusal(config, checkpoint, tokenizer, tmp_path)
    assert message.startswith(f"{path}: ")
    assert re.search(expected, message), message


def test_activation_and_epsilon_are_those_of_the_config(
    golden, checkpoint, tokenizer, config, tmp_path
):
    path = tokenizer / "config.json"
    stated = {"hidden_act": "gelu_new", "layer_norm_eps": 1e-5}
    path.write_text(json.dumps(json.loads(path.read_text()) | stated))
    run = imported(config, checkpoint, tokenizer, tmp_path / "run").run
    tower = run["config"]["model"]["text_tower"]
    assert (tower["activation"], tower["epsilon"]) == ("gelu_new", 1e-5)
    assert tower["heads"] == int(golden[0]["cfg/num_attention_heads"])


def test_tokenizer_of_another_model(golden, checkpoint, tokenizer, config, tmp_path):
    pieces = [*pretrained_files.word_pieces(), *(f"p{i}" for i in range(500))]
    (tokenizer / "vocab.txt").write_text("\n".join(pieces))
    message = refusal(config, checkpoint, tokenizer, tmp_path)
    assert f"{len(pieces)} tokens" in message
    assert str(parity.bert_config(golden[0])["vocab_size"]) in message


WORDS = "embeddings.word_embeddings.weight"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda text: text.pop("module.linear.weight"), "missing .*txt.linear.weight"),
        (
            lambda text: text.pop("module.bert.embeddings.position_embeddings.weight"),
            "mis-shaped parameters: txt.bert.embeddings.position_embeddings.weight",
        ),
        (
            lambda text: text.pop("module.bert.encoder.layer.1.output.dense.bias"),
            "missing: encoder.layer.1.output.dense.bias",
        ),
        (
            lambda text: text.update({f"module.bert.{WORDS}": torch.zeros(0, 12)}),
            f"missing or mis-shaped parameters: txt.bert.{WORDS}",
        ),
        (
            lambda text: text.update({"module.bert.extra": torch.zeros(2)}),
            "unexpected: extra",
        ),
        (
            lambda text: text.update({"module.rnn.weight_ih_l0": torch.zeros(2)}),
            "not those of the model.*unexpected: .*gru",
        ),
    ],
)
def test_wrong_parameters_are_named(
    checkpoint, tokenizer, config, tmp_path, change, expected
):
    content = torch.load(checkpoint, weights_only=False)
    change(content["model"][1])
    torch.save(content, checkpoint)
    message = refusal(config, checkpoint, tokenizer, tmp_path)
    assert re.search(expected, message), message
