"""Dimensions of RVSE++, for the JAX and the PyTorch side alike."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Dimensions of the model; the defaults are those of the paper on Flickr30K."""

    region_dim: int = 2048
    embed_dim: int = 1024
    word_dim: int = 300
    vocabulary_size: int = 8481
    position_dim: int = 32
    pooling_dim: int = 32


TINY = Sizes(region_dim=16, embed_dim=8, word_dim=8, vocabulary_size=50)
