"""Text encoders in checkpoint files of the PyTorch repositories.

The parameters and options of a file say which text encoder it has. All that depends on
this is here: options of the configuration, vocabulary and conversion of parameters.
"""

from typing import Any

import ml_collections
import numpy as np

from vse_jax.data.text.vocabularies import AnyVocabulary
from vse_jax.errors import InputError
from vse_jax.models.transformers.sizes import TextSizes
from vse_jax.torch_import import (
    bert_branch,
    parameter_names,
    training_options,
    vocabulary_file,
)
from vse_jax.torch_import.torch_checkpoint import (
    TorchCheckpoint,
    refuse_other_than_matrices,
    refuse_unknown,
)

_PREFIX = "txt"
_WORDS = "txt.embed.weight"
_NEEDED = (_WORDS, "txt.rnn.weight_ih_l0")


def options(loaded: TorchCheckpoint, path: str, vocabulary: str = "") -> dict[str, Any]:
    """Returns the options of the text encoder, by dotted names of the configuration.

    Args:
      loaded: the checkpoint.
      path: path of the checkpoint, for messages.
      vocabulary: path of the vocabulary file, or of BERT's tokenizer.

    Raises:
      InputError: if no text encoder here has these parameters or options, or if the
        words' embeddings are mis-shaped.
    """
    if training_options.flag(loaded.options, "no_txtnorm", False, path):
        raise InputError(
            f"{path}: its caption embeddings are not normalized (no_txtnorm), which no "
            "text encoder here supports; evaluate it with its original code"
        )
    if bert_branch.is_in(loaded):
        return bert_branch.options(loaded, vocabulary, path)
    arrays = loaded.branch(_PREFIX)
    refuse_unknown(arrays, _NEEDED, path)
    refuse_other_than_matrices(arrays, [_WORDS], path)
    both_directions = parameter_names.has_both_directions(arrays)
    return {
        # Only VSE++'s text encoder runs in one direction.
        "data.tokenizer": "nltk" if both_directions else "nltk_sentences",
        "data.vocabulary": "checkpoint",
        "model.text_encoder": "bigru_gpo" if both_directions else "gru",
        "model.word_dim": arrays[_WORDS].shape[1],
    }


def read_vocabulary(
    loaded: TorchCheckpoint, vocabulary: str, path: str
) -> AnyVocabulary:
    """Reads the file that numbers the words of a model, or BERT's tokenizer.

    Args:
      loaded: the checkpoint.
      vocabulary: path of the vocabulary file; with BERT, see `tokenizer_files.read`.
      path: path of the checkpoint, for messages.

    Raises:
      InputError: if the file cannot be read, or if it is of another model.
    """
    if bert_branch.is_in(loaded):
        return bert_branch.read_tokenizer(loaded, vocabulary)
    words, word_count = vocabulary_file.read(vocabulary)
    embeddings = len(loaded.arrays[_WORDS])
    if embeddings != word_count:
        raise InputError(
            f"{vocabulary}: has {word_count} words, but the model of {path} has "
            f"{embeddings}; set --vocabulary to the one that it was trained with"
        )
    return words


def variables(
    loaded: TorchCheckpoint,
    config: ml_collections.ConfigDict,
    words: AnyVocabulary,
    path: str,
) -> dict:
    """Returns the variables of the text encoder: nested dicts below `params`.

    Args:
      loaded: the checkpoint.
      config: configuration with what `options` returns.
      words: what `read_vocabulary` returns.
      path: path of the checkpoint, for messages.

    Raises:
      InputError: if a parameter of BERT is missing, unexpected or mis-shaped.
    """
    if bert_branch.is_in(loaded):
        return bert_branch.variables(loaded, TextSizes(**config.model.text_tower), path)
    arrays = loaded.branch(_PREFIX)
    embedding = arrays[_WORDS]
    # Only our vocabulary has `<mask>`, for augmentation; captions do not contain it.
    without_mask = len(words) - len(embedding)
    arrays[_WORDS] = np.pad(embedding, ((0, without_mask), (0, 0)))
    return parameter_names.variables(arrays)
