"""The cost of HLO programs, against counts by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from vse_jax.compilation.program_cost import Cost, program_cost

ROWS, DIM = 6, 5
X = jax.ShapeDtypeStruct((ROWS, DIM), jnp.float32)
KERNEL = jax.ShapeDtypeStruct((DIM, DIM), jnp.float32)
PRODUCT = 2 * ROWS * DIM * DIM


def cost_of(function, *args, assumed_trips=1):
    """The cost of a function before the compiler optimizes it."""
    text = jax.jit(function).lower(*args).as_text(dialect="hlo")
    return program_cost(text, assumed_trips)


def test_a_product_in_nested_loops_counts_once_per_iteration():
    def function(x, kernel):
        def inner(x, _):
            return x @ kernel, None

        def outer(x, _):
            return jax.lax.scan(inner, x @ kernel, None, length=3)[0], None

        return jax.lax.scan(outer, x, None, length=7)[0]

    assert cost_of(function, X, KERNEL).flops == 7 * (1 + 3) * PRODUCT


@pytest.mark.parametrize(
    ("start", "stop", "step"), [(0, 9, 1), (3, 20, 4), (9, -1, -2)]
)
def test_a_counter_may_start_and_end_anywhere(start, stop, step):
    def function(x, kernel):
        def goes_on(state):
            return state[0] < stop if step > 0 else state[0] > stop

        def body(state):
            return state[0] + step, state[1] @ kernel

        return jax.lax.while_loop(goes_on, body, (start, x))[1]

    trips = len(range(start, stop, step))
    assert cost_of(function, X, KERNEL).flops == trips * PRODUCT


def test_a_loop_whose_length_depends_on_data_takes_the_assumed_number():
    def function(x, kernel, count):
        return jax.lax.fori_loop(0, count, lambda _, x: x @ kernel, x)

    count = jax.ShapeDtypeStruct((), jnp.int32)
    cost = cost_of(function, X, KERNEL, count, assumed_trips=11)
    assert (cost.flops, cost.unknown_loops) == (11 * PRODUCT, 1)


def test_the_most_expensive_branch_of_a_conditional_counts():
    branches = (
        lambda x, kernel: x,
        lambda x, kernel: x @ kernel @ kernel,
        lambda x, kernel: x @ kernel,
    )

    def function(x, kernel, index):
        return jax.lax.switch(index, branches, x, kernel)

    cost = cost_of(function, X, KERNEL, jax.ShapeDtypeStruct((), jnp.int32))
    assert (cost.flops, cost.choices) == (2 * PRODUCT, 1)


def test_products_with_batch_axes():
    def function(left, right):
        return jnp.einsum("bhij,bjk->bhik", left, right)

    left, right = (
        jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in ((3, 2, 5, 7), (3, 7, 4))
    )
    assert cost_of(function, left, right).flops == 2 * 3 * 2 * 5 * 7 * 4


@pytest.mark.parametrize(
    "options",
    [
        {"window_strides": (1, 1), "padding": "VALID"},
        {"window_strides": (2, 3), "padding": ((1, 2), (0, 3))},
        {"window_strides": (1, 1), "padding": ((2, 2), (1, 1)), "lhs_dilation": (2, 3)},
        {"window_strides": (1, 2), "padding": "SAME", "rhs_dilation": (2, 1)},
        {"window_strides": (1, 1), "padding": "SAME", "feature_group_count": 2},
    ],
)
def test_convolutions_count_no_products_with_padding(options):
    def function(image, kernel):
        return jax.lax.conv_general_dilated(
            image, kernel, dimension_numbers=("NHWC", "HWIO", "NHWC"), **options
        )

    image = np.ones((2, 9, 10, 4), np.float32)
    kernel = np.ones((3, 2, 4 // options.get("feature_group_count", 1), 6), np.float32)
    # Each product is 1, so the outputs count the products.
    products = float(function(image, kernel).sum())
    assert cost_of(function, image, kernel).flops == 2 * products


def test_collectives_in_a_loop():
    def function(x):
        def body(_, x):
            return x + jax.lax.psum(x, "devices")

        return jax.lax.all_gather(jax.lax.fori_loop(0, 5, body, x), "devices")

    mesh = Mesh(np.array(jax.devices()), ("devices",))
    sharded = PartitionSpec("devices")
    mapped = jax.shard_map(
        function, mesh=mesh, in_specs=sharded, out_specs=sharded, check_vma=False
    )
    rows = jax.ShapeDtypeStruct((16, 3), jnp.float32)
    cost = program_cost(jax.jit(mapped).lower(rows).compile().as_text())
    assert cost.collectives == 5 + 1
    assert cost.collective_bytes == 5 * (2 * 3 * 4) + 16 * 3 * 4


TPU_PROGRAM = """\
HloModule jit_f, is_scheduled=true

