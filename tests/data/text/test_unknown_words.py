"""Tests what is logged about words that a vocabulary does not have."""

import logging

import numpy as np
import pytest

from vse_jax.data.split_index import split_index
from vse_jax.data.text import unknown_words
from vse_jax.data.text.vocabulary import Vocabulary, training_vocabulary


@pytest.fixture
def make_captions(make_builder):
    """Returns a function that prepares the captions of each split, one per image."""

    def make(**splits):
        return make_builder(
            **{
                name: [
                    dict(example, captions=[caption])
                    for example, caption in zip(
                        make_builder.examples(len(captions)), captions, strict=True
                    )
                ]
                for name, captions in splits.items()
            }
        )

    return make


@pytest.fixture
def log(caplog):
    """Returns a function that returns all messages of a call, and its warnings."""

    def call(builder, vocabulary, *splits):
        caplog.clear()
        with caplog.at_level(logging.INFO, unknown_words.logger.name):
            unknown_words.log_unknown_words(builder, vocabulary, splits)
        records = [r for r in caplog.records if r.name == unknown_words.logger.name]
        assert all("\n" not in record.getMessage() for record in records)
        return (
            [r.getMessage() for r in records if r.levelno == logging.INFO],
            [r.getMessage() for r in records if r.levelno == logging.WARNING],
        )

    return call


def test_shares_are_logged_in_one_line(make_captions, log):
    train = ["a dog runs", "a cat runs", "a dog sits"]
    builder = make_captions(train=train, dev=["a cat sits here now a dog runs on it"])
    vocabulary = training_vocabulary(builder, 2)  # a, dog, runs
    infos, warnings = log(builder, vocabulary, "train", "dev")
    assert infos == [
        "unknown words (<unk>): 22.2% of train, 60.0% of dev; "
        "the vocabulary has 3 words"
    ]
    assert [w.split(":")[0] for w in warnings] == ["train", "dev"]


def test_warning_shows_the_most_frequent_unknown_words(make_captions, log):
    train = ["a dog runs and a cat sits"] * 3
    dev = ["ein hund rennt", "ein hund sitzt", "ein a b c d e f"]
    builder = make_captions(train=train, dev=dev)
    _, (warning,) = log(builder, training_vocabulary(builder, 1), "train", "dev")
    assert warning.startswith("dev: 92% of the words are not in the vocabulary")
    assert "such as 'ein', 'hund', 'rennt', 'sitzt', 'b';" in warning
    assert "config.data.minimum_word_count" in warning


def test_no_warning_up_to_a_tenth(make_captions, log):
    known = ["a", "b", "c", "d", "e", "f", "g", "h", "i"]
    builder = make_captions(train=[" ".join(known)], dev=[" ".join([*known, "x"])])
    infos, warnings = log(builder, training_vocabulary(builder, 1), "dev")
    assert "10.0% of dev" in infos[0]
    assert not warnings


def test_captions_of_one_word(make_captions, log):
    """Such captions occur in scripts without spaces that no dictionary covers."""
    captions = ["ᨶᩣ" * 40, "ᨶᩣ" * 41, "ᨶᩣ ᨶᩣ"]
    builder = make_captions(train=captions)
    _, (warning,) = log(builder, training_vocabulary(builder, 1), "train")
    assert warning.startswith("train: most captions have one word or none, such as 'ᨶᩣ")
    assert len(warning) < 250


def test_few_words_for_many_captions(make_captions, log):
    builder = make_captions(train=["a dog runs"] * 100)
    vocabulary = Vocabulary(["a", "dog", "runs"])
    _, (warning,) = log(builder, vocabulary, "train")
    assert "only 3 words, and train has 100 captions" in warning


def test_counts_of_unknown_words(make_captions):
    builder = make_captions(train=["a dog a cat", "the cat"])
    index = split_index(builder, "train")
    counts = unknown_words.count_unknown(index, Vocabulary(["a", "dog"]))
    assert index.words == ["a", "dog", "cat", "the"]
    np.testing.assert_array_equal(counts, [0, 0, 2, 1])
