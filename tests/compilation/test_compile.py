"""Real runs of --mode=compile, each of one training step."""

import importlib.util
import json
import re

import pytest

from configs import common
from tests import programs
from vse_jax.compilation import compile as compilation
from vse_jax.compilation import measured
from vse_jax.errors import InputError

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed"
)
SMALL = {
    "quickstart": {},
    "coco_rvse": {"compile.regions": 8, "model.embed_dim": 128},
    "coco_vsepp": {
        "data.image_size": 64,
        "fine_tuning": "()",
        "model.backbone.name": "resnet50",
        "model.embed_dim": 128,
    },
}
SHARED = {
    "batch_size": 64,
    "compile.programs": "('train',)",
    "data.token_lengths": "(24,)",
    "dtype": "bfloat16",
}


def run(name, *flags, **options):
    given = SHARED | SMALL[name] | options
    return programs.run(
        f"--config={programs.REPOSITORY / 'configs' / name}.py",
        "--mode=compile",
        *(f"--config.{option}={value}" for option, value in given.items()),
        *flags,
    )


@needs_libtpu
@pytest.mark.parametrize("name", SMALL)
def test_one_bucket(name, tmp_path):
    output = tmp_path / "cost.json"
    finished = run(name, "--topology=v5e:2x4", f"--output={output}")
    assert finished.returncode == 0, finished.stderr
    (row,) = [
        line
        for line in finished.stdout.splitlines()
        if line.startswith("train, 24 tokens ")
    ]
    # Nothing but progress is printed, in particular nothing of libtpu.
    lines = finished.stderr.splitlines()
    assert all(re.search(r"\d  (train, 24 tokens: )?compil", line) for line in lines)
    described = json.loads(output.read_text())
    assert (described["devices"], described["batch_size"]) == (8, 64)
    (program,) = described["programs"]
    assert program["collectives"] >= 3  # two gathers of embeddings, gradients
    assert 0 < program["peak_bytes"] < 2**30
    assert program["argument_bytes"] + program["temporary_bytes"] > 0
    assert program["flops"] > 0
    assert program["estimated_seconds"] > 0
    step = max(program["estimated_seconds"], program["roofline_seconds"])
    assert program["rows_per_second"] == pytest.approx(64 / step)
    assert f"{program['rows_per_second']:,.0f}" in row


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"compile.programs": ("steps",)}, "config.compile.programs is .*'captions'"),
        ({"compile.regions": 0}, "config.compile.regions is 0, expected at least 1"),
        ({"data.token_lengths": ()}, "config.data.token_lengths is "),
        ({"model.embed_dim": 0}, "config.model.embed_dim is 0"),
    ],
)
def test_invalid_options_are_refused(options, expected):
    config = common.get_config()
    config.update_from_flattened_dict(options)
    with pytest.raises(InputError, match=expected):
        compilation.check_options(config)


@needs_libtpu
@pytest.mark.parametrize("option", ["batch_size", "evaluation_batch_size"])
def test_a_batch_that_the_devices_do_not_divide_is_refused(option):
    finished = run("quickstart", "--topology=v5e:4x8", **{option: 100})
    message = programs.refusal(finished)
    assert f"config.{option} is 100, which the 32 devices of v5e:4x8" in message
    assert "96 or 128" in message


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (
            "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required "
            "for HLO temporaries (38.77G) exceeds available HBM (15.75G).",
            "needs for temporary arrays alone 38.77 GiB of 15.75 GiB of HBM per device",
        ),
        (
            "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in "
            "memory space hbm. Used 18.50G of 15.75G hbm. Exceeded hbm capacity by "
            "2.75G.\n\nTotal hbm usage >= 18.76G:\n    reserved 258.00M \n    program "
            "18.25G \n    arguments 256.0M \n",
            "needs 18.50 GiB (program 18.25 GiB, arguments 0.25 GiB) of 15.75 GiB of "
            "HBM per device",
        ),
        ("RESOURCE_EXHAUSTED: no\nmore", "RESOURCE_EXHAUSTED: no"),
    ],
)
def test_what_does_not_fit(message, expected):
    assert measured.refusal(RuntimeError(message)) == expected


@pytest.mark.parametrize(("most", "expected"), [(1000, (960, 1000)), (100, (96, 100))])
def test_the_largest_batch_is_found_to_1_part_in_16(monkeypatch, most, expected):
    tried = []

    def fits(config, size, topology):
        assert size % 8 == 0
        tried.append(size)
        return size <= most

    monkeypatch.setattr(compilation, "_fits", fits)
    topology = measured.Topology("v5e:2x4", [None] * 8, None)
    largest = compilation.largest_batch(common.get_config(), topology)
    assert expected[0] * 15 / 16 <= largest <= expected[1]
    assert len(tried) == len(set(tried)) <= 9


def test_no_batch_fits(monkeypatch):
    monkeypatch.setattr(compilation, "_fits", lambda *args: False)
    topology = measured.Topology("v5e:2x4", [None] * 8, None)
    assert compilation.largest_batch(common.get_config(), topology) == 0
