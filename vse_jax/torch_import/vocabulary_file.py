"""Vocabularies of the PyTorch repositories."""

import io
import json
import pickle

from etils import epath

from vse_jax.data.text.vocabulary import MASK, Vocabulary
from vse_jax.errors import InputError, one_line, unreadable

# vsepp's `vocab.py`, which is the main program when it writes the file.
_PICKLED_CLASSES = (("vocab", "Vocabulary"), ("__main__", "Vocabulary"))


class _Pickled:
    """Stands for vsepp's class: the attributes it was saved with, and no behaviour."""


class _Unpickler(pickle.Unpickler):
    """Admits that class and nothing else, so that no code of a file is run."""

    def find_class(self, module, name):
        if (module, name) in _PICKLED_CLASSES:
            return _Pickled
        raise pickle.UnpicklingError(f"it names {module}.{name}")


def read(path: str) -> tuple[Vocabulary, int]:
    """Reads SCAN's `*_vocab.json` or vsepp's pickled `Vocabulary`.

    Args:
      path: of the file; may be `gs://`.

    Returns:
      The vocabulary, and how many words the file holds: one less if `<mask>` is not
      among them.

    Raises:
      InputError: if it cannot be read, is neither of them, or its words do not begin
        with `<pad> <start> <end> <unk>` and have the numbers from 0.
    """
    try:
        content = epath.Path(path).expanduser().read_bytes()
    except OSError as error:
        raise unreadable(path, error) from None
    words = _in_order(path, _numbers(path, content))
    complete = words if words[-1] == MASK else [*words, MASK]
    vocabulary = Vocabulary.from_json(json.dumps({"words": complete}), name=str(path))
    return vocabulary, len(words)


def _numbers(path, content: bytes) -> dict[str, int]:
    """Returns `word2idx`, of either form."""
    is_json = content.lstrip()[:1] == b"{"
    try:
        if is_json:
            numbers = json.loads(content)["word2idx"]
        else:
            unpickler = _Unpickler(io.BytesIO(content), encoding="utf-8")
            numbers = unpickler.load().word2idx
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path}: refused, as it holds more than a vocabulary ({one_line(error)}); "
            "such a file could run any code"
        ) from None
    # A damaged pickle may raise anything.
    except Exception as error:
        raise InputError(
            f"{path}: neither SCAN's vocabulary in JSON nor vsepp's pickled one "
            f"({one_line(error)}); name one of them with --vocabulary"
        ) from None
    well_formed = isinstance(numbers, dict) and all(
        isinstance(word, str) and type(number) is int
        for word, number in numbers.items()
    )
    if not well_formed:
        raise InputError(
            f"{path}: its word2idx does not give words their numbers; get it anew"
        )
    return numbers


def _in_order(path, numbers: dict[str, int]) -> list[str]:
    words = sorted(numbers, key=numbers.get)
    if not words or [numbers[word] for word in words] != list(range(len(words))):
        raise InputError(
            f"{path}: its {len(words)} words do not have the numbers from 0 to "
            f"{len(words) - 1}; get it anew"
        )
    return words
