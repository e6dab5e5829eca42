"""Functions of the rows that are used, in one of a few sizes."""

import jax
import numpy as np
import pytest

from vse_jax.models.kernels.first_rows import on_first_rows, padded

SIZE = 10


def scaled_and_summed(x):
    return padded(2 * x, SIZE), x.sum(0)


@pytest.mark.parametrize("block", [1, 3, 4, SIZE])
def test_rows_are_rounded_up_to_a_block_and_to_the_size_at_most(block):
    # Row 10 is beyond the size and never used.
    x = np.arange(1.0, 23.0, dtype=np.float32).reshape(11, 2)
    apply = jax.jit(
        lambda x, rows: on_first_rows(scaled_and_summed, [x], rows, block, SIZE)
    )
    for rows in range(SIZE + 1):
        used = min(-(-rows // block) * block, SIZE) if block < SIZE else SIZE
        scaled, total = apply(x, rows)
        np.testing.assert_array_equal(scaled[:used], 2 * x[:used])
        assert scaled.shape == (SIZE, 2)
        assert not np.any(scaled[used:])
        np.testing.assert_array_equal(total, x[:used].sum(0))


def test_each_size_is_compiled_once():
    sizes = []

    def sum_of(x):
        sizes.append(len(x))
        return x.sum(0)

    jax.make_jaxpr(lambda x, n: on_first_rows(sum_of, [x], n, 4, SIZE))(
        np.ones((SIZE, 2), np.float32), np.int32(1)
    )
    assert sizes == [0, 4, 8, SIZE]
