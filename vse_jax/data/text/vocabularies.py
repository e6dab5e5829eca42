"""Both kinds of vocabularies: words of the training captions, and pretrained tokens."""

import json
from typing import Any

from vse_jax.data.text.subwords import Subwords
from vse_jax.data.text.vocabulary import Vocabulary

AnyVocabulary = Vocabulary | Subwords


def of_run(run: dict[str, Any]) -> AnyVocabulary:
    """Returns the vocabulary in the description of a run.

    Raises:
      InputError: if it is damaged.
    """
    saved = run["vocabulary"]
    kind = Subwords if "tokenizer" in saved else Vocabulary
    return kind.from_json(json.dumps(saved), "the vocabulary of the run")
