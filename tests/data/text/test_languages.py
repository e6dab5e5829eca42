"""Tests captions without spaces, from the source files to the vocabulary."""

import importlib.util
from pathlib import Path

import pytest

from vse_jax.data import datasets
from vse_jax.data.split_index import split_index
from vse_jax.data.text.vocabulary import training_vocabulary

_CASES = Path(__file__).parents[4] / "shared" / "cases" / "make.py"


@pytest.fixture(scope="module")
def builder(tmp_path_factory):
    if not _CASES.exists():
        pytest.skip(f"the program that draws the captions is not there: {_CASES}")
    spec = importlib.util.spec_from_file_location("make_cases", _CASES)
    cases = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(cases)
    folder = tmp_path_factory.mktemp("chinese")
    cases.chinese(folder / "source")

    from configs import common

    data = common.get_config().data
    data.root, data.data_dir = str(folder / "source"), str(folder / "prepared")
    data.region_dim = 0
    return datasets.prepare(data)


def test_captions_become_words(builder):
    index = split_index(builder, "train")
    assert len(index.captions) == 200
    for number, caption in enumerate(index.captions):
        first, behind = index.word_offset[number : number + 2]
        words = [index.words[word] for word in index.word_ids[first:behind]]
        assert "".join(words) == caption
        assert len(words) >= 6 * 0.5
    vocabulary = training_vocabulary(builder, 4)
    assert {"狗", "草地", "蓝色", "男人", "跑"} <= set(vocabulary.words)
    assert len(vocabulary) < 60
    # If every caption were one word, there would be about 200 words.
    assert max(map(len, vocabulary.words[4:-1])) <= 4


def test_few_words_of_another_split_are_unknown(builder):
    vocabulary = training_vocabulary(builder, 4)
    index = split_index(builder, "test")
    unknown = vocabulary.numbers(index.words)[index.word_ids] == vocabulary.unknown
    assert unknown.mean() < 0.1
