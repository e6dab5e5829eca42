"""The padding of captions: the same as that of transformers, or refused."""

import json

import pytest
import tokenizers

from vse_jax.errors import InputError
from vse_jax.torch_import import text_weights, tokenizer_padding

OPTIONS = {
    "tokenizer_class": "GemmaTokenizer",
    "padding_side": "right",
    "pad_token": "<pad>",
}
PIECES = ("<unk>", "<eos>", "a", "<pad>", "b", "</s>")


@pytest.fixture
def write(tmp_path):
    """Writes a tokenizer; only `<eos>` and `</s>` are added tokens."""

    def write(options, special=None, kind="bpe", padding=None):
        numbers = {piece: number for number, piece in enumerate(PIECES)}
        models = tokenizers.models
        model = models.BPE(numbers, [], unk_token="<unk>")
        if kind == "unigram":
            model = models.Unigram([(piece, -1.0) for piece in PIECES], 0)
        tokenizer = tokenizers.Tokenizer(model)
        tokenizer.add_special_tokens(["<eos>", "</s>"])
        if padding:
            tokenizer.enable_padding(**padding)
        tokenizer.save(str(tmp_path / "tokenizer.json"))
        options = {name: v for name, v in options.items() if v is not None}
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(options))
        if special is not None:
            (tmp_path / "special_tokens_map.json").write_text(json.dumps(special))
        config = {"model_type": "siglip", "text_config": {"vocab_size": len(PIECES)}}
        (tmp_path / "config.json").write_text(json.dumps(config))
        return str(tmp_path)

    return write


ADDED = {"__type": "AddedToken", "content": "</s>", "special": True}
PLAIN = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": None}
PADDED = {"pad_token": "</s>", "direction": "right"}
KINDS = {
    "usual": ({}, {}, 3),
    "an object": ({"pad_token": ADDED}, {}, 5),
    "added": ({"pad_token": "<eos>"}, {}, 1),
    "in the vocabulary": ({"pad_token": "a"}, {}, 2),
    "in a list": ({"pad_token": "b"}, {"kind": "unigram"}, 4),
    "of the class": ({"pad_token": None}, {}, 3),
    "of SigLIP": ({"tokenizer_class": "SiglipTokenizer", "pad_token": None}, {}, 5),
    "in the map": ({"pad_token": None}, {"special": {"pad_token": "b"}}, 4),
    "first in the map": ({}, {"special": {"pad_token": ADDED}}, 5),
    "not in the map": (
        {"added_tokens_decoder": {}},
        {"special": {"pad_token": "b"}},
        3,
    ),
    "in the padding": (PLAIN, {"padding": PADDED}, 5),
    "none": (PLAIN, {}, None),
}


@pytest.mark.parametrize("name", KINDS)
def test_token_of_the_padding(name, write):
    change, others, expected = KINDS[name]
    folder = write(OPTIONS | change, **others)
    assert tokenizer_padding.read(folder, is_read=True) == expected
    sizes = text_weights.read_sizes("siglip_text", folder)
    assert sizes["padding"] == (1 if expected is None else expected)
    transformers = pytest.importorskip("transformers")
    if OPTIONS["tokenizer_class"] == (OPTIONS | change)["tokenizer_class"]:
        theirs = transformers.AutoTokenizer.from_pretrained(folder)
        assert theirs.pad_token_id == expected


LEFT = {"padding": PADDED | {"direction": "left"}}
REFUSED = {
    "left": (
        {"padding_side": "left"},
        {},
        "tokenizer_config.json: its padding_side is 'left', but",
    ),
    "left of the class": (
        {"padding_side": None},
        {},
        "tokenizer_config.json: its tokenizer_class is 'GemmaTokenizer', whose",
    ),
    "left in the file": (
        PLAIN | {"padding_side": None},
        LEFT,
        "tokenizer.json: its padding's direction is 'Left'",
    ),
    "no side": ({"padding_side": 3}, {}, "its padding_side is 3"),
    "no token": ({"pad_token": "<none>"}, {}, "has no token '<none>', which is the"),
    "unknown class": (
        {"tokenizer_class": "OtherTokenizer", "pad_token": None},
        {},
        "its tokenizer_class is 'OtherTokenizer', but neither",
    ),
    "class is no text": (
        {"tokenizer_class": ["a"], "pad_token": None, "padding_side": None},
        {},
        "its tokenizer_class is ['a'], but",
    ),
    "no text": ({"pad_token": ["a"]}, {}, "no text as pad_token"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_paddings_are_refused(name, write):
    change, others, expected = REFUSED[name]
    folder = write(OPTIONS | change, **others)
    with pytest.raises(InputError) as error:
        text_weights.read_sizes("siglip_text", folder)
    message = str(error.value)
    assert message.startswith(folder)
    assert expected in message
    assert "\n" not in message


@pytest.mark.parametrize("name", ["left", "no token", "unknown class"])
def test_towers_that_ignore_the_padding_take_any(name, write):
    change, others, _ = REFUSED[name]
    folder = write(OPTIONS | change, **others)
    expected = 3 if name == "left" else None
    assert tokenizer_padding.read(folder, is_read=False) == expected


@pytest.mark.parametrize("is_read", [False, True])
def test_truncation_of_the_beginning_is_refused(is_read, write, tmp_path):
    folder = write(OPTIONS | {"truncation_side": "left"})
    with pytest.raises(InputError, match=r"tokenizer_config.json: truncates .* 'left'"):
        tokenizer_padding.read(folder, is_read=is_read)
    folder = write(OPTIONS)
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    content["truncation"] = {"direction": "Left"}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"tokenizer.json: truncates .* 'Left'"):
        tokenizer_padding.read(folder, is_read=is_read)
    write(OPTIONS | {"truncation_side": "right"})
    assert tokenizer_padding.read(folder, is_read=is_read) == 3


@pytest.mark.parametrize("content", [{"added_tokens": [{}]}, {"model": 3}])
def test_damaged_list_of_tokens(content, write, tmp_path):
    folder = write(OPTIONS)
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"tokenizer.json has no list of tokens"):
        tokenizer_padding.read(folder, is_read=True)
