"""How a tokenizer in Hugging Face's layout makes captions of one length.

All towers truncate long captions. Only SigLIP reads the padding. Its token comes from
the same files, in the same order, as in transformers.
"""

from collections.abc import Mapping
from typing import Any

from etils import epath

from vse_jax.errors import InputError
from vse_jax.torch_import import pretrained_folder, tokenizer_class
from vse_jax.torch_import.tokenizer_class import OPTIONS

_TOKENIZER, _SPECIAL = "tokenizer.json", "special_tokens_map.json"
# Classes that pad before a caption if the options do not say so.
_LEFT = tokenizer_class.of("CodeLlama", "Cohere", "Gemma", "Llama", "Siglip2", "XLNet")
# Tokens of the padding if the options name none.
_TOKENS = {
    **dict.fromkeys(tokenizer_class.of("Gemma", "Siglip2", "T5"), "<pad>"),
    **dict.fromkeys(tokenizer_class.of("Siglip"), "</s>"),
}
# Classes that are what `tokenizer.json` says.
_PLAIN = (None, "PreTrainedTokenizer", "PreTrainedTokenizerFast", "TokenizersBackend")


def read(weights: str, *, is_read: bool) -> int | None:
    """Returns the token behind captions that a folder names; None if there is none.

    Args:
      weights: see `tokenizer_files.read`.
      is_read: whether the tower reads the padding. If so, the padding has to be behind
        the captions, and its token one of the tokenizer's.

    Raises:
      InputError: if a file is damaged, if captions are truncated at their beginning, or
        if the tower reads a padding that is not supported.
    """
    folder = pretrained_folder.find(weights)
    options, path = _options(folder), folder / _TOKENIZER
    content = pretrained_folder.read_json(path) if path.exists() else {}
    _check_truncation(options, content, folder)
    if not path.exists():
        return None
    of_file = content.get("padding")
    of_file = of_file if isinstance(of_file, dict) else {}
    if is_read:
        _check_side(options, of_file, folder)
    token = _token(options, of_file, folder, is_read)
    number = _number(token, content, folder)
    if is_read and number is None and token is not None:
        raise InputError(
            f"{folder / _TOKENIZER}: has no token {token!r}, which is the pad_token "
            f"behind captions; correct the pad_token in {folder / OPTIONS}"
        )
    return number


def _options(folder: epath.Path) -> dict[str, Any]:
    """Returns the options of the tokenizer; old files have the tokens in another."""
    path, options = folder / OPTIONS, {}
    if path.exists():
        options = pretrained_folder.read_json(path)
    if "added_tokens_decoder" not in options and (folder / _SPECIAL).exists():
        tokens = pretrained_folder.read_json(folder / _SPECIAL)
        options = options | {k: v for k, v in tokens.items() if k == "pad_token"}
    return {key: value for key, value in options.items() if value is not None}


def _check_truncation(
    options: Mapping[str, Any], content: Mapping[str, Any], folder: epath.Path
) -> None:
    """Checks that a long caption loses its end, not its beginning."""
    of_file, path = content.get("truncation"), folder / OPTIONS
    side = options.get("truncation_side")
    if side is None and isinstance(of_file, dict):
        side, path = of_file.get("direction"), folder / _TOKENIZER
    if side not in (None, "right", "Right"):
        raise InputError(
            f"{path}: truncates captions on the side {side!r} (truncation_side); only "
            "'right', at their end, is supported; choose other weights, or correct the "
            "file if they were trained so"
        )


def _check_side(
    options: Mapping[str, Any], of_file: Mapping[str, Any], folder: epath.Path
) -> None:
    """Checks that the padding is behind the captions."""
    side = options.get("padding_side", of_file.get("direction"))
    if side in ("right", "Right"):
        return
    path, reason = folder / OPTIONS, f"its padding_side is {side!r}"
    if side is None:
        kind, path = tokenizer_class.find(folder)
        if not isinstance(kind, str) or kind not in _LEFT:
            return
        reason = f"its tokenizer_class is {kind!r}, whose padding_side is 'left'"
    elif "padding_side" not in options:
        path, reason = folder / _TOKENIZER, f"its padding's direction is {side!r}"
    raise InputError(
        f"{path}: {reason}, but SigLIP's text tower is supported with the padding "
        'behind the captions only; if it was trained so, set "padding_side": "right" '
        f"in {folder / OPTIONS}; otherwise choose other weights"
    )


def _token(options, of_file, folder, is_read):
    """Returns the token of the padding, or None."""
    kind, path = tokenizer_class.find(folder)
    usual = _TOKENS.get(kind) if isinstance(kind, str) else None
    token = options.get("pad_token", usual or of_file.get("pad_token"))
    if token is None and is_read and kind not in _PLAIN:
        raise InputError(
            f"{path}: its tokenizer_class is {kind!r}, but neither {OPTIONS} nor "
            f'{_SPECIAL} names a token behind captions; add "pad_token" to '
            f"{folder / OPTIONS}"
        )
    return token.get("content") if isinstance(token, dict) else token


def _number(token, content, folder):
    """Returns the number of a token in a `tokenizer.json`; None if it has none."""
    try:
        added = {one["content"]: one["id"] for one in content.get("added_tokens") or ()}
        return added.get(token, _vocabulary(content).get(token))
    except (AttributeError, IndexError, KeyError, TypeError):
        raise InputError(
            f"{folder}: {_TOKENIZER} has no list of tokens, or "
            f"{OPTIONS} no text as pad_token; download them again"
        ) from None


def _vocabulary(content):
    """Returns the numbers of the tokens of the model, which lists them or counts."""
    vocabulary = (content.get("model") or {}).get("vocab") or {}
    if isinstance(vocabulary, list):  # Unigram: tokens with their logarithms
        return {piece[0]: number for number, piece in enumerate(vocabulary)}
    return vocabulary if isinstance(vocabulary, dict) else {}
