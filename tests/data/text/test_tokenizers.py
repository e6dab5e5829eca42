"""The tokenizer against NLTK and against golden tokens."""

import json
import random
from pathlib import Path

import pytest
from nltk.tokenize import word_tokenize

from vse_jax.data.text.tokenizers import tokenize

_GOLDEN = Path(__file__).parents[4] / "shared" / "flickr8k_regions"
_PIECES = """
    man dog cannot gonna gotta gimme lemme wanna can not black-and-white t-shirt 2 two1
    , . , . ,, .. ... ' " ( ) ; : ! ? - -- # & 's n't don't dogs' it's mr. u.s. 3.5
    1,000 café naïve “quoted” ` `` <start> <pad> <unk> [a] {b} % $5 @ * more'n d'ye 'tis
"""


@pytest.mark.parametrize(
    ("caption", "tokens"),
    [
        ("A dog runs .", ["a", "dog", "runs", "."]),
        ("  Two dogs, running.\n", ["two", "dogs", ",", "running", "."]),
        ("A man's hat isn't red", ["a", "man", "'s", "hat", "is", "n't", "red"]),
        ("black-and-white t-shirt", ["black-and-white", "t-shirt"]),
        ("They cannot see", ["they", "can", "not", "see"]),
        ("one . two .", ["one", ".", "two", "."]),
        ("one. two.", ["one.", "two", "."]),
        ("1,000 men , (old)", ["1,000", "men", ",", "(", "old", ")"]),
        ("<start>", ["<", "start", ">"]),
        ("", []),
    ],
)
def test_known_tokens(caption, tokens):
    assert tokenize(caption) == tokens


def test_equals_nltk_on_any_mixture():
    choice = random.Random(0)
    for _ in range(4000):
        pieces = choice.choices(_PIECES.split(), k=choice.randrange(1, 9))
        caption = "".join(p + choice.choice(["", " ", " ", " ", "  "]) for p in pieces)
        expected = word_tokenize(caption.strip().lower(), preserve_line=True)
        assert tokenize(caption) == expected, caption


def test_golden_tokens():
    if not _GOLDEN.is_dir():
        pytest.skip(f"golden tokens are not there: {_GOLDEN}")
    captions = (_GOLDEN / "dev_caps.txt").read_text("utf-8").splitlines()
    lines = (_GOLDEN / "dev_tokens.jsonl").read_text("utf-8").splitlines()
    assert len(captions) == len(lines) > 0
    for caption, line in zip(captions, lines, strict=True):
        assert tokenize(caption) == json.loads(line)
