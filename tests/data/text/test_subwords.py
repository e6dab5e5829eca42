"""Tokens of pretrained tokenizers of all three kinds."""

import json

import numpy as np
import pytest
import tokenizers

from tests import pretrained_files, transformers_reference
from vse_jax.data.augmentation import corrupt_words
from vse_jax.data.text import vocabularies
from vse_jax.data.text.subwords import Subwords
from vse_jax.data.text.vocabulary import Vocabulary
from vse_jax.errors import InputError
from vse_jax.torch_import import pretrained_folder, tokenizer_files

TEXTS = [
    "a small red circle above the triangle.",
    "running dogs, and running cats",
    "there is a greener square",
    "a caf\u00e9 \u72d7 \U0001f436",
]


ACCENTS = [
    "A Caf\u00e9",
    "na\u00efve \u4e2d\u6587",
    "\u00c4\u00d6",
    "",
    " \t",
    "[MASK] a",
    "a <Sky>a",
]


@pytest.mark.parametrize(
    "options",
    [
        {"do_lower_case": True},
        {"do_lower_case": True, "strip_accents": False},
        {"do_lower_case": False, "strip_accents": True},
        {"do_lower_case": True, "tokenize_chinese_chars": False},
    ],
)
def test_options_of_word_pieces_are_those_of_transformers(options, tmp_path):
    """Such as German models, which lower letters and keep accents."""
    folder = pretrained_files.write_bert(tmp_path / "bert")
    pieces = (
        "cafe",
        "caf\u00e9",
        "naive",
        "na\u00efve",
        "\u4e2d",
        "\u6587",
        "\u4e2d\u6587",
    )
    pieces += ("ao", "AO", "\u00e4\u00f6", "\u00c4\u00d6", "A", "Cafe", "Caf\u00e9")
    lines = [*pretrained_files.SPECIAL, "a", *pieces]
    (folder / "vocab.txt").write_text("\n".join(lines) + "\n")
    content = {"tokenizer_class": "BertTokenizer"} | options
    (folder / "tokenizer_config.json").write_text(json.dumps(content))
    (folder / "added_tokens.json").write_text(json.dumps({"<Sky>": len(lines)}))
    pieces_alone = tokenizer_files.read(str(folder))
    # It says something else than the options beside it.
    other = json.loads(pieces_alone.to_json())["tokenizer"]
    other["normalizer"] |= {"lowercase": not options["do_lower_case"]}
    (folder / "tokenizer.json").write_text(json.dumps(other))
    expected = transformers_reference.tokens_of(folder, ACCENTS, tmp_path)
    for ours in (pieces_alone, tokenizer_files.read(str(folder))):
        assert [ours.encode(text).tolist() for text in ACCENTS] == expected


@pytest.mark.parametrize("numbers", [[35], [34, 34], [34, "35"], [[34], 35]])
def test_numbers_of_added_tokens_follow_those_of_the_vocabulary(numbers, tmp_path):
    folder = pretrained_files.write_bert(tmp_path)
    added = dict(zip(("<sky>", "<sea>"), numbers, strict=False))
    (folder / "added_tokens.json").write_text(json.dumps(added | {"dog": 3}))
    with pytest.raises(InputError, match=r"added_tokens.json: expected the numbers 34"):
        tokenizer_files.read(str(folder))


def test_options_of_word_pieces_must_be_true_or_false(tmp_path):
    folder = pretrained_files.write_bert(tmp_path)
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": "yes"}')
    with pytest.raises(InputError, match=r"config.json: an option.* as do_lower_case"):
        tokenizer_files.read(str(folder))


def test_an_empty_caption_has_a_token_without_start_and_end(tmp_path):
    model = tokenizers.models.WordPiece({"a": 0, "[UNK]": 1}, unk_token="[UNK]")
    tokens = Subwords(json.loads(tokenizers.Tokenizer(model).to_str()))
    assert tokens.encode("").tolist() == [1]
    flat, counts = tokens.encode_texts(["a", "", "a"])
    assert flat.tolist() == [0, 1, 0]
    assert counts.tolist() == [1, 1, 1]


@pytest.mark.parametrize("kind", [{}, {"type": "BPE"}])
@pytest.mark.parametrize("normalizer", [None, {"type": "NFC"}])
def test_siglip_2_lowers_letters(normalizer, kind, tmp_path):
    """As its tokenizer in transformers; its tokenizer.json is Gemma's."""
    model = {**kind, "vocab": {"a": 0, "A": 1}, "merges": []}
    content = {"version": "1.0", "normalizer": normalizer, "model": model}
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(content))
    for lowers, expected in ((False, [1, 0]), (True, [0, 0])):
        tokens = tokenizer_files.read(str(path), lowers=lowers)
        assert tokens.encode("Aa").tolist() == expected


@pytest.fixture(scope="module")
def word_pieces(tmp_path_factory):
    folder = pretrained_files.write_bert(tmp_path_factory.mktemp("bert"))
    return tokenizer_files.read(str(folder))


