import json
import pickle
import sys
import types

import pytest

from tests.malicious import Malicious
from vse_jax.errors import InputError
from vse_jax.torch_import import vocabulary_file

WORDS = ("<pad>", "<start>", "<end>", "<unk>", "dog", "naïve", "cat")


def numbers(words=WORDS):
    return {word: number for number, word in enumerate(words)}


def pickled(attributes, module="vocab", protocol=2):
    """Pickles an object of its own class, as vsepp's `vocab.py` does."""
    kind = type("Vocabulary", (), {"__module__": module})
    vocabulary = kind()
    vars(vocabulary).update(attributes)
    known = sys.modules.get(module)
    sys.modules[module] = types.SimpleNamespace(Vocabulary=kind)
    try:
        return pickle.dumps(vocabulary, protocol)
    finally:
        del sys.modules[module]
        if known:
            sys.modules[module] = known


@pytest.mark.parametrize("form", ["json", "vocab", "__main__"])
def test_both_forms_are_read(tmp_path, form):
    path = tmp_path / "x_vocab"
    reversed_order = dict(reversed(numbers().items()))
    attributes = {"word2idx": reversed_order, "idx2word": {}, "idx": len(WORDS)}
    if form == "json":
        path.write_text(json.dumps(attributes))
    else:
        path.write_bytes(pickled(attributes, form))
    vocabulary, count = vocabulary_file.read(str(path))
    assert count == len(WORDS)
    assert vocabulary.words == (*WORDS, "<mask>")
    assert vocabulary.encode("a dog").tolist() == [1, 3, 4, 2]


def test_mask_in_the_file_is_kept(tmp_path):
    path = tmp_path / "x_vocab.json"
    path.write_text(json.dumps({"word2idx": numbers((*WORDS, "<mask>"))}))
    vocabulary, count = vocabulary_file.read(str(path))
    assert vocabulary.words == (*WORDS, "<mask>")
    assert count == len(vocabulary)


@pytest.mark.parametrize("protocol", range(6))
def test_code_is_refused_and_not_run(tmp_path, protocol):
    path, made = tmp_path / "x_vocab.pkl", tmp_path / "made"
    path.write_bytes(pickled({"word2idx": Malicious(made)}, protocol=max(2, protocol)))
    with pytest.raises(InputError, match=r"could run any code") as error:
        vocabulary_file.read(str(path))
    assert "mkdir" in str(error.value)
    assert not made.exists()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "neither"),
        (b"{", "neither"),
        (b'{"words": []}', "neither"),
        (b"some text", "neither|refused"),
        (b"[1, 2]", "neither .* it has a list; expected an object with word2idx"),
        (
            json.dumps({"word2idx": numbers((*WORDS, "<mask>", "end"))}).encode(),
            "its word <mask> has the number 7; expected it last",
        ),
        (b'{"word2idx": {}}', "are not numbered"),
        (b'{"word2idx": ["a"]}', "does not map words"),
        (b'{"word2idx": {"a": "0"}}', "does not map words"),
        (json.dumps({"word2idx": numbers()}).replace("6", "9").encode(), "from 0 to 6"),
        (
            json.dumps({"word2idx": numbers(("a", "b", "c"))}).encode(),
            "expected a list of words that begins",
        ),
    ],
)
def test_other_files_are_refused_in_one_line(tmp_path, content, expected):
    path = tmp_path / "x_vocab.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=expected) as error:
        vocabulary_file.read(str(path))
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


def test_missing_file_is_reported(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        vocabulary_file.read(str(tmp_path / "none.json"))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_marks_of_windows_are_ignored(tmp_path, encoding):
    path = tmp_path / "x_vocab.json"
    path.write_text(json.dumps({"word2idx": numbers()}), encoding=encoding)
    assert vocabulary_file.read(str(path))[0].words == (*WORDS, "<mask>")
