"""The figures that follow from a program's cost, against arithmetic by hand."""

import jax
import jax.numpy as jnp
import pytest

from configs import common
from vse_jax.compilation import compile as compilation
from vse_jax.compilation import report
from vse_jax.compilation.chips import GIB, Chip
from vse_jax.compilation.measured import Measured
from vse_jax.compilation.program_cost import Cost
from vse_jax.compilation.programs import Program
from vse_jax.compilation.topology import Topology
from vse_jax.errors import InputError

CHIP = Chip(
    hbm_bytes=2 * GIB,
    hbm_bandwidth=1e9,
    peak_flops=1e12,
    clock=1e9,
    ici_bandwidth=1e8,
    axes=2,
)
TOPOLOGY = Topology("v5e:2x2", [None] * 4, CHIP)
TOKENS = {"tokens": jax.ShapeDtypeStruct((100, 24), jnp.int32)}
PROGRAM = Program("train, 24 tokens", None, {}, TOKENS, {}, epochs=3)


@pytest.fixture
def config():
    config = common.get_config()
    config.batch_size, config.dtype = 100, "bfloat16"
    config.compile.pairs_per_epoch = 6000
    return config


def measured(**cost):
    return Measured(PROGRAM, TOPOLOGY, 1.0, peak_bytes=GIB, cost=Cost(**cost))


@pytest.mark.parametrize(
    ("cost", "seconds"),
    [
        ({"cycles": 5e7, "flops": 1e10, "bytes": 2e7}, 0.05),
        ({"cycles": 1e6, "flops": 1e10, "bytes": 2e7}, 0.02),
        ({"cycles": 1e6, "flops": 4e10, "bytes": 2e7}, 0.04),
    ],
)
def test_time_is_the_larger_of_the_cycles_and_the_roofline(config, cost, seconds):
    one = measured(**cost)
    (described,) = report.as_json([one], TOPOLOGY, config)["programs"]
    assert described["rows_per_second"] == pytest.approx(100 / seconds)
    assert described["mfu"] == pytest.approx(cost["flops"] / seconds / 1e12)
    # 3 epochs of 60 steps.
    assert described["training_minutes"] == pytest.approx(180 * seconds / 60)
    assert described["flops"] == cost["flops"]


def test_row_of_a_program(config):
    table = report.table([measured(cycles=5e7, flops=1e10)], TOPOLOGY, config)
    (row,) = [line for line in table.splitlines() if line.startswith("train, 24")]
    assert "1024.0  50.0" in row  # MiB of peak memory and percent of the HBM
    assert row.split()[-5:] == ["50.00", "10.00", "2,000", "20.0", "0.1"]
    assert "without collectives" in table


def test_what_does_not_fit_is_refused_with_the_option(config):
    refused = Measured(PROGRAM, TOPOLOGY, 1.0, refusal="needs 3.00 GiB of 2.00 GiB")
    table = report.table([refused], TOPOLOGY, config)
    assert [*PROGRAM.name.split(), *14 * ["-"]] in map(str.split, table.splitlines())
    (described,) = report.as_json([refused], TOPOLOGY, config)["programs"]
    assert described["refusal"] == "needs 3.00 GiB of 2.00 GiB"
    with pytest.raises(InputError, match=r"needs 3.*batch_size to less than 100"):
        compilation.refuse([refused])
