"""Text encoders: from the tokens of captions to embeddings.

An encoder is a Flax module that maps a batch, with int32 `tokens [batch, time]` and
`token_count [batch]`, to `[batch, embed]` float32, not normalized. With `dropout`, a
training batch also has `image_id [batch]`. Recurrent encoders learn the words of the
dataset. Transformers are usually pretrained and have the tokens of their weights.
"""

import flax.linen as nn
import jax.numpy as jnp

from vse_jax.models.text_encoders.recurrent import (
    BidirectionalGRUEncoder,
    GRUEncoder,
)
from vse_jax.models.text_encoders.transformer import TOWERS, TransformerEncoder
from vse_jax.models.transformers.sizes import TextSizes

RECURRENT = {"bigru_gpo": BidirectionalGRUEncoder, "gru": GRUEncoder}
ENCODERS = (*RECURRENT, *TOWERS)


def create(
    name: str,
    *,
    vocabulary_size: int,
    word_dim: int,
    embed_dim: int,
    dtype: jnp.dtype,
    pooling: str,
    dropout: float,
    text_dropout: float,
    sizes: TextSizes | None,
) -> nn.Module:
    """Returns a text encoder.

    Args:
      name: one of `ENCODERS`.
      vocabulary_size: number of different tokens.
      word_dim: dimensions of a word's embedding; recurrent encoders only.
      embed_dim: dimensions of a caption's embedding.
      dtype: of the arithmetic.
      pooling: of the states, one of `pooling.POOLINGS`; `gru` ignores it.
      dropout: share of the numbers of words (in a transformer, of the states) that are
        set to 0 if there is a key `dropout`.
      text_dropout: dropout within BERT; 0 for other encoders.
      sizes: sizes of a transformer; its `vocabulary_size` may be 0.
    """
    if name in RECURRENT:
        return RECURRENT[name](
            vocabulary_size, word_dim, embed_dim, dtype, pooling, dropout
        )
    # The table of pretrained weights may have more rows than there are tokens.
    rows = sizes.vocabulary_size or vocabulary_size
    sizes = sizes._replace(vocabulary_size=rows)
    return TransformerEncoder(
        name, sizes, embed_dim, dtype, pooling, dropout, text_dropout
    )
