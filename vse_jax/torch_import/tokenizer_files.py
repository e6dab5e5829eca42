"""Reads the tokenizer of a pretrained text transformer in Hugging Face's layout."""

import json
from typing import Any

from etils import epath

from vse_jax.data.text.subwords import Subwords
from vse_jax.errors import InputError
from vse_jax.torch_import import clip_tokenizer, pretrained_folder, tokenizer_class
from vse_jax.torch_import.tokenizer_class import OPTIONS

_TOKENIZER, _WORD_PIECES = "tokenizer.json", "vocab.txt"
_ADDED = "added_tokens.json"
# Names of tokenizer_config.json by those of the normalizer.
_NORMALIZER_OPTIONS = {
    "handle_chinese_chars": "tokenize_chinese_chars",
    "strip_accents": "strip_accents",
    "lowercase": "do_lower_case",
}
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_NEEDED = ("[UNK]", "[CLS]", "[SEP]")


def read(weights: str, *, lowers: bool = False) -> Subwords:
    """Reads the tokenizer beside pretrained weights.

    Args:
      weights: folder of the model, file of weights in it, or Python package, see
        `pretrained_folder.read`; or the path of a `tokenizer.json` or `vocab.txt`.
      lowers: whether a BPE of `tokenizer.json` lowers letters, even if it does not say
        so. SigLIP 2 was trained on lower case, but its files have Gemma's tokenizer as
        it is.

    Returns:
      The tokenizer of `tokenizer.json`; without this file, BERT's tokenizer with the
      word pieces of `vocab.txt`, or CLIP's with `vocab.json` and `merges.txt`.

    Raises:
      InputError: if there is neither of these files, if one is damaged, or if the class
        of the tokenizer splits texts in another way than these files tell.
    """
    if is_file(weights):
        return _read_file(epath.Path(weights).expanduser(), lowers)
    folder = find_folder(weights)
    for name in (_TOKENIZER, _WORD_PIECES):
        if (folder / name).exists():
            return _read_file(folder / name, lowers)
    if (folder / clip_tokenizer.MERGES).exists():
        tokenizer_class.check(folder, tokenizer_class.CLIP, clip_tokenizer.VOCABULARY)
        return _with_added(clip_tokenizer.read(folder), folder, str(folder))
    raise InputError(
        f"{folder}: has no tokenizer ({_TOKENIZER}, {_WORD_PIECES}, or "
        f"{clip_tokenizer.VOCABULARY} and {clip_tokenizer.MERGES}); download the whole "
        "folder of the model"
    )


def is_file(path: str) -> bool:
    """Returns whether a path is that of a file with a tokenizer, by its name."""
    return path.endswith((_TOKENIZER, _WORD_PIECES))


def find_folder(weights: str) -> epath.Path:
    """Returns the folder with a tokenizer; it may lack weights and `config.json`.

    Raises:
      InputError: if there is no such folder or package.
    """
    path = epath.Path(weights).expanduser()
    return path if path.is_dir() else pretrained_folder.find(weights)


def _read_file(path: epath.Path, lowers: bool) -> Subwords:
    if path.name.endswith(_TOKENIZER):
        content = pretrained_folder.read_json(path)
        content = _lowering(content) if lowers else content
        content = _with_stated_options(content, path.parent)
    else:
        content = _read_word_pieces(path)
    return _with_added(content, path.parent, str(path))


def _read_word_pieces(path):
    tokenizer_class.check(path.parent, tokenizer_class.BERT, path.name)
    pieces = pretrained_folder.read_lines(path)
    numbers = {piece.rstrip("\r"): number for number, piece in enumerate(pieces)}
    missing = [token for token in _NEEDED if token not in numbers]
    if missing or len(numbers) < len(pieces):
        reason = f"lacks {', '.join(missing)}" if missing else "repeats a word piece"
        raise InputError(
            f"{path}: {reason}; expected BERT's word pieces, one per line; download it "
            "again"
        )
    return _bert(numbers, _normalizer(path.parent, numbers))


