"""Text encoders: from the tokens of captions to embeddings.

An encoder is a Flax module that takes `vocabulary_size`, `word_dim`, `embed_dim` and
`dtype` and maps a batch with `tokens [batch, time]` int32 and `token_count [batch]` to
`[batch, embed]` float32, not normalized.
"""

from vse_jax.models.text_encoders.recurrent import (
    BidirectionalGRUEncoder,
    GRUEncoder,
)

ENCODERS = {"bigru_gpo": BidirectionalGRUEncoder, "gru": GRUEncoder}
