"""Real runs of --mode=compile, each of one training step."""

import importlib.util
import json
import re
import signal
import time
import types

import jax
import pytest

import vse_jax
from configs import coco_rvse_bert, common, quickstart
from tests import programs, saved_runs
from vse_jax import modes
from vse_jax.compilation import compile as compilation
from vse_jax.compilation import measured, topology
from vse_jax.compilation.chips import CHIPS
from vse_jax.compilation.programs import Program
from vse_jax.errors import InputError

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed"
)
TOWER = {
    "activation": "gelu_pytorch_tanh",
    "dim": 128,
    "epsilon": 1e-6,
    "heads": 2,
    "layers": 2,
    "mlp_dim": 256,
}
VISION_TOWER = TOWER | {"image_size": 64, "patch": 16}
TEXT_TOWER = TOWER | {"activation": "gelu", "positions": 24, "vocabulary_size": 1000}
SMALL = {
    "quickstart": {},
    "coco_rvse": {"compile.regions": 8, "model.embed_dim": 128},
    "coco_rvse_bert": {
        "compile.regions": 8,
        "compile.vocabulary_size": 1000,
        "model.embed_dim": 128,
        **{f"model.text_tower.{name}": size for name, size in TEXT_TOWER.items()},
    },
    "coco_clip_finetune": {
        "compile.vocabulary_size": 1000,
        "data.image_size": 64,
        "model.backbone.name": "clip_vision",
        **{f"model.backbone.tower.{name}": s for name, s in VISION_TOWER.items()},
        "model.embed_dim": 128,
        "model.image_encoder": "global",
        "model.text_encoder": "clip_text",
        "model.text_pooling": "cls",
        **{f"model.text_tower.{name}": size for name, size in TEXT_TOWER.items()},
    },
    "coco_siglip_head": {
        "data.image_size": 64,
        **{f"model.backbone.tower.{name}": s for name, s in VISION_TOWER.items()},
        "model.embed_dim": 128,
    },
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


V5E = "--topology=v5e:2x4"
EIGHT = topology.Topology("v5e:2x4", [None] * 8, None)


@pytest.fixture
def libtpu(monkeypatch):
    """Sets the environment of the compiler, which the program does at its start."""
    pytest.importorskip("libtpu", reason="libtpu is not installed")
    for variable, value in topology.ENVIRONMENT.items():
        monkeypatch.setenv(variable, value)


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
    finished = run(name, V5E, f"--output={output}")
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


def test_the_model_of_the_run_to_start_from_is_compiled(monkeypatch, tmp_path):
    """With the architecture and the vocabulary of that run."""
    other = saved_runs.of_scenes(tmp_path / "data")
    other.model.update(text_encoder="gru", embed_dim=24)
    saved_runs.save(tmp_path / "run", other)
    compiled = []
    monkeypatch.setattr(compilation, "get_topology", lambda name: EIGHT)
    monkeypatch.setattr(
        compilation, "programs", lambda config, devices: compiled.append(config) or []
    )
    monkeypatch.setattr(compilation.report, "table", lambda *_: "")
    monkeypatch.setattr(compilation.report, "as_json", lambda *_: {})
    config = quickstart.get_config()
    config.start_from = str(tmp_path / "run")
    compilation.compile_programs(config, "v5e:2x4")
    (config,) = compiled
    assert (config.model.text_encoder, config.model.embed_dim) == ("gru", 24)
    words = vse_jax.load(tmp_path / "run").vocabulary
    assert config.compile.vocabulary_size == len(words)


def test_only_the_buckets_that_are_read_are_looked_for(monkeypatch):
    """The command of a training compiles where nobody may read its data."""
    config = quickstart.get_config()
    config.data.root = config.data.data_dir = "gs://data/folder"
    config.start_from = "gs://runs/other"
    flags = types.SimpleNamespace(output="", topology="v5e:2x4", largest_batch=False)
    checked = []
    monkeypatch.setattr(modes, "FLAGS", flags)
    monkeypatch.setattr(modes.storage, "check_reachable", checked.extend)
    monkeypatch.setattr(topology, "set_environment", lambda: None)
    monkeypatch.setattr(compilation, "compile_programs", lambda *_, **__: None)
    assert modes.MODES["compile"](config, "gs://runs/this") == 0
    assert dict(checked)["config.start_from"] == "gs://runs/other"
    remote = [path for _, path in checked if "://" in path]
    assert remote == ["gs://runs/other"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"compile.programs": ("steps",)}, "config.compile.programs is .*'captions'"),
        ({"compile.regions": 0}, "config.compile.regions is 0; expected at least 1"),
        ({"compile.vocabulary_size": 2**31}, "at least 1 and less than 2147483648"),
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
@pytest.mark.parametrize(
    ("number", "line"),
    [
        (signal.SIGTERM, "stopped by SIGTERM"),
        (signal.SIGINT, "interrupted: completed work is kept; run the same command to"),
    ],
)
def test_signal_ends_a_compilation_at_once(number, line, tmp_path):
    """The step of the paper's model takes the compiler about half a minute."""
    output = tmp_path / "cost.json"
    process = programs.start(
        f"--config={programs.REPOSITORY / 'configs' / 'coco_rvse'}.py",
        "--mode=compile",
        *(f"--config.{option}={value}" for option, value in SHARED.items()),
        V5E,
        f"--output={output}",
    )
    assert any("compiling 1 programs" in line for line in process.stderr)
    time.sleep(2)
    process.send_signal(number)
    sent = time.monotonic()
    finished = programs.finish(process)
    assert time.monotonic() - sent < 15
    assert finished.returncode == 128 + number
    (last,) = finished.stderr.splitlines()
    assert last.startswith(line)
    assert not finished.stdout
    assert not output.exists()


