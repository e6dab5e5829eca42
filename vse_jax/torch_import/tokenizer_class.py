"""The class of a tokenizer in Hugging Face's layout, which decides what its files mean.

The same `vocab.txt` splits texts in another way with another class.
"""

from typing import Any

from etils import epath

from vse_jax.errors import InputError
from vse_jax.torch_import import pretrained_folder

OPTIONS = "tokenizer_config.json"
_KEY = "tokenizer_class"
# Classes that split texts as BERT's tokenizer does.
_BERT = (
    "Bert",
    "ConvBert",
    "DistilBert",
    "DPRContextEncoder",
    "DPRQuestionEncoder",
    "Electra",
    "LayoutLM",
    "Lxmert",
    "MobileBert",
    "RetriBert",
    "SqueezeBert",
)


def of(*names: str) -> set[str]:
    """Returns the classes of the tokenizers of some models, such as `Bert`."""
    return {f"{name}Tokenizer{end}" for name in names for end in ("", "Fast")}


BERT, CLIP = of(*_BERT), of("CLIP")


def find(folder: epath.Path) -> tuple[Any, epath.Path]:
    """Returns the class of a folder's tokenizer, or None, and the file that names it.

    Args:
      folder: may lack both files that name a class.

    Raises:
      InputError: if a file cannot be read or is no JSON object.
    """
    for name in (OPTIONS, pretrained_folder.CONFIG):
        path = folder / name
        found = pretrained_folder.read_json(path).get(_KEY) if path.exists() else None
        if found is not None:
            return found, path
    return None, folder / OPTIONS


def check(folder: epath.Path, allowed: set[str], file: str) -> None:
    """Checks that a folder's tokenizer splits texts as its vocabulary is read here.

    Args:
      folder: of the tokenizer.
      allowed: classes that do; a folder may also name no class.
      file: name of the file of the vocabulary, for messages.

    Raises:
      InputError: if the class is another one.
    """
    found, path = find(folder)
    if found is None or (isinstance(found, str) and found in allowed):
        return
    expected = ", ".join(sorted(name for name in allowed if name[-4:] != "Fast"))
    raise InputError(
        f"{path}: its {_KEY} is {found!r}, which splits texts in another way than "
        f"{folder / file} is read here; expected one of {expected}, or a "
        f"tokenizer.json beside {file}; choose other weights"
    )
