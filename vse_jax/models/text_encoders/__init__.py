"""Text encoders: from the tokens of captions to embeddings.

An encoder is a Flax module with the attributes `vocabulary_size`, `word_dim`,
`embed_dim`, `dtype`, `pooling` and `dropout`, in this order. It maps a batch, with
int32 `tokens [batch, time]` and `token_count [batch]`, to `[batch, embed]` float32, not
normalized. With `dropout`, a training batch also has `image_id [batch]`.
"""

from vse_jax.models.text_encoders.recurrent import (
    BidirectionalGRUEncoder,
    GRUEncoder,
)

ENCODERS = {"bigru_gpo": BidirectionalGRUEncoder, "gru": GRUEncoder}
