"""Folders in Hugging Face's layout: weights, tokenizers, and what is refused."""

import importlib.metadata
import json
import types

import numpy as np
import pytest
import safetensors.numpy
import torch

from tests import malicious, pretrained_files
from vse_jax.errors import InputError
from vse_jax.torch_import import (
    pretrained_folder,
    resolve,
    text_weights,
    tokenizer_files,
)


@pytest.fixture
def folder(tmp_path):
    return pretrained_files.write_bert(tmp_path / "bert")


@pytest.fixture
def expected(folder):
    return safetensors.numpy.load_file(folder / "model.safetensors")


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)


def of_bert(config, folder):
    """Resolves the configuration of a run with these weights."""
    config.model.text_encoder, config.model.text_weights = "bert", str(folder)
    return resolve.resolved(config)


def message_of(function, *arguments):
    with pytest.raises(InputError) as info:
        function(*arguments)
    assert "\n" not in str(info.value)
    return str(info.value)


def test_folder_and_file_are_the_same_model(folder, expected):
    for weights in (folder, folder / "model.safetensors"):
        found = pretrained_folder.read(str(weights))
        assert found.folder == folder
        assert found.config["num_hidden_layers"] == 2
        assert_same(found.arrays, expected)


def test_a_folder_with_the_name_of_a_file(folder, expected):
    named = folder.rename(folder.with_name("odd.bin"))
    found = pretrained_folder.read(str(named))
    assert found.folder == named
    assert_same(found.arrays, expected)


@pytest.mark.parametrize("wrapped", [False, True])
def test_file_of_pytorch(folder, expected, wrapped):
    (folder / "model.safetensors").unlink()
    state = {name: torch.from_numpy(array) for name, array in expected.items()}
    content = {"state_dict": state} if wrapped else state
    torch.save(content, folder / "pytorch_model.bin")
    assert_same(pretrained_folder.read(str(folder)).arrays, expected)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.module.", "model._orig_mod."])
def test_prefixes_of_training_code_are_removed(folder, expected, prefix):
    arrays = {f"{prefix}{name}": array for name, array in expected.items()}
    safetensors.numpy.save_file(arrays, folder / "model.safetensors")
    assert_same(pretrained_folder.read(str(folder)).arrays, expected)


def test_numbers_as_names_are_refused(folder):
    torch.save({0: torch.ones(1), "a": torch.ones(1)}, folder / "weights.pth")
    message = message_of(pretrained_folder.read, str(folder / "weights.pth"))
    assert "weights.pth: contains no named parameters" in message


def test_weights_in_shards(folder, expected):
    (folder / "model.safetensors").unlink()
    names = sorted(expected)
    shards = {"a.safetensors": names[:7], "b.safetensors": names[7:]}
    for file, some in shards.items():
        arrays = {name: expected[name] for name in some}
        safetensors.numpy.save_file(arrays, folder / file)
    table = {name: file for file, some in shards.items() for name in some}
    index = {"metadata": {}, "weight_map": table}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert_same(pretrained_folder.read(str(folder)).arrays, expected)


@pytest.mark.parametrize("table", [None, [], {}, {"a": 3}, {"a": "no.safetensors"}])
def test_invalid_index_of_shards(folder, table):
    (folder / "model.safetensors").unlink()
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": table}))
    message = message_of(pretrained_folder.read, str(folder))
    if table == {"a": "no.safetensors"}:
        assert message.startswith(f"{folder}/no.safetensors: cannot be read")
    else:
        assert message.startswith(f"{path}: its weight_map does not name the files")


def test_package(folder, expected, monkeypatch):
    paths = [path.relative_to(folder.parent) for path in folder.iterdir()]
    files = [importlib.metadata.PackagePath(path) for path in paths]
    package = types.SimpleNamespace(
        files=files, locate_file=lambda path: folder.parent / path
    )
    for file in files:
        file.dist = package
    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: package)
    found = pretrained_folder.read("tiny-bert")
    assert found.folder == folder
    assert_same(found.arrays, expected)


def test_missing_folder():
    message = message_of(pretrained_folder.read, "no/such/folder")
    assert message.startswith("no/such/folder: no such folder")
    message = message_of(pretrained_folder.read, "no-such")
    assert message == (
        "no-such: neither a folder with config.json nor an installed Python package; "
        "give the path of the folder; if it is a package, pip install no-such"
    )


def test_missing_config(folder):
    (folder / "config.json").unlink()
    message = message_of(pretrained_folder.read, str(folder))
    assert message.startswith(f"{folder}: has no config.json")


@pytest.mark.parametrize("content", ["[1]", "{", "", '{"a": ' + "[" * 100_000])
def test_damaged_config(folder, content):
    (folder / "config.json").write_text(content)
    message = message_of(pretrained_folder.read, str(folder))
    assert message == f"{folder}/config.json: not a JSON object; download it again"