@pytest.mark.usefixtures("libtpu")
@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("batch_size", 100, "32 devices do not divide; set it to 96 or 128"),
        ("evaluation_batch_size", 100, "32 devices do not divide; set it to 96 or 128"),
        ("microbatches", 3, "2 pairs of config.batch_size=64 on each of 32 devices"),
        ("data.device_resident", True, "is 'stem', which trains on photos"),
        ("batch_size", 65_536, "config.compile.images is 113287; expected at most 566"),
    ],
)
def test_options_that_training_refuses_are_refused(option, value, message):
    config = quickstart.get_config()
    config.update_from_flattened_dict({"batch_size": 64, option: value})
    with pytest.raises(InputError) as error:
        compilation.compile_programs(config, "v5e:4x8")
    assert str(error.value).startswith(f"config.{option} is {value}, ")
    assert message in str(error.value)


@pytest.mark.usefixtures("libtpu")
def test_vocabulary_that_the_text_transformer_lacks_is_refused():
    config = coco_rvse_bert.get_config()
    config.update_from_flattened_dict(
        {f"model.text_tower.{name}": size for name, size in TEXT_TOWER.items()}
    )
    message = "config.compile.vocabulary_size is 11755: .*vocabulary_size is 1000, but"
    with pytest.raises(InputError, match=message):
        compilation.compile_programs(config, "v5e:2x4")


@pytest.mark.usefixtures("libtpu")
def test_features_that_do_not_fit_are_refused_before_compilation():
    config = common.get_config()
    config.data.device_resident = True
    config.compile.images = 1_000_000
    with pytest.raises(InputError) as error:
        compilation.compile_programs(config, "v5e:2x4")
    assert str(error.value) == (
        "config.data.device_resident is True, but the features need 18.4 GB on each of "
        "8 devices (1,000,000 images of 147,456 bytes), and a device of v5e:2x4 has "
        "17.2 GB; choose a topology with more devices, or set it to False"
    )


@needs_libtpu
def test_features_in_device_memory_are_counted(tmp_path):
    """1,000 images of 8 regions: 125 of 32,768 bytes on each device."""
    reports = []
    for resident in (False, True):
        output = tmp_path / f"{resident}.json"
        options = {"compile.images": 1000, "data.device_resident": resident}
        finished = run("coco_rvse", f"--output={output}", V5E, **options)
        assert finished.returncode == 0, finished.stderr
        reports.append(json.loads(output.read_text())["programs"][0])
        line = (
            "features: 0.0041 GB on each of 8 devices (1,000 images of 32,768 bytes), "
        )
        assert (line in finished.stdout) == resident
    streamed, resident = reports
    table, batch = 125 * 32_768, 8 * 32_768  # 8 images of a device
    more = resident["argument_bytes"] - streamed["argument_bytes"]
    assert table - batch <= more <= table - batch + 2**16  # indices, padded
    assert resident["peak_bytes"] >= table
    assert resident["collective_bytes"] > streamed["collective_bytes"]


def test_embedding_steps_share_the_memory_with_the_features():
    """A program that needs 1 GiB fits beside 1 GiB of features, not beside 2."""

    class Compiled:
        def compile(self):
            return self

        def memory_analysis(self):
            sizes = dict.fromkeys(("argument", "temp", "generated_code"), 2**30)
            sizes = {f"{name}_size_in_bytes": size for name, size in sizes.items()}
            return types.SimpleNamespace(peak_memory_in_bytes=2**30, **sizes)

        def as_text(self):
            return "ENTRY main {\n  ROOT a = f32[] constant(0)\n}"

    class Step:
        def lower(self, *shapes):
            return Compiled()

    chip = CHIPS["v5e"]._replace(hbm_bytes=2 * 2**30)
    small = topology.Topology("v5e:2x4", [None] * 8, chip)
    tokens = {"tokens": jax.ShapeDtypeStruct((8, 24), "int32")}
    program = Program("embed 24 tokens", Step(), {}, tokens, {}, other_bytes=2**30)
    assert measured.measure(program, small).peak_bytes == 2 * 2**30
    refused = measured.measure(program._replace(other_bytes=2 * 2**30), small)
    assert refused.refusal == (
        "needs 3.00 GiB (program 1.00 GiB, features 2.00 GiB) of 2.00 GiB of HBM per "
        "device"
    )


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
