"""The layers of BERT over captions of different lengths, without padding, for CPUs.

A batch is padded to the length of its longest caption: 128 captions of Flickr8k to 32
word pieces, of which 45% are pieces of captions. The packed form puts these first and
computes dense layers of them alone, rounded up to an eighth of all rows. Only the
attention has padded arrays.

The derivative of the dense layers is written by hand, since that of a branch would keep
the arrays of all branches.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from vse_jax.models.kernels.first_rows import on_first_rows, padded
from vse_jax.models.transformers.activations import ACTIVATIONS
from vse_jax.models.transformers.attention import attend
from vse_jax.models.transformers.blocks import layer_norm
from vse_jax.models.transformers.sizes import TextSizes
from vse_jax.models.transformers.token_dropout import LayerDropout, TokenDropout

PACKED_PARTS = 8
# With smaller states, compiling a product of each size takes longer than it saves.
SMALLEST_DIM = 256


class Packing(NamedTuple):
    """A permutation of all tokens of a batch that puts those of captions first.

    Attributes:
      order: `[rows]` int32, token `[batch * time]` at each row.
      place: `[rows]` int32, row of each token.
      total: int32, number of tokens of captions.
    """

    order: jax.Array
    place: jax.Array
    total: jax.Array

    @classmethod
    def create(cls, token_count: jax.Array, time: int) -> "Packing":
        """Returns the packing of captions with these numbers of tokens."""
        exists = (jnp.arange(time) < token_count[:, None]).reshape(-1)
        total = exists.sum(dtype=jnp.int32)
        first = jnp.cumsum(exists, dtype=jnp.int32) - 1
        behind = total + jnp.cumsum(~exists, dtype=jnp.int32) - 1
        place = jnp.where(exists, first, behind)
        rows = jnp.arange(len(place), dtype=jnp.int32)
        order = jnp.zeros_like(rows).at[place].set(rows, unique_indices=True)
        return cls(order, place, total)

    def pack(self, states: jax.Array) -> jax.Array:
        """Maps `[batch, time, dim]` to `[rows, dim]`."""
        flat = states.reshape(len(self.order), -1)
        return _permuted(flat, self.order, self.place)

    def unpack(self, rows: jax.Array, batch: int) -> jax.Array:
        """Maps `[rows, dim]` to `[batch, time, dim]`."""
        flat = _permuted(rows, self.place, self.order)
        return flat.reshape(batch, -1, rows.shape[1])


@jax.custom_vjp
def _permuted(rows, order, inverse):
    """Returns `rows[order]`; its gradient is a lookup too, and no sum into rows."""
    del inverse
    return rows[order]


def _permuted_forward(rows, order, inverse):
    return rows[order], inverse


def _permuted_backward(inverse, cotangent):
    return cotangent[inverse], None, None


_permuted.defvjp(_permuted_forward, _permuted_backward)


def packed_layers(
    sizes: TextSizes,
    dtype: jnp.dtype,
    params: list[Any],
    states: jax.Array,
    token_count: jax.Array,
    dropout: TokenDropout | None = None,
) -> jax.Array:
    """Applies BERT's layers.

    Args:
      sizes: sizes of the model.
      dtype: of the arithmetic.
      params: parameters of each layer.
      states: `[batch, time, dim]` of `dtype`.
      token_count: `[batch]` int32.
      dropout: None for no dropout.

    Returns:
      States `[batch, time, dim]` of `dtype`; those from `token_count` on are
      meaningless.
    """
    batch, time, _ = states.shape
    packing = Packing.create(token_count, time)
    exists = jnp.arange(time) < token_count[:, None]
    rows = packing.pack(states)
    tokens = jnp.divmod(packing.order, time)
    for number, of_layer in enumerate(params):
        drop = LayerDropout(dropout, number, tokens)
        rows = _layer(sizes, dtype, of_layer, rows, packing, exists, drop)
    return packing.unpack(rows, batch)


def _layer(sizes, dtype, params, rows, packing, exists, drop):
    def norm(name, x):
        module = layer_norm(sizes.epsilon, dtype, None)
        return module.apply({"params": params[name]}, x)

    attended = _attention(
        sizes, dtype, params["attention"], rows, packing, exists, drop.weights
    )
    rows = norm("attention_norm", rows + drop.attended(attended))
    hidden, out = (_in(dtype, params[name]) for name in ("hidden", "out"))
    mapped = _mlp(rows, hidden, out, packing, sizes.activation)
    return norm("norm", rows + drop.out(mapped))


def _attention(sizes, dtype, params, rows, packing, exists, drop_weights):
    batch, time = exists.shape
    names = ("query", "key", "value")
    together = jax.tree.map(
        lambda *parts: jnp.concatenate(parts, -1), *(params[name] for name in names)
    )
    projected = packing.unpack(_dense(rows, _in(dtype, together), packing), batch)
    query, key, value = (
        part.reshape(batch, time, sizes.heads, -1)
        for part in jnp.split(projected, 3, axis=-1)
    )
    attended = attend(query, key, value, exists[:, None, None], drop_weights)
    attended = packing.pack(attended.reshape(batch, time, -1))
    return _dense(attended, _in(dtype, params["out"]), packing)


def _in(dtype, params):
    return jax.tree.map(lambda array: array.astype(dtype), params)


def _on_rows(function, arrays, packing):
    """Calls `function` with the rows of captions, see `on_first_rows`."""
    size = len(packing.order)
    return on_first_rows(
        function, arrays, packing.total, -(-size // PACKED_PARTS), size
    )


def _linear(layer, x):
    return x @ layer["kernel"] + layer["bias"]


def _linear_cotangents(layer, x, to_y):
    """Returns the cotangents of the layer and of `x`."""
    return {"kernel": x.T @ to_y, "bias": to_y.sum(0)}, to_y @ layer["kernel"].T


@jax.custom_vjp
def _dense(rows, layer, packing):
    """Returns the dense layer of the first rows, and zeros."""
    return _on_rows(lambda x: padded(_linear(layer, x), len(rows)), [rows], packing)


def _dense_forward(rows, layer, packing):
    return _dense(rows, layer, packing), (rows, layer, packing)


def _dense_backward(residuals, cotangent):
    rows, layer, packing = residuals

    def of_rows(x, to_y):
        to_layer, to_x = _linear_cotangents(layer, x, to_y)
        return padded(to_x, len(rows)), to_layer

    return *_on_rows(of_rows, [rows, cotangent], packing), None


_dense.defvjp(_dense_forward, _dense_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _mlp(rows, hidden, out, packing, activation):
    """Returns two dense layers of the first rows, and zeros."""
    return _mlp_forward(rows, hidden, out, packing, activation)[0]


def _mlp_forward(rows, hidden, out, packing, activation):
    def of_rows(x):
        inner = _linear(hidden, x)
        result = _linear(out, ACTIVATIONS[activation](inner))
        return padded(result, len(rows)), padded(inner, len(rows))

    result, inner = _on_rows(of_rows, [rows], packing)
    return result, (rows, inner, hidden, out, packing)


def _mlp_backward(activation, residuals, cotangent):
    rows, inner, hidden, out, packing = residuals

    def of_rows(x, inner, to_y):
        activated, pull_back = jax.vjp(ACTIVATIONS[activation], inner)
        to_out, to_activated = _linear_cotangents(out, activated, to_y)
        to_hidden, to_x = _linear_cotangents(hidden, x, *pull_back(to_activated))
        return padded(to_x, len(rows)), to_hidden, to_out

    return *_on_rows(of_rows, [rows, inner, cotangent], packing), None


_mlp.defvjp(_mlp_forward, _mlp_backward)
