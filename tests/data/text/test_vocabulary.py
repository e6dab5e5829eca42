"""Tests which words a vocabulary has, their order, and their captions."""

import collections
import json
import time

import numpy as np
import pytest

from vse_jax.data import records
from vse_jax.data.text import tokenizers
from vse_jax.data.text.vocabulary import Vocabulary, training_vocabulary
from vse_jax.errors import InputError

_CAPTIONS = ["A dog , a cat .", "a bird and a Dog .", "the cat sleeps"]


def test_order_and_minimum_count(make_builder):
    train = make_builder.examples(1, captions=len(_CAPTIONS))
    train[0]["captions"] = _CAPTIONS
    vocabulary = training_vocabulary(make_builder(train=train), 2)
    special = ["<pad>", "<start>", "<end>", "<unk>"]
    assert list(vocabulary.words) == [*special, "a", "dog", "cat", ".", "<mask>"]
    assert len(vocabulary) == 9
    assert (vocabulary.pad, vocabulary.mask) == (0, 8)
    assert (vocabulary.start, vocabulary.end, vocabulary.unknown) == (1, 2, 3)


def test_encode():
    vocabulary = Vocabulary(["a", "dog", "cat", "."])
    encoded = vocabulary.encode("A dog flies .")
    assert encoded.dtype == np.int32
    assert encoded.tolist() == [1, 4, 5, 3, 7, 2]
    words = [vocabulary.words[number] for number in encoded]
    assert words == ["<start>", "a", "dog", "<unk>", ".", "<end>"]
    assert vocabulary.encode("").tolist() == [1, 2]
    # A caption cannot contain a special entry.
    assert vocabulary.encode("<mask>").tolist() == [1, 3, 3, 3, 2]


def test_json_round_trip():
    vocabulary = Vocabulary(["a", "café", '"', "\\", "\u2028"])
    again = Vocabulary.from_json(vocabulary.to_json())
    assert again == vocabulary
    assert again.words == vocabulary.words
    assert again.to_json() == vocabulary.to_json()
    assert again.fingerprint == vocabulary.fingerprint


def test_equality():
    vocabulary = Vocabulary(["a", "b"])
    assert vocabulary == Vocabulary(["a", "b"])
    assert vocabulary != Vocabulary(["b", "a"])
    assert vocabulary.fingerprint != Vocabulary(["b", "a"]).fingerprint
    assert vocabulary != "a"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"words": 3}',
        '{"words": []}',
        '{"words": [1, 2]}',
        json.dumps({"words": ["<pad>", "<start>", "<end>", "<unk>", "a"]}),
        json.dumps({"words": ["a", "<pad>", "<start>", "<end>", "<unk>", "<mask>"]}),
    ],
)
def test_refuses_invalid_vocabularies(text):
    with pytest.raises(InputError, match=r"^words\.json: .*again") as error:
        Vocabulary.from_json(text, "words.json")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("words", [["a", "a"], ["<mask>"], []])
def test_refuses_repeated_or_no_words(words):
    with pytest.raises(InputError, match=r"^vocabulary: "):
        Vocabulary(words)


def test_uses_training_captions_only(make_builder):
    train = make_builder.examples(9)
    dev = [dict(e, captions=["unseen words"] * 9) for e in make_builder.examples(4)]
    builder = make_builder(train=train, dev=dev)
    captions = [caption for example in train for caption in example["captions"]]
    counts = collections.Counter()
    for caption in captions:
        counts.update(tokenizers.tokenize(caption))
    for minimum_count in (1, 3, 10):
        vocabulary = training_vocabulary(builder, minimum_count)
        frequent = [word for word, count in counts.items() if count >= minimum_count]
        assert vocabulary == Vocabulary(frequent)
        assert "unseen" not in vocabulary.words


def test_second_start_reads_no_records(make_builder, monkeypatch):
    builder = make_builder(train=make_builder.examples(9))
    vocabulary = training_vocabulary(builder, 2)
    monkeypatch.setattr(records, "RecordReader", None)
    begin = time.monotonic()
    assert training_vocabulary(builder, 2) == vocabulary
    assert time.monotonic() - begin < 1


def test_too_high_a_minimum_count(make_builder):
    builder = make_builder(train=make_builder.examples(3))
    with pytest.raises(InputError, match=r"^config.data.minimum_word_count is 1000, "):
        training_vocabulary(builder, 1000)
