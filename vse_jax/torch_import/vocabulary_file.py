"""Reads vocabularies of the PyTorch repositories."""

import io
import json
import pickle

from etils import epath

from vse_jax import files
from vse_jax.data.text.vocabulary import MASK, Vocabulary
from vse_jax.errors import InputError, one_line, unreadable

# vsepp's `vocab.py`, which runs as the main program when it writes the file.
_PICKLED_CLASSES = (("vocab", "Vocabulary"), ("__main__", "Vocabulary"))
# Also behind the marks of UTF-8 and UTF-16 that editors of Windows write.
_STARTS_OF_JSON = (b"{", b"[", b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")


class _Pickled:
    """Replaces vsepp's class: has the saved attributes, but no code."""


class _Unpickler(pickle.Unpickler):
    """Admits only that class, so that no code in a file is run."""

    def find_class(self, module, name):
        if (module, name) in _PICKLED_CLASSES:
            return _Pickled
        raise pickle.UnpicklingError(f"it names {module}.{name}")


def read(path: str) -> tuple[Vocabulary, int]:
    """Reads SCAN's `*_vocab.json` or vsepp's pickled `Vocabulary`.

    Args:
      path: path of the file; may be `gs://`.

    Returns:
      The vocabulary, and the number of words in the file, which is one less if the file
      has no `<mask>`.

    Raises:
      InputError: if the file cannot be read or is neither of these, or if its words do
        not start with `<pad> <start> <end> <unk>`, are not numbered from 0, or have
        `<mask>` before another word.
    """
    try:
        content = files.read_bytes(epath.Path(path).expanduser())
    except OSError as error:
        raise unreadable(path, error) from None
    words = _in_order(path, _numbers(path, content))
    if MASK in words[:-1]:
        raise InputError(
            f"{path}: its word {MASK} has the number {words.index(MASK)}; expected it "
            "last, or not at all; rename this word in the file"
        )
    complete = words if words[-1] == MASK else [*words, MASK]
    vocabulary = Vocabulary.from_json(json.dumps({"words": complete}), name=str(path))
    return vocabulary, len(words)


def _numbers(path, content: bytes) -> dict[str, int]:
    """Returns `word2idx` of either format."""
    is_json = content.lstrip().startswith(_STARTS_OF_JSON)
    try:
        if is_json:
            numbers = _of_json(path, json.loads(content))
        else:
            unpickler = _Unpickler(io.BytesIO(content), encoding="utf-8")
            numbers = unpickler.load().word2idx
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path}: refused, since it contains more than a vocabulary "
            f"({one_line(error)}); such a file could run any code"
        ) from None
    except InputError:
        raise
    # A damaged pickle may raise anything.
    except Exception as error:
        raise InputError(
            f"{path}: neither SCAN's vocabulary in JSON nor vsepp's pickled one "
            f"({one_line(error)}); set --vocabulary to one of them"
        ) from None
    well_formed = isinstance(numbers, dict) and all(
        isinstance(word, str) and type(number) is int
        for word, number in numbers.items()
    )
    if not well_formed:
        raise InputError(
            f"{path}: its word2idx does not map words to numbers; download it again"
        )
    return numbers


def _of_json(path, content):
    if isinstance(content, dict) and "word2idx" in content:
        return content["word2idx"]
    kind = "an object without word2idx" if isinstance(content, dict) else "a list"
    raise InputError(
        f"{path}: neither SCAN's vocabulary in JSON nor vsepp's pickled one: it has "
        f"{kind}; expected an object with word2idx, the numbers by word; set "
        "--vocabulary to such a file"
    )


def _in_order(path, numbers: dict[str, int]) -> list[str]:
    words = sorted(numbers, key=numbers.get)
    if not words or [numbers[word] for word in words] != list(range(len(words))):
        raise InputError(
            f"{path}: its {len(words)} words are not numbered from 0 to "
            f"{len(words) - 1}; download it again"
        )
    return words
