"""A model with a tiny BERT: exported, searched and reported."""

import re
import types

import numpy as np
import onnxruntime
import pytest

import vse_jax
from configs import common
from tests import pretrained_files, saved_runs
from vse_jax import evaluate
from vse_jax.data.batch_options import token_lengths
from vse_jax.data.text.encoded_captions import encode_captions
from vse_jax.exporting import export
from vse_jax.run_report import report_mode
from vse_jax.search.open_gallery import Place, open_searcher
from vse_jax.search.queries import text_query
from vse_jax.torch_import.resolve import resolved

pytestmark = pytest.mark.usefixtures("quick_compilation")

CAPTIONS = ["a large red circle", "zebras above the small triangle", "the cat"]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run whose weights were deleted after it began."""
    folder = tmp_path_factory.mktemp("bert_run")
    weights = pretrained_files.write_bert(folder / "weights")
    config = saved_runs.of_scenes(folder / "data")
    config.model.text_encoder, config.model.text_weights = "bert", str(weights)
    saved_runs.save(folder / "run", resolved(config))
    weights.rename(folder / "gone")
    return folder / "run"


@pytest.fixture(scope="module")
def model(workdir):
    return vse_jax.load(workdir)


@pytest.fixture(scope="module")
def exported(workdir, tmp_path_factory):
    path = tmp_path_factory.mktemp("exported") / "model"
    (path.parent / "model").mkdir()
    (path / "vocabulary.json").write_text("{}")  # of an earlier export
    export.export(str(workdir), output=str(path))
    return path


def batch_of(model, captions):
    encoded = [model.vocabulary.encode(caption) for caption in captions]
    count = np.array(list(map(len, encoded)), np.int32)
    tokens = np.zeros((len(encoded), count.max()), np.int32)
    for row, numbers in zip(tokens, encoded, strict=True):
        row[: len(numbers)] = numbers
    return {"tokens": tokens, "token_count": count}


def test_captions_are_truncated_to_the_positions(model):
    long = "a red circle " * 20
    assert len(model.vocabulary.encode(long)) > 24
    embedded = model.embed_captions([long, long + "above the square"])
    np.testing.assert_allclose(embedded[0], embedded[1], atol=1e-6)


def test_truncated_captions_are_counted(caplog, model):
    lengths = token_lengths(model.config)
    assert lengths == (24,)  # not 40: there are 24 positions
    index = types.SimpleNamespace(captions=["a cat", "a red circle " * 20])
    with caplog.at_level("WARNING"):
        encoded = encode_captions(index, model.vocabulary, lengths[-1], "dev")
    (message,) = caplog.messages
    assert message.startswith("dev: 1 of 2 captions are truncated to 24 tokens")
    tokens, count = encoded.batch(np.array([0, 1]))
    assert count.tolist() == [4, 24]
    assert tokens[1, -1] == model.vocabulary.end


def test_unknown_words_are_those_without_pieces(model):
    words, unknown = model.unknown_words("A zebra and the cats")
    assert words == ["a", "zebra", "and", "the", "cats"]
    assert unknown == ["zebra", "and"]


def test_export_has_the_tokenizer_and_loads_as_the_same_model(exported, model):
    assert (exported / "tokenizer.json").exists()
    assert not (exported / "vocabulary.json").exists()
    again = vse_jax.load(exported)
    assert again.fingerprint == model.fingerprint
    np.testing.assert_array_equal(
        again.embed_captions(CAPTIONS), model.embed_captions(CAPTIONS)
    )


def test_onnx_computes_the_same_embeddings(exported, model):
    session = onnxruntime.InferenceSession(exported / "text_encoder.onnx")
    for captions in (CAPTIONS, CAPTIONS[:1]):
        (embedded,) = session.run(None, batch_of(model, captions))
        np.testing.assert_allclose(embedded, model.embed_captions(captions), atol=1e-5)


def test_code_of_the_model_card(exported, model, monkeypatch):
    card = (exported / "README.md").read_text()
    (code,) = re.findall(r"## Use with onnxruntime\n.*?```python\n(.*?)```", card, re.S)
    monkeypatch.chdir(exported)
    variables = {}
    exec(code.split("image_encoder =")[0], variables)
    expected = model.embed_captions(["a dog on a beach"])
    np.testing.assert_allclose(variables["embedding"], expected, atol=1e-5)


def test_search(workdir):
    options = common.get_config().gallery
    searcher = open_searcher(Place(str(workdir), "best", "", "", "", {}, options))
    hits = searcher.search(searcher.embed([text_query(CAPTIONS[0])]), 3)[0]
    assert [hit.rank for hit in hits] == [1, 2, 3]


def test_evaluation_and_report(workdir):
    metrics = evaluate.evaluate(str(workdir), "test")
    assert metrics["rsum"] >= 0
    report_mode.report([str(workdir)], "test", "best", {}, "")
    page = (workdir / "eval" / "test.html").read_text()
    assert "unknown" in page
