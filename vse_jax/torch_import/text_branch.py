"""Text encoders in checkpoint files of the PyTorch repositories.

The parameters and options of a file say which text encoder it has. All that depends on
this is here: options of the configuration, vocabulary and conversion of parameters.
"""

from typing import Any

import numpy as np

from vse_jax.data.text.vocabulary import Vocabulary
from vse_jax.errors import InputError
from vse_jax.torch_import import parameter_names, vocabulary_file
from vse_jax.torch_import.torch_checkpoint import TorchCheckpoint, refuse_unknown

_PREFIX = "txt"
_WORDS = "txt.embed.weight"
_NEEDED = (_WORDS, "txt.rnn.weight_ih_l0")


def options(loaded: TorchCheckpoint, path: str) -> dict[str, Any]:
    """Returns the options of the text encoder, by dotted names of the configuration.

    Raises:
      InputError: if no text encoder here has these parameters or options.
    """
    arrays = loaded.branch(_PREFIX)
    refuse_unknown(arrays, _NEEDED, path)
    if loaded.options.get("no_txtnorm"):
        raise InputError(
            f"{path}: its caption embeddings are not normalized (no_txtnorm), which no "
            "text encoder here supports; evaluate it with its original code"
        )
    both_directions = parameter_names.has_both_directions(arrays)
    return {
        # Only VSE++'s text encoder runs in one direction.
        "data.tokenizer": "nltk" if both_directions else "nltk_sentences",
        "data.vocabulary": "checkpoint",
        "model.text_encoder": "bigru_gpo" if both_directions else "gru",
        "model.word_dim": arrays[_WORDS].shape[1],
    }


def read_vocabulary(loaded: TorchCheckpoint, vocabulary: str, path: str) -> Vocabulary:
    """Reads the file that numbers the words of a model.

    Args:
      loaded: the checkpoint.
      vocabulary: path of the vocabulary file.
      path: path of the checkpoint, for messages.

    Raises:
      InputError: if the file cannot be read, or if it is of another model.
    """
    words, word_count = vocabulary_file.read(vocabulary)
    embeddings = len(loaded.arrays[_WORDS])
    if embeddings != word_count:
        raise InputError(
            f"{vocabulary}: has {word_count} words, but the model of {path} has "
            f"{embeddings}; set --vocabulary to the one that it was trained with"
        )
    return words


def variables(loaded: TorchCheckpoint, words: Vocabulary) -> dict:
    """Returns the variables of the text encoder: nested dicts below `params`."""
    arrays = loaded.branch(_PREFIX)
    embedding = arrays[_WORDS]
    # Only our vocabulary has `<mask>`, for augmentation; captions do not contain it.
    without_mask = len(words) - len(embedding)
    arrays[_WORDS] = np.pad(embedding, ((0, without_mask), (0, 0)))
    return parameter_names.variables(arrays)
