"""Every benchmark runs in its tiny form and prints a table."""

import importlib.util
import subprocess
import sys

import pytest

from benchmarks import sides
from tests import pretrained_files, programs

BENCHMARKS = {
    "backbones": ["efficientnet_lite0", "ratio"],
    "decode": ["+ crop, resize", "photos/s"],
    "extract": ["vse_jax, whole process", "ratio"],
    "input_pipeline": ["pairs/s", "resident"],
    "minilm_step": ["JAX", "times PyTorch"],
    "retrieval": ["captions", "median s"],
    "search": ["NumPy", "times vse_jax"],
    "suites": ["eccv-caption", "largest difference"],
    "serve": ["queries/s", "p99 ms"],
    "pooling_step": ["esa", "times gpo"],
    "train_step": ["JAX", "times PyTorch"],
}
NEEDED = {
    "extract": "efficientnet_lite_pytorch",
    "suites": "eccv_caption",
    "minilm_step": "transformers",
    "train_step": "torch",
    "search": "faiss",
}


@pytest.mark.parametrize("name", BENCHMARKS)
def test_tiny_form(name):
    needed = NEEDED.get(name)
    if needed and not importlib.util.find_spec(needed):
        pytest.skip(f"{needed} is not installed")
    finished = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}", "--tiny"],
        cwd=programs.REPOSITORY,
        env=programs.environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=programs.TIMEOUT,
    )
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.startswith("| ")
    for text in BENCHMARKS[name]:
        assert text in finished.stdout


@pytest.mark.parametrize(
    ("captions", "message"),
    [("no.txt", "error: no.txt: cannot be read"), ("few.txt", "there are 1 captions")],
)
def test_captions_of_text_to_text_are_checked_first(captions, message, tmp_path):
    if not importlib.util.find_spec("eccv_caption"):
        pytest.skip("eccv_caption is not installed")
    (tmp_path / "few.txt").write_text("a dog\n")
    weights = pretrained_files.write_bert(tmp_path / "bert")
    environment = programs.environment() | {"PYTHONPATH": str(programs.REPOSITORY)}
    finished = subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks.text_to_text", captions, "cxc"),
            f"--weights={weights}",
        ],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=programs.TIMEOUT,
    )
    assert finished.returncode == 2
    assert message in finished.stderr
    assert "Traceback" not in finished.stderr


def test_side_that_fails_ends_the_benchmark():
    with pytest.raises(SystemExit, match=r"a side ended with 2: .* --unknown"):
        sides.in_turns("benchmarks.train_step", ["--unknown"], ["JAX"], repeats=1)
