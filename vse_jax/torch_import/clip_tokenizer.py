"""CLIP's tokenizer from `vocab.json` and `merges.txt`, without a `tokenizer.json`."""

from collections.abc import Mapping
from typing import Any

from etils import epath

from vse_jax.errors import InputError
from vse_jax.torch_import import pretrained_folder

VOCABULARY, MERGES = "vocab.json", "merges.txt"
START, END = "<|startoftext|>", "<|endoftext|>"
# Contractions, words, single digits, and runs of other characters.
_PIECES = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]"
    r"|[^\s\p{L}\p{N}]+"
)
_COMMENT = "#version"
_WORD_END = "</w>"
_BYTE_LEVEL = {
    "type": "ByteLevel",
    "add_prefix_space": False,
    "trim_offsets": True,
    "use_regex": True,
}
_NORMALIZERS = [
    {"type": "NFC"},
    {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
    {"type": "Lowercase"},
]
_SPLIT = {
    "type": "Split",
    "pattern": {"Regex": _PIECES},
    "behavior": "Removed",
    "invert": True,
}


def read(folder: epath.Path) -> dict[str, Any]:
    """Returns the content of a `tokenizer.json` that equals the two files.

    Raises:
      InputError: if a file is missing, damaged or not CLIP's.
    """
    numbers = pretrained_folder.read_json(folder / VOCABULARY)
    missing = [token for token in (START, END) if token not in numbers]
    if missing:
        raise InputError(
            f"{folder / VOCABULARY}: lacks {' and '.join(missing)}; expected the "
            "tokens of CLIP, or a tokenizer.json for any other tokenizer"
        )
    lines = pretrained_folder.read_lines(folder / MERGES)
    lines = [line.rstrip("\r") for line in lines]  # after a copy by Windows
    merges = [line for line in lines if line.strip() and line[:8] != _COMMENT]
    _check_merges(numbers, merges, folder / MERGES)
    return content(numbers, merges)


def _check_merges(numbers, merges, path):
    """Checks that the merges make all longer tokens; a truncated file lacks some."""
    made = {line.replace(" ", "") for line in merges} | {START, END}
    longer = [t for t in numbers if len(t.removesuffix(_WORD_END)) > 1]
    lacking = [token for token in longer if token not in made]
    if lacking:
        raise InputError(
            f"{path}: lacks the merges of {len(lacking)} tokens of {VOCABULARY}, such "
            f"as {lacking[0]!r}; download both files again"
        )


def content(numbers: Mapping[str, int], merges: list[str]) -> dict[str, Any]:
    """Returns CLIP's `tokenizer.json`.

    Args:
      numbers: numbers of the tokens; a token that ends a word ends with `</w>`.
      merges: pairs of tokens that are merged, each with a space between them; the first
        is merged first.
    """
    return {
        "version": "1.0",
        "added_tokens": [
            special_token(token, numbers[token]) for token in (START, END)
        ],
        "normalizer": {"type": "Sequence", "normalizers": _NORMALIZERS},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [_SPLIT, _BYTE_LEVEL]},
        "post_processor": {
            "type": "RobertaProcessing",
            "sep": [END, numbers[END]],
            "cls": [START, numbers[START]],
            "trim_offsets": False,
            "add_prefix_space": False,
        },
        "decoder": _BYTE_LEVEL,
        "model": {
            "type": "BPE",
            "unk_token": END,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": _WORD_END,
            "fuse_unk": False,
            "vocab": dict(numbers),
            "merges": list(merges),
        },
    }


def special_token(token: str, number: int) -> dict[str, Any]:
    """Returns the entry of `added_tokens` of a special token with its number."""
    options = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": number, "content": token, "special": True} | options