def test_missing_weights(folder):
    (folder / "model.safetensors").unlink()
    message = message_of(pretrained_folder.read, str(folder))
    assert message.startswith(f"{folder}: has no model.safetensors")


def test_code_in_weights_is_not_run(folder, tmp_path):
    (folder / "model.safetensors").unlink()
    marker = tmp_path / "marker"
    torch.save(malicious.Malicious(marker), folder / "pytorch_model.bin")
    message_of(pretrained_folder.read, str(folder))
    assert not marker.exists()


@pytest.mark.parametrize("name", ["tokenizer.json", "vocab.txt"])
def test_missing_tokenizer(folder, config, name):
    (folder / "vocab.txt").unlink()
    message = message_of(tokenizer_files.read, str(folder))
    assert message.startswith(f"{folder}: has no tokenizer")
    assert name in message


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"a\nb\n", "lacks [UNK], [CLS], [SEP]"),
        (b"[UNK]\n[CLS]\n[SEP]\na\na\n", "repeats a word piece"),
        (b"[UNK]\n\xff\xfe\n", "not a text in UTF-8"),
    ],
)
def test_invalid_word_pieces(folder, content, expected):
    (folder / "vocab.txt").write_bytes(content)
    message = message_of(tokenizer_files.read, str(folder))
    assert message.startswith(f"{folder}/vocab.txt: {expected}")


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
@pytest.mark.parametrize("kind", ["BertJapaneseTokenizer", "RobertaTokenizer", 3, []])
def test_word_pieces_of_another_class_of_tokenizer(folder, file, kind):
    """Such as a Japanese BERT, whose words have no spaces between them."""
    (folder / file).write_text(json.dumps({"tokenizer_class": kind}))
    for weights in (folder, folder / "vocab.txt"):
        message = message_of(tokenizer_files.read, str(weights))
        assert message.startswith(f"{folder}/{file}: its tokenizer_class is {kind!r}")
        assert f"{folder}/vocab.txt" in message


@pytest.mark.parametrize(
    "kind", ["BertTokenizer", "BertTokenizerFast", "DistilBertTokenizer", None]
)
def test_classes_with_the_word_pieces_of_bert(folder, kind):
    expected = tokenizer_files.read(str(folder)).encode("cats")
    options = {"tokenizer_class": kind}
    (folder / "tokenizer_config.json").write_text(json.dumps(options))
    assert tokenizer_files.read(str(folder)).encode("cats").tolist() == list(expected)


@pytest.mark.parametrize(
    ("options", "pieces", "lowered"),
    [
        ({}, ["a"], True),
        ({}, ["a", "A"], False),
        ({"do_lower_case": False}, ["a"], False),
        ({"do_lower_case": True}, ["a", "A"], True),
    ],
)
def test_case_of_word_pieces(folder, options, pieces, lowered):
    (folder / "tokenizer_config.json").write_text(json.dumps(options))
    lines = [*pretrained_files.SPECIAL, *pieces]
    (folder / "vocab.txt").write_text("\r\n".join(lines) + "\r\n")
    tokens = tokenizer_files.read(str(folder))
    number = tokens.encode("A")[1]
    assert number == (lines.index("a") if lowered else _or_unknown(lines, "A"))


def _or_unknown(lines, piece):
    return lines.index(piece) if piece in lines else lines.index("[UNK]")


def test_tokenizer_of_another_model(folder, config):
    pieces = pretrained_files.word_pieces()
    resolved = of_bert(config, folder)
    for content in ("\n".join(pieces[:-3]), "\n".join([*pieces, "more"])):
        (folder / "vocab.txt").write_text(content)
        count = len(content.split())
        fits = count < len(pieces)  # rows may be unused
        if fits:
            assert len(text_weights.read_tokenizer(resolved)) == count
        else:
            message = message_of(text_weights.read_tokenizer, resolved)
            assert message.startswith(f"{folder}: its tokenizer has {count} tokens")
            assert str(len(pieces)) in message


