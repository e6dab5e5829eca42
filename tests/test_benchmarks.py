"""Every benchmark runs in its tiny form and prints a table."""

import importlib.util
import subprocess
import sys

import numpy as np
import pytest

from benchmarks import sides, text_to_text
from tests import pretrained_files, programs
from tests.evaluation.coco_stand_in import CocoStandIn
from tests.models.transformers import test_bert
from vse_jax.evaluation import coco_test, correlation, cxc
from vse_jax.models.transformers.bert import Bert
from vse_jax.torch_import import tokenizer_files

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
    "order_similarity": ["parts", "times as fast"],
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


@pytest.mark.usefixtures("quick_compilation")
def test_text_to_text_evaluates_the_mean_of_the_tokens(tmp_path, monkeypatch, capsys):
    """It has no tiny form, since it reads COCO's captions."""
    stand_in = CocoStandIn(tmp_path, images=6)
    monkeypatch.setattr(coco_test, "data_file", stand_in.data_file)
    monkeypatch.setattr(correlation, "SAMPLES", 50)
    weights = pretrained_files.write_bert(tmp_path / "bert")
    words = [w for w in pretrained_files.word_pieces() if w.isalpha() and len(w) > 1]
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 12, len(stand_in.coco.image))
    captions = [" ".join(rng.choice(words, length)) for length in lengths]
    path = tmp_path / "captions.txt"
    path.write_text("\n".join(captions) + "\n")
    evaluated = []

    def evaluate(embeddings, folder, text_text=cxc.text_text):
        evaluated.append(embeddings)
        return text_text(embeddings, folder)

    monkeypatch.setattr(cxc, "text_text", evaluate)
    arguments = [str(path), str(tmp_path), f"--weights={weights}"]
    monkeypatch.setattr(sys, "argv", ["text_to_text", *arguments])
    text_to_text.main()
    table = cxc.format_metrics(cxc.text_text(evaluated[0], str(tmp_path)))
    assert capsys.readouterr().out.endswith(f"{table}\n")

    sizes, params = test_bert.load(weights)
    tokenizer = tokenizer_files.read(str(weights))
    for caption, found in list(zip(captions, evaluated[0], strict=True))[::7]:
        tokens = tokenizer.encode(caption)[None]
        count = np.array([tokens.shape[1]], np.int32)
        mean = Bert(sizes).apply({"params": params}, tokens, count)[0].mean(0)
        np.testing.assert_allclose(found, mean / np.linalg.norm(mean), atol=1e-6)
