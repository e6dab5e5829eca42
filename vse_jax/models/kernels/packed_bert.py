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
from vse_jax.models.transformers.sizes import Sizes
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
    sizes: Sizes,
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


def _first(function, arrays, packing, *, is_padded=True):
    size = len(arrays[0])

    def of_rows(*arrays):
        result = function(*arrays)
        return jax.tree.map(lambda x: padded(x, size), result) if is_padded else result

    return on_first_rows(of_rows, arrays, packing.total, -(-size // PACKED_PARTS), size)


@jax.custom_vjp
def _dense(rows, layer, packing):
    """Returns the dense layer of the first rows, and zeros."""
    return _first(lambda x: x @ layer["kernel"] + layer["bias"], [rows], packing)


def _dense_forward(rows, layer, packing):
    return _dense(rows, layer, packing), (rows, layer, packing)


def _dense_backward(residuals, cotangent):
    rows, layer, packing = residuals
    to_rows = _first(lambda y: y @ layer["kernel"].T, [cotangent], packing)
    to_layer = _first(
        lambda x, y: {"kernel": x.T @ y, "bias": y.sum(0)},
        [rows, cotangent],
        packing,
        is_padded=False,
    )
    return to_rows, to_layer, None


_dense.defvjp(_dense_forward, _dense_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _mlp(rows, hidden, out, packing, activation):
    """Returns two dense layers of the first rows, and zeros."""
    return _mlp_forward(rows, hidden, out, packing, activation)[0]


def _mlp_forward(rows, hidden, out, packing, activation):
    def forward(x):
        inner = x @ hidden["kernel"] + hidden["bias"]
        return ACTIVATIONS[activation](inner) @ out["kernel"] + out["bias"], inner

    result, inner = _first(forward, [rows], packing)
    return result, (rows, inner, hidden, out, packing)


def _mlp_backward(activation, residuals, cotangent):
    rows, inner, hidden, out, packing = residuals

    def to_inner(inner, y):
        activated, pull_back = jax.vjp(ACTIVATIONS[activation], inner)
        (to_inner,) = pull_back(y @ out["kernel"].T)
        return to_inner, activated

    to_inner, activated = _first(to_inner, [inner, cotangent], packing)
    to_rows = _first(lambda y: y @ hidden["kernel"].T, [to_inner], packing)

    def to_layers(x, to_inner, activated, y):
        return (
            {"kernel": x.T @ to_inner, "bias": to_inner.sum(0)},
            {"kernel": activated.T @ y, "bias": y.sum(0)},
        )

    arrays = [rows, to_inner, activated, cotangent]
    to_hidden, to_out = _first(to_layers, arrays, packing, is_padded=False)
    return to_rows, to_hidden, to_out, None


_mlp.defvjp(_mlp_forward, _mlp_backward)
