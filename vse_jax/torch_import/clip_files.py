"""Names and options of CLIP's and SigLIP's text towers in Hugging Face's layout."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from vse_jax.models.transformers.sizes import TextSizes
from vse_jax.torch_import import pretrained_folder, tower_names

_PREFIX = "text_model."
# Parameters of the image tower, of the joint space, and lists of positions.
_UNUSED = re.compile(
    r"vision_model\..*|(text|visual)_projection\.weight|logit_(scale|bias)|head\..*"
    r"|.*position_ids"
)


class TextTowerFiles(NamedTuple):
    """Properties of the files of a text tower.

    Attributes:
      MODEL_TYPES: in `config.json`, of the whole model and of the tower alone.
      defaults: options that files leave out if they have these values.
    """

    MODEL_TYPES: tuple[str, ...]
    defaults: dict[str, Any]

    def sizes(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the options of `config.model.text_tower` that `config.json` states.

        Args:
          config: content of `config.json`.

        Raises:
          InputError: see `options`.
        """
        options = self.options(config)
        names = tower_names.SIZES._asdict()
        found = {option: options[name] for option, name in names.items()}
        if found["padding"] is None:
            found["padding"] = self.defaults["pad_token_id"]
        return found

    def options(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the options of the text tower in `config.json`.

        Raises:
          InputError: if those of the tower are not a JSON object.
        """
        return self.defaults | pretrained_folder.section(config, "text_config")

    def paths(self, sizes: TextSizes) -> dict[str, tuple[str, ...]]:
        """Returns our paths of all parameters, by the names of the file."""
        return tower_names.text_names(sizes.layers)

    def usual_arrays(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Returns the arrays of the text tower by their usual names."""
        found = {
            name.removeprefix(_PREFIX): array
            for name, array in arrays.items()
            if not _UNUSED.fullmatch(name)
        }
        return {n: array for n, array in found.items() if not _UNUSED.fullmatch(n)}


CLIP = TextTowerFiles(
    ("clip", "clip_text_model"),
    {
        "vocab_size": 49408,
        "hidden_size": 512,
        "intermediate_size": 2048,
        "num_hidden_layers": 12,
        "num_attention_heads": 8,
        "max_position_embeddings": 77,
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5,
        "pad_token_id": 1,
        "eos_token_id": 49407,
    },
)
SIGLIP = TextTowerFiles(
    ("siglip", "siglip_text_model"),
    {
        "vocab_size": 32000,
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "max_position_embeddings": 64,
        "hidden_act": "gelu_pytorch_tanh",
        "layer_norm_eps": 1e-6,
        "pad_token_id": 1,
    },
)