def test_weights_of_another_kind_of_model(folder, config):
    options = pretrained_files.OPTIONS | {"model_type": "roberta", "vocab_size": 34}
    (folder / "config.json").write_text(json.dumps(options))
    message = message_of(of_bert, config, folder)
    assert message.startswith(f"{folder}/config.json: its model_type is 'roberta'")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"hidden_size": None}, "hidden_size"),
        ({"hidden_act": "swish2"}, "activation is 'swish2'"),
        ({"num_attention_heads": 5}, "multiple of config.model.text_tower.heads"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type"),
        ({"hidden_size": "wide"}, "its hidden_size is 'wide'; expected int"),
        ({"is_decoder": True}, "is_decoder is true"),
        ({"is_causal": True}, "is_causal is true"),
        ({"model_type": None}, 'add "model_type": "bert" to the file'),
        (
            {"num_hidden_layers": 10**7},
            "layers is 10000000; expected at most 1000",
        ),
        ({"vocab_size": 10**12}, "vocab_size is 1000000000000; expected at most"),
        ({"layer_norm_eps": 1e300}, "layer_norm_eps is 1e+300; expected at most"),
        ({"num_hidden_layers": -1}, "layers is -1; expected a number of at least 1"),
        ({"vocab_size": -1}, "size is -1; expected a number of at least 0"),
    ],
)
def test_invalid_options_of_the_weights(folder, config, change, expected):
    options = pretrained_files.OPTIONS | {"vocab_size": 34} | change
    options = {name: value for name, value in options.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(options))
    assert expected in message_of(of_bert, config, folder)


def test_options_that_old_files_leave_out(folder, config):
    """Such as the small BERTs of 2019; `transformers` has the same defaults."""
    options = pretrained_files.OPTIONS | {"vocab_size": 34}
    for name in ("layer_norm_eps", "hidden_act"):
        options.pop(name)
    (folder / "config.json").write_text(json.dumps(options))
    tower = of_bert(config, folder).model.text_tower
    assert (tower.epsilon, tower.activation) == (1e-12, "gelu")


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ([3], "config.json: its text_config is [3]; expected a JSON object"),
        ({"pad_token_id": -1}, "config.json: its padding is the token -1"),
        ({"vocab_size": 1.5}, "config.json: its vocab_size is 1.5; expected int"),
    ],
)
def test_invalid_options_of_a_text_tower(folder, section, expected):
    content = {"model_type": "siglip", "text_config": section}
    (folder / "config.json").write_text(json.dumps(content))
    read = text_weights.read_sizes
    assert expected in message_of(read, "siglip_text", str(folder))


def test_clip_needs_no_padding(folder):
    content = {"model_type": "clip", "text_config": {"pad_token_id": None}}
    (folder / "config.json").write_text(json.dumps(content))
    assert text_weights.read_sizes("clip_text", str(folder))["positions"] == 77


def test_sizes_that_contradict_the_weights_are_refused(folder, config):
    """Another number of heads would fit the shapes, and compute something else."""
    config.model.text_tower.heads = 4
    message = message_of(of_bert, config, folder)
    assert "config.model.text_tower.heads is 4, but it is 3 in the weights" in message


def test_random_weights_need_all_sizes(config):
    config.model.text_encoder = "bert"
    message = message_of(resolve.resolved, config)
    assert "config.model.text_tower.layers is 0" in message
    sizes = {"layers": 1, "dim": 4, "heads": 2, "mlp_dim": 4, "positions": 8}
    config.model.text_tower.update(sizes | {"activation": "gelu", "epsilon": 1e-6})
    assert resolve.resolved(config).model.text_tower.layers == 1


def load(config, folder):
    return text_weights.load(of_bert(config, folder))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda a: a.pop("encoder.layer.1.output.dense.bias"), "missing: encoder."),
        (lambda a: a.update(extra=np.zeros(2)), "unexpected: extra"),
        (
            lambda a: a.update({"embeddings.LayerNorm.bias": np.zeros(3)}),
            "mis-shaped: embeddings.LayerNorm.bias (3,) instead of (12,)",
        ),
        (
            lambda a: a.update(
                {"encoder.layer.0.intermediate.dense.weight": np.zeros((12, 20))}
            ),
            "dense.weight (12, 20) instead of (20, 12)",
        ),
    ],
)
def test_wrong_parameters_are_listed(folder, config, expected, change):
    arrays = pretrained_files.bert_arrays(
        pretrained_files.OPTIONS | {"vocab_size": len(pretrained_files.word_pieces())}
    )
    change(arrays)
    safetensors.numpy.save_file(arrays, folder / "model.safetensors")
    message = message_of(load, config, folder)
    assert message.startswith(f"{folder}: not the weights of the bert")
    assert expected in message


def test_names_of_larger_and_older_models(folder, config, expected):
    plain = load(config, folder)
    renamed = {
        "bert." + name.replace("LayerNorm.weight", "LayerNorm.gamma"): array
        for name, array in expected.items()
    }
    heads = {"cls.predictions.bias": np.zeros(5), "classifier.weight": np.zeros(2)}
    safetensors.numpy.save_file(renamed | heads, folder / "model.safetensors")
    again = load(config, folder)
    np.testing.assert_array_equal(again["norm"]["scale"], plain["norm"]["scale"])
    np.testing.assert_array_equal(
        again["layer_1"]["out"]["kernel"],
        expected["encoder.layer.1.output.dense.weight"].T,
    )
