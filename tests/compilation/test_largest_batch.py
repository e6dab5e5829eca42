"""The search for the largest batch, against a scan of all sizes."""

import numpy as np
import pytest

from configs import common
from vse_jax.compilation import largest_batch, measured, topology
from vse_jax.compilation.chips import CHIPS, GIB
from vse_jax.data import sampling
from vse_jax.errors import InputError

EIGHT = topology.Topology("v5e:2x4", [None] * 8, CHIPS["v5e"])
AVAILABLE = 16 * GIB
MEMORY = {
    "linear": lambda size: 260e6 + 0.21e6 * size,
    "proportional": lambda size: 1e6 * size,
    "in steps": lambda size: 300e6 + 100e6 * (size // 512),
    "quadratic": lambda size: 300e6 + 0.2e6 * size + 100.0 * size**2,
    "of all pairs": lambda size: 300e6 + 500.0 * size**2,
    "of the root": lambda size: 300e6 + 80e6 * size**0.5,
    "large": lambda size: 1e9 * size,
    "too large": lambda size: 1e10 * size,
    # As of ResNet-152 on a TPU v5e.
    "saved where scarce": lambda size: (
        min(900e6 + 8.6e6 * size, 14.9e9 + 1e4 * size) if size <= 2500 else 1e11
    ),
    "constant": lambda size: 1e9 if size <= 6000 else 1e11,
    # Resident features, or large parameters.
    "half fixed": lambda size: 8.5e9 + 0.2e6 * size,
    "mostly fixed": lambda size: 16e9 + 0.4e6 * size,
}
MOST_TRIES = {
    "linear": 6,
    "proportional": 3,
    "in steps": 6,
    "saved where scarce": 9,
    "half fixed": 8,
    "mostly fixed": 7,
}


def search(memory, start, step):
    """Returns what is found and the sizes that were tried."""
    tried = []

    def peak_bytes(size):
        tried.append(size)
        peak = memory(size)
        return peak if peak <= AVAILABLE else None

    found = largest_batch.search(
        peak_bytes, available=AVAILABLE, start=start, step=step
    )
    return found, tried


@pytest.mark.parametrize(("start", "step"), [(128, 8), (64, 64), (4096, 32), (2000, 8)])
@pytest.mark.parametrize("name", MEMORY)
def test_the_largest_size_is_found_to_1_part_in_16(name, start, step):
    memory = MEMORY[name]
    largest = max(
        (size for size in range(step, 100_000, step) if memory(size) <= AVAILABLE),
        default=0,
    )
    found, tried = search(memory, start, step)
    assert largest - max(step, largest / 16) <= found <= largest
    assert all(size > 0 and size % step == 0 for size in tried)
    assert len(tried) == len(set(tried)) <= MOST_TRIES.get(name, 10)


def test_tries_have_equal_microbatches(monkeypatch):
    tried = []

    def peak_bytes(size, steps):
        tried.append(size)
        return 1 if size <= 200 else None

    monkeypatch.setattr(largest_batch, "_compiled", lambda *args: [])
    monkeypatch.setattr(largest_batch, "_peak_bytes", peak_bytes)
    config = common.get_config()
    config.microbatches = 4
    assert largest_batch.largest_batch(config, EIGHT) == 192
    assert all(size % 32 == 0 for size in tried)


@pytest.mark.parametrize(
    ("option", "number", "largest"),
    [("images", 1999, 1000), ("pairs_per_epoch", 1000, 500), ("images", 300, 150)],
)
def test_no_batch_has_more_pairs_than_a_training_takes(
    monkeypatch, option, number, largest
):
    tried = []
    monkeypatch.setattr(
        largest_batch, "_compiled", lambda _, size, __: tried.append(size)
    )
    monkeypatch.setattr(largest_batch, "_peak_bytes", lambda size, steps: 1e6 * size)
    config = common.get_config()
    config.compile[option] = number
    found = largest_batch.largest_batch(config, EIGHT)
    assert largest - max(8, largest / 16) <= found <= largest
    assert max(tried) <= largest
    config.batch_size = found
    largest_batch.check_images(config)
    sampling.Sampler(0, np.ones(number), largest)
    config.batch_size = largest + 1
    with pytest.raises(InputError, match=f"{option} is {number}; expected at most"):
        largest_batch.check_images(config)


def test_a_batch_fits_if_all_its_steps_do(monkeypatch):
    def measure_all(programs, of_topology):
        return [
            measured.Measured(None, of_topology, 1.0, peak_bytes=bytes_of * batch)
            if bytes_of * batch <= AVAILABLE
            else measured.Measured(
                measured.Program(name, *[None] * 4), of_topology, 1.0, refusal="no"
            )
            for name, bytes_of, batch in programs
        ]

    compiled = []

    def train_programs(config, devices, largest_only):
        assert largest_only
        compiled.append(config.batch_size)
        return [
            ("stage 1", 1e6, config.batch_size),
            ("stage 2", 4e6, config.batch_size),
        ]

    monkeypatch.setattr(largest_batch, "train_programs", train_programs)
    monkeypatch.setattr(largest_batch.measured, "measure_all", measure_all)
    largest = AVAILABLE / 4e6
    config = common.get_config()
    found = largest_batch.largest_batch(config, EIGHT)
    assert largest * 15 / 16 <= found <= largest
    assert config.batch_size in compiled
    steps = measure_all(train_programs(config, [], largest_only=True), EIGHT)
    compiled.clear()
    assert largest_batch.largest_batch(config, EIGHT, steps) == found
    assert config.batch_size not in compiled