def _with_stated_options(content: dict[str, Any], folder: epath.Path) -> dict[str, Any]:
    """Returns BERT's tokenizer with the options beside it; transformers does so too."""
    own = content.get("normalizer")
    if not isinstance(own, dict) or own.get("type") != "BertNormalizer":
        return content
    return content | {"normalizer": own | _stated_options(folder)}


def _with_added(content: dict[str, Any], folder: epath.Path, name: str) -> Subwords:
    """Returns a tokenizer with the tokens of `added_tokens.json`, if there is one.

    A tokenizer that was saved without a `tokenizer.json` has its added tokens there.
    Their numbers follow those of the vocabulary.
    """
    tokens, path = Subwords(content, name), folder / _ADDED
    if not path.exists():
        return tokens
    known = set(tokens.words)
    added = pretrained_folder.read_json(path)
    numbers = {token: n for token, n in added.items() if token not in known}
    expected = range(len(tokens), len(tokens) + len(numbers))
    in_range = all(number in expected for number in numbers.values())
    if not in_range or len({*numbers.values()}) < len(numbers):
        raise InputError(
            f"{path}: expected the numbers {expected.start} to {expected.stop - 1} for "
            f"the {len(numbers)} tokens that {name} lacks; save the tokenizer again"
        )
    new = [
        clip_tokenizer.special_token(token, numbers[token])
        | {"special": False, "normalized": True}
        for token in sorted(numbers, key=numbers.get)
    ]
    old = content.get("added_tokens") or []
    return Subwords(content | {"added_tokens": [*old, *new]}, name)


def _lowering(content: dict[str, Any]) -> dict[str, Any]:
    """Returns the content of a `tokenizer.json`; its BPE lowers letters first."""
    own, model = content.get("normalizer"), content.get("model")
    is_bpe = isinstance(model, dict) and "merges" in model  # old files have no `type`
    if not is_bpe or "Lowercase" in json.dumps(own):
        return content
    normalizers = [{"type": "Lowercase"}, *([own] if own else [])]
    return content | {"normalizer": {"type": "Sequence", "normalizers": normalizers}}


def _normalizer(folder: epath.Path, numbers: dict[str, int]) -> dict[str, Any]:
    """Returns how BERT's tokenizer changes texts before it splits them."""
    # Only cased models have pieces with capitals, besides the special ones.
    is_lower = all(piece == piece.lower() for piece in numbers if piece[:1] != "[")
    usual = {
        "handle_chinese_chars": True,
        "strip_accents": None,  # if letters are lowered
        "lowercase": is_lower,
    }
    stated = _stated_options(folder)
    return {"type": "BertNormalizer", "clean_text": True, **usual, **stated}


def _stated_options(folder: epath.Path) -> dict[str, bool | None]:
    """Returns the options of BERT's normalizer that `tokenizer_config.json` states."""
    path, options = folder / OPTIONS, {}
    if path.exists():
        options = pretrained_folder.read_json(path)
    stated = {
        name: options[theirs]
        for name, theirs in _NORMALIZER_OPTIONS.items()
        if theirs in options
    }
    for name, value in stated.items():
        if not isinstance(value, bool) and (name, value) != ("strip_accents", None):
            raise InputError(
                f"{path}: an option of the tokenizer is {value!r}; expected true or "
                f"false as {_NORMALIZER_OPTIONS[name]}"
            )
    return stated


def _bert(numbers: dict[str, int], normalizer: dict[str, Any]) -> dict[str, Any]:
    """Returns BERT's `tokenizer.json` for word pieces."""
    around = ("[CLS]", "[SEP]")
    single = [{"SpecialToken": {"id": token, "type_id": 0}} for token in around]
    single.insert(1, {"Sequence": {"id": "A", "type_id": 0}})
    return {
        "version": "1.0",
        "added_tokens": [
            clip_tokenizer.special_token(token, numbers[token])
            for token in _SPECIAL
            if token in numbers
        ],
        "normalizer": normalizer,
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": single,
            "pair": [],
            "special_tokens": {
                token: {"id": token, "ids": [numbers[token]], "tokens": [token]}
                for token in around
            },
        },
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": numbers,
        },
    }