def clip_bpe():
    """A BPE tokenizer as CLIP's: marks the end of words, and has no mask."""
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.BPE(unk_token="<|end|>", end_of_word_suffix="</w>")
    )
    tokenizer.normalizer = tokenizers.normalizers.Lowercase()
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=60,
        special_tokens=["<|start|>", "<|end|>"],
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS[:3], trainer)
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="<|start|> $A <|end|>", special_tokens=[("<|start|>", 0), ("<|end|>", 1)]
    )
    tokenizer.decoder = tokenizers.decoders.BPEDecoder()
    return Subwords(json.loads(tokenizer.to_str()))


def unigram():
    """A Unigram tokenizer as SigLIP's: marks spaces, and has an end but no start."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.Unigram())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    trainer = tokenizers.trainers.UnigramTrainer(
        vocab_size=60,
        special_tokens=["<unk>", "</s>"],
        unk_token="<unk>",
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS[:3], trainer)
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    tokenizer.decoder = tokenizers.decoders.Metaspace()
    return Subwords(json.loads(tokenizer.to_str()))


@pytest.fixture(scope="module", params=["WordPiece", "BPE", "Unigram"])
def tokens(request, word_pieces):
    made = {"WordPiece": lambda: word_pieces, "BPE": clip_bpe, "Unigram": unigram}
    found = made[request.param]()
    assert found.kind == request.param
    return found


def test_roles_of_word_pieces(word_pieces):
    roles = [word_pieces.pad, word_pieces.unknown, word_pieces.start, word_pieces.end]
    assert [word_pieces.words[n] for n in roles] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    assert word_pieces.words[word_pieces.mask] == "[MASK]"
    pieces = set(pretrained_files.word_pieces()) - set(pretrained_files.SPECIAL)
    assert word_pieces.word_count == len(pieces)


def test_roles_without_start_or_mask():
    bpe, pieces = clip_bpe(), unigram()
    assert (bpe.start, bpe.end, bpe.unknown, bpe.mask) == (0, 1, 1, None)
    assert (pieces.start, pieces.end, pieces.unknown, pieces.mask) == (None, 1, 0, None)


def text_of(tokens, numbers):
    """Returns the text of tokens without special ones, by the package tokenizers."""
    content = json.dumps(json.loads(tokens.to_json())["tokenizer"])
    return tokenizers.Tokenizer.from_str(content).decode([int(n) for n in numbers])


def test_words_are_split_into_the_longest_pieces(word_pieces):
    encoded = word_pieces.encode("A dogs, running")
    assert [word_pieces.words[n] for n in encoded] == [
        "[CLS]",
        "a",
        "dog",
        "##s",
        "[UNK]",
        "run",
        "##n",
        "##ing",
        "[SEP]",
    ]
    known = encoded[encoded != word_pieces.unknown]
    assert text_of(word_pieces, known) == "a dogs running"


def test_many_texts_are_encoded_as_one_by_one(tokens):
    flat, counts = tokens.encode_texts(TEXTS)
    parts = np.split(flat, np.cumsum(counts)[:-1])
    for text, part in zip(TEXTS, parts, strict=True):
        np.testing.assert_array_equal(part, tokens.encode(text))
        ends = [part[0] if tokens.start is not None else None, part[-1]]
        assert ends == [tokens.start, tokens.end]
    assert flat.dtype == np.int32


def test_no_texts(tokens):
    flat, counts = tokens.encode_texts([])
    assert len(flat) == len(counts) == len(tokens.lacks([])) == 0


def test_words_begin_where_the_text_has_spaces(tokens):
    text = "a running cats square triangle"
    encoded = tokens.encode(text)
    begins = tokens.begins_word(encoded[None])[0]
    inner = ~tokens.keeps(encoded)
    assert begins[inner].sum() == len(text.split())
    assert begins[~inner].all()
    starts = np.flatnonzero(begins & inner)
    for word, first, behind in zip(
        text.split(), starts, [*starts[1:], len(encoded)], strict=True
    ):
        piece = [
            n for n in encoded[first:behind] if n not in (tokens.start, tokens.end)
        ]
        assert text_of(tokens, piece).strip() == word


def test_files_without_the_kind_of_tokenizer(word_pieces):
    """The package tokenizers reads them: the kind follows from the other entries."""
    content = json.loads(word_pieces.to_json())["tokenizer"]
    del content["model"]["type"]
    old = Subwords(content)
    encoded = old.encode("running dogs and cats")[None]
    np.testing.assert_array_equal(
        old.begins_word(encoded), word_pieces.begins_word(encoded)
    )


def test_a_run_remembers_the_tokens(tokens):
    saved = json.loads(tokens.to_json())
    again = vocabularies.of_run({"vocabulary": saved})
    assert again == tokens
    assert again.fingerprint == tokens.fingerprint
    np.testing.assert_array_equal(again.encode(TEXTS[1]), tokens.encode(TEXTS[1]))


def test_words_and_tokens_are_different_vocabularies(tokens):
    words = Vocabulary(["dog"])
    assert words != tokens
    assert vocabularies.of_run({"vocabulary": json.loads(words.to_json())}) == words


def test_words_with_unknown_parts(word_pieces):
    found = word_pieces.lacks(["dogs", "zebra", "caf\u00e9", "run"])
    assert found.tolist() == [False, True, True, False]


def test_truncation_and_padding_of_the_file_are_ignored(word_pieces):
    content = json.loads(word_pieces.to_json())["tokenizer"]
    content["truncation"] = {
        "max_length": 4,
        "strategy": "LongestFirst",
        "stride": 0,
        "direction": "Right",
    }
    assert len(Subwords(content).encode(TEXTS[0])) == len(word_pieces.encode(TEXTS[0]))


@pytest.mark.parametrize("content", [{}, {"model": {"type": "Other"}}])
def test_other_json_is_refused(content):
    with pytest.raises(InputError, match=r"^x\.json: not a tokenizer .*again$"):
        Subwords(content, "x.json")
    with pytest.raises(InputError, match="not a tokenizer"):
        Subwords.from_json('{"words": []}')


def augment(tokens, texts, rate=0.2, passes=400):
    """Returns augmented captions, `[passes][texts]`, as lists of tokens."""
    encoded = [tokens.encode(text) for text in texts]
    count = np.array(list(map(len, encoded)))
    batch = np.zeros((len(texts), count.max()), np.int32)
    for row, caption in zip(batch, encoded, strict=True):
        row[: len(caption)] = caption
    found = []
    for number in range(passes):
        image = np.arange(len(texts))
        changed, kept = corrupt_words(
            0, np.full(len(texts), number), image, batch, count, tokens, rate
        )
        found.append([row[:n].tolist() for row, n in zip(changed, kept, strict=True)])
    return found


def test_all_pieces_of_a_word_have_one_fate(word_pieces):
    dogs, mask = word_pieces.encode("dogs")[1:-1].tolist(), word_pieces.mask
    assert len(dogs) == 2
    found = [caption for (caption,) in augment(word_pieces, ["dogs"], 0.5, 2000)]
    assert {caption[0] for caption in found} == {word_pieces.start}
    assert {caption[-1] for caption in found} == {word_pieces.end}
    inner = [caption[1:-1] for caption in found]
    assert {len(pieces) for pieces in inner} == {0, 2}
    assert abs(inner.count(dogs) / len(inner) - 0.5) < 0.05
    assert abs(inner.count([mask, mask]) / len(inner) - 0.25) < 0.05
    assert abs(inner.count([]) / len(inner) - 0.2) < 0.05
    assert not any(pieces.count(mask) == 1 for pieces in inner)


def test_shares_of_the_changes(word_pieces):
    text = " ".join(["cat"] * 10)
    cat, mask = word_pieces.encode("cat")[1], word_pieces.mask
    found = [caption[1:-1] for (caption,) in augment(word_pieces, [text])]
    total = 10 * len(found)
    masked = sum(caption.count(mask) for caption in found) / total
    kept = sum(caption.count(cat) for caption in found) / total
    dropped = 1 - sum(map(len, found)) / total
    random = [n for caption in found for n in caption if n not in (cat, mask)]
    assert abs(masked - 0.1) < 0.025
    assert abs(dropped - 0.08) < 0.025
    assert abs(kept - 0.8) < 0.03
    assert 0 < len(random) / total < 0.04
    special = [word_pieces.words[n] for n in random if word_pieces.words[n][:1] == "["]
    assert not special


def test_without_a_mask_more_words_are_dropped():
    bpe = clip_bpe()
    text = " ".join(["cats"] * 10)
    word = bpe.encode("cats")[1:-1].tolist()
    found = [caption[1:-1] for (caption,) in augment(bpe, [text])]
    dropped = 1 - sum(map(len, found)) / (10 * len(word) * len(found))
    assert abs(dropped - 0.18) < 0.03


def test_all_words_may_be_dropped_but_not_the_ends(word_pieces):
    found = {tuple(c) for (c,) in augment(word_pieces, ["cat"], rate=1.0, passes=50)}
    assert (word_pieces.start, word_pieces.end) in found


def test_ids_of_a_thousand_captions_equal_those_of_transformers(tmp_path):
    folder = pretrained_folder.find(pretrained_files.minilm())
    rng = np.random.default_rng(0)
    words = [
        "a",
        "the",
        "dog's",
        "(black)",
        "cafés",
        "naïve",
        "#42",
        "3.5m",
        "t-shirt",
        "U.S.",
        "狗跑",
        "skateboarder",
        "unbelievably",
        "[MASK]",
        "emoji😀",
        "it's",
        "O'Neill",
    ]
    texts = [" ".join(rng.choice(words, rng.integers(0, 12))) for _ in range(1000)]
    flat, counts = tokenizer_files.read(str(folder)).encode_texts(texts)
    expected = transformers_reference.tokens_of(folder, texts, tmp_path)
    assert [len(ids) for ids in expected] == counts.tolist()
    np.testing.assert_array_equal(flat, np.concatenate(expected))
    of_pieces = tokenizer_files.read(str(folder / "vocab.txt"))
    np.testing.assert_array_equal(of_pieces.encode_texts(texts)[0], flat)