%fused (p.0: f32[64,8], p.1: s32[]) -> f32[1,8] {
  %p.0 = f32[64,8]{1,0:T(8,128)} parameter(0)
  %p.1 = s32[]{:T(128)} parameter(1)
  %zero = s32[]{:T(128)} constant(0)
  ROOT %slice = f32[1,8]{1,0:T(8,128)S(1)} dynamic-slice(%p.0, %p.1, %zero), \
dynamic_slice_sizes={1,8}
}

%gather_start (p.2: f32[2,8]) -> (f32[2,8], f32[16,8], s32[2]) {
  %p.2 = f32[2,8]{1,0:T(8,128)S(1)} parameter(0)
  %all-gather.1 = f32[16,8]{1,0:T(8,128)S(1)} all-gather(%p.2), dimensions={0}
  ROOT %start = (f32[2,8]{1,0:T(8,128)S(1)}, f32[16,8]{1,0:T(8,128)S(1)}, \
s32[2]{0:S(4)}) custom-call(%all-gather.1), custom_call_target="AsyncCollectiveStart"
}

%async_collective_fusion.2 (p.3: f32[2,8], p.4: f32[2,8]) -> f32[2,8] {
  %p.3 = f32[2,8]{1,0:T(8,128)S(1)} parameter(0)
  %p.4 = f32[2,8]{1,0:T(8,128)S(1)} parameter(1)
  %all-gather.2 = f32[16,8]{1,0:T(8,128)S(1)} all-gather(%p.3), dimensions={0}
  ROOT %sum = f32[2,8]{1,0:T(8,128)S(1)} add(%p.3, %p.4)
}

%body (state: (s32[], f32[64,8])) -> (s32[], f32[64,8]) {
  %one = s32[]{:T(128)} constant(1)
  %state = (s32[]{:T(128)}, f32[64,8]{1,0:T(8,128)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%state), index=0
  %x = f32[64,8]{1,0:T(8,128)} get-tuple-element(%state), index=1
  %row = f32[1,8]{1,0:T(8,128)S(1)} fusion(%x, %i), kind=kLoop, calls=%fused, \
backend_config={"window_config":{"estimated_cycles":"100"}}
  %next = s32[]{:T(128)S(6)} add(%i, %one)
  ROOT %new = (s32[]{:T(128)}, f32[64,8]{1,0:T(8,128)}) tuple(%next, /*index=1*/%x)
}

%condition (state.1: (s32[], f32[64,8])) -> pred[] {
  %seven = s32[]{:T(128)} constant(7)
  %state.1 = (s32[]{:T(128)}, f32[64,8]{1,0:T(8,128)}) parameter(0)
  %i.1 = s32[]{:T(128)} get-tuple-element(%state.1), index=0
  ROOT %less = pred[]{:T(512)S(6)} compare(%i.1, %seven), direction=LT
}

ENTRY %main (a: f32[64,8], b: f32[2,8]) -> f32[64,8] {
  %a = f32[64,8]{1,0:T(8,128)} parameter(0)
  %b = f32[2,8]{1,0:T(8,128)S(1)} parameter(1)
  %zero.1 = s32[]{:T(128)} constant(0)
  %start.1 = (f32[2,8]{1,0:T(8,128)S(1)}, f32[16,8]{1,0:T(8,128)S(1)}, \
s32[2]{0:S(4)}) fusion(%b), kind=kCustom, calls=%gather_start
  %beside = f32[2,8]{1,0:T(8,128)S(1)} fusion(%b, %b), kind=kOutput, \
calls=%async_collective_fusion.2, backend_config={"estimated_cycles":"30"}
  %first = (s32[]{:T(128)}, f32[64,8]{1,0:T(8,128)}) tuple(%zero.1, %a)
  %loop = (s32[]{:T(128)}, f32[64,8]{1,0:T(8,128)}) while(%first), \
condition=%condition, body=%body
  %last = f32[64,8]{1,0:T(8,128)} get-tuple-element(%loop), index=1
  ROOT %copy = f32[64,8]{1,0:T(8,128)} copy(%last), \
backend_config={"window_config":{"estimated_cycles":"5"}}
}
"""


def test_the_final_text_of_a_tpu_program():
    assert program_cost(TPU_PROGRAM) == Cost(
        bytes=7 * 8 * 4 + 2 * 64 * 8 * 4,
        collectives=1,  # the second all-gather is the one that runs already
        collective_bytes=16 * 8 * 4,
        cycles=7 * 100 + 30 + 5,
    )


def test_an_update_in_place_writes_only_the_update():
    def function(x, row, place):
        return jax.lax.dynamic_update_slice(x, row, (place, 0))

    row = jax.ShapeDtypeStruct((1, DIM), jnp.float32)
    cost = cost_of(function, X, row, jax.ShapeDtypeStruct((), jnp.int32))
    assert cost.bytes == 2 * DIM * 4  # reads and writes one row
