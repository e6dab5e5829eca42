"""The sizes of a text transformer, which a file of pretrained weights determines."""

from typing import NamedTuple


class TextSizes(NamedTuple):
    """Sizes and constants of a text transformer.

    Attributes:
      layers: number of layers.
      dim: dimensions of a token's state.
      heads: attention heads of a layer; divides `dim`.
      mlp_dim: dimensions of the hidden layer between two attentions.
      positions: largest number of tokens.
      vocabulary_size: rows of the table of tokens.
      activation: of the hidden layer, one of `activations.ACTIVATIONS`.
      epsilon: added to the variance by layer normalization.
      padding: token that fills the space behind a caption; read by SigLIP only.
    """

    layers: int
    dim: int
    heads: int
    mlp_dim: int
    positions: int
    vocabulary_size: int
    activation: str
    epsilon: float
    padding: int = 0
