"""`--mode=export` of whole models, used as another program would use them."""

import builtins
import json
import re
import subprocess
import sys
import types

import numpy as np
import onnx
import pytest
from PIL import Image

import vse_jax
from tests import programs, saved_runs
from tests.evaluation.coco_stand_in import CocoStandIn
from vse_jax import evaluate, saved_model
from vse_jax.errors import InputError
from vse_jax.evaluation import coco_test
from vse_jax.exporting import export
from vse_jax.extraction import extract

pytestmark = pytest.mark.usefixtures("quick_compilation", "few_branches")

CAPTIONS = ["a large red circle", "there is a small blue square above it"]
# A program that knows neither this package nor its models.
CALL = """
import sys

import jax.export
import numpy as np

for name in sys.argv[1:]:
    content = bytearray(open(f"{name}.stablehlo", "rb").read())
    arrays = np.load(f"{name}.npz")
    embedded = jax.export.deserialize(content).call(*arrays.values())
    np.save(f"{name}.npy", embedded)
assert not any(module.startswith("vse_jax") for module in sys.modules)
"""


@pytest.fixture(scope="module")
def exported(scene_run, tmp_path_factory):
    """The folder of an export of a tiny model on photos."""
    workdir, _ = scene_run
    evaluate.evaluate(str(workdir), "test")
    path = tmp_path_factory.mktemp("exported") / "model"
    assert export.export(str(workdir), output=str(path)) == path
    return path


def test_suites_evaluate_an_export(exported, scene_run, tmp_path, monkeypatch):
    stand_in = CocoStandIn(tmp_path, images=10)
    monkeypatch.setattr(coco_test, "data_file", stand_in.data_file)
    found = []
    for folder in (exported, scene_run[0]):
        overrides = {"evaluation.suite": "eccv"}
        evaluate.evaluate(str(folder), "test", overrides=overrides)
        found.append(json.loads((folder / "eval" / "test.json").read_text()))
    assert found[0]["eccv_metrics"] == pytest.approx(found[1]["eccv_metrics"])


@pytest.fixture(scope="module")
def photos(scene_run):
    source = scene_run[1].builder.as_data_source("test")
    return np.stack([source[i]["image"] for i in range(len(source))])


def tokens_of(model, captions):
    encoded = [model.vocabulary.encode(caption) for caption in captions]
    token_count = np.array(list(map(len, encoded)), np.int32)
    tokens = np.zeros((len(encoded), token_count.max()), np.int32)
    for row, numbers in zip(tokens, encoded, strict=True):
        row[: len(numbers)] = numbers
    return {"tokens": tokens, "token_count": token_count}


def test_export_loads_as_the_same_model(exported, scene_model, photos):
    model = vse_jax.load(exported)
    assert model.fingerprint == scene_model.fingerprint
    np.testing.assert_array_equal(
        model.embed_images(photos), scene_model.embed_images(photos)
    )
    np.testing.assert_array_equal(
        model.embed_captions(CAPTIONS), scene_model.embed_captions(CAPTIONS)
    )


def test_export_evaluates_to_the_same_metrics(exported, scene_run, capsys):
    expected = evaluate.evaluate(str(scene_run[0]), "test")
    table = capsys.readouterr().out.split("metrics:")[0]
    assert evaluate.evaluate(str(exported), "test") == expected
    assert capsys.readouterr().out.split("metrics:")[0] == table
    export.export(str(scene_run[0]), output=str(exported))  # eval/ is no obstacle


def test_stablehlo_in_a_process_without_this_package(exported, scene_model, photos):
    np.savez(exported / "image_encoder.npz", photos)
    captions = tokens_of(scene_model, CAPTIONS)
    np.savez(exported / "text_encoder.npz", *captions.values())
    names = ("image_encoder", "text_encoder")
    command = [sys.executable, "-c", CALL, *names]
    environment = programs.environment()
    subprocess.run(command, cwd=exported, env=environment, check=True)
    images, texts = (np.load(exported / f"{name}.npy") for name in names)
    for name in names:
        (exported / f"{name}.npz").unlink()
        (exported / f"{name}.npy").unlink()
    expected = scene_model.embed_images(photos), scene_model.embed_captions(CAPTIONS)
    np.testing.assert_allclose(images, expected[0], atol=1e-5)
    np.testing.assert_allclose(texts, expected[1], atol=1e-5)


def code_of(card, title):
    (block,) = re.findall(rf"## {title}\n.*?```python\n(.*?)```", card, re.DOTALL)
    return block


def run_code(code, folder, monkeypatch):
    """Runs code of a model card in the folder; returns its variables."""
    monkeypatch.chdir(folder)
    variables = {}
    exec(compile(code, "README.md", "exec"), variables)
    return variables


def test_code_of_the_model_card(exported, scene_model, photos, monkeypatch, tmp_path):
    card = (exported / "README.md").read_text()
    for path in exported.iterdir():
        if path.is_file():
            (tmp_path / path.name).write_bytes(path.read_bytes())
    Image.fromarray(photos[0]).save(tmp_path / "photo.jpg", "PNG")
    found = run_code(code_of(card, "Use with onnxruntime"), tmp_path, monkeypatch)
    expected = scene_model.embed_images(photos[:1])
    np.testing.assert_allclose(found["images"], expected, atol=1e-4)
    caption = " ".join(found["words"][token] for token in found["caption"][1:-1])
    expected = scene_model.embed_captions([caption])
    np.testing.assert_allclose(found["embedding"], expected, atol=1e-4)
    code = code_of(card, "Use with vse_jax").replace("FOLDER", ".")
    model = run_code(code, tmp_path, monkeypatch)["model"]
    assert model.fingerprint == scene_model.fingerprint
    code = code_of(card, "Use with JAX alone")
    assert callable(run_code(code, tmp_path, monkeypatch)["embed"])


def test_model_card_has_the_measured_recalls(exported, scene_run):
    card = (exported / "README.md").read_text()
    front = card.split("---\n")[1].splitlines()
    # Each value is JSON, which YAML contains.
    fields = {k: json.loads(v) for k, _, v in (line.partition(": ") for line in front)}
    assert fields["datasets"] == ["shapes"]
    assert {"license", "tags", "metrics", "library_name"} < fields.keys()
    metrics = json.loads((scene_run[0] / "eval" / "test.json").read_text())["metrics"]
    (result,) = fields["model-index"][0]["results"]
    assert result["dataset"]["split"] == "test"
    assert result["metrics"][0]["value"] == pytest.approx(metrics["i2t_r1"], abs=0.01)
    assert f"{metrics['rsum']:.1f}" in card
    digest = scene_run[1].identity.summary()["splits"]["train"]["digest"]
    assert digest in card


def test_config_describes_the_encoders(exported):
    config = json.loads((exported / "config.json").read_text())
    assert config["embed_dim"] == 16
    assert config["encoders"]["image_encoder"]["inputs"] == {
        "image": "uint8 [batch, 64, 64, 3]"
    }
    assert config["preprocessing"]["photo"]["image_size"] == 64
    assert config["preprocessing"]["caption"]["longest"] == 40
    model = onnx.load(exported / "text_encoder.onnx")
    onnx.checker.check_model(model, full_check=True)
    properties = {item.key: json.loads(item.value) for item in model.metadata_props}
    assert properties["preprocessing"] == config["preprocessing"]


@pytest.fixture(scope="module")
def of_features(tmp_path_factory):
    """A model of features that were extracted from photos, and its export."""
    folder = tmp_path_factory.mktemp("of_features")
    config = saved_runs.of_scenes(folder / "data")
    config.data.image_size = 48
    config.extract.update(pool=2, pca_dim=6)
    extract.extract(config, str(folder / "extract"))
    config.data.builder = "region_features"
    config.data.root = str(folder / "extract" / "features")
    config.data.region_dim = 0
    config.model.backbone.name = ""
    saved_runs.save(folder / "run", config)
    return folder / "run", export.export(str(folder / "run"))


def test_features_and_their_backbone(of_features, photos, monkeypatch):
    workdir, path = of_features
    assert path == workdir / "export"  # the default
    expected = vse_jax.load(workdir).embed_images(photos)
    np.testing.assert_array_equal(vse_jax.load(path).embed_images(photos), expected)
    Image.fromarray(photos[0]).save(path / "photo.jpg", "PNG")
    code = code_of((path / "README.md").read_text(), "Use with onnxruntime")
    found = run_code(code, path, monkeypatch)
    (path / "photo.jpg").unlink()
    assert found["regions"].shape == (1, 4, 6)
    stored = np.float32(np.float16(found["regions"]))
    np.testing.assert_array_equal(found["regions"], stored)
    # The resampling is PIL's, whose pixels may differ by one.
    np.testing.assert_allclose(found["images"], expected[:1], atol=2e-2)


def test_backbone_computes_the_stored_features(of_features, photos):
    import onnxruntime

    workdir, path = of_features
    session = onnxruntime.InferenceSession(path / "backbone.onnx")
    read = vse_jax.load(workdir).image_input.read
    pixels = np.stack([read(photo) for photo in photos])
    (found,) = session.run(None, {"image": pixels})
    config = saved_model.restore(str(workdir)).run["config"]
    from vse_jax.data import datasets
    from vse_jax.run_config import from_json

    source = datasets.prepare(from_json(config).data).as_data_source("test")
    stored = np.stack([source[i]["regions"] for i in range(len(source))])
    np.testing.assert_allclose(found, stored.astype(np.float32), rtol=2e-3, atol=2e-3)


def test_photos_of_unknown_size_are_not_taken(
    of_features, photos, tmp_path, monkeypatch, caplog
):
    """They had one size in the extraction, which did not resize them."""
    workdir, _ = of_features
    restore = saved_model.restore

    def restore_without_size(*args):
        restored = restore(*args)
        restored.run["extraction"]["config.data.image_size"] = 0
        return restored

    monkeypatch.setattr(saved_model, "restore", restore_without_size)
    with pytest.raises(InputError) as error:
        vse_jax.load(workdir).embed_images(photos[:1])
    assert "of photos that had one size, which is not known" in str(error.value)
    path = export.export(str(workdir), output=str(tmp_path / "export"))
    assert "the export takes features but no photos" in caplog.text
    assert not (path / "backbone.onnx").exists()
    summary = json.loads((path / "config.json").read_text())
    assert set(summary["encoders"]) == {"image_encoder", "text_encoder"}
    features = np.random.default_rng(0).normal(size=(3, 4, 6)).astype(np.float32)
    np.testing.assert_array_equal(
        vse_jax.load(path).embed_images(features),
        vse_jax.load(workdir).embed_images(features),
    )
    assert "# regions: float32 [batch, regions, 6]" in (path / "README.md").read_text()


def test_lost_backbone_is_named(caplog):
    export._warn_of_photos("a/run", {"config.data.image_size": 32}, {})
    assert "no photos, as a/run lacks backbone.safetensors; copy it" in caplog.text
    caplog.clear()
    export._warn_of_photos("a/run", {"config.data.image_size": 32}, {"params": 1})
    export._warn_of_photos("a/run", None, {})
    assert not caplog.text


def refusal(*args, **kwargs):
    with pytest.raises(InputError) as info:
        export.export(*args, **kwargs)
    assert "\n" not in str(info.value)
    return str(info.value)


def test_missing_onnx_is_named_with_the_command(scene_run, tmp_path, monkeypatch):
    import_module = builtins.__import__

    def without_onnx(name, *args, **kwargs):
        if name.partition(".")[0] == "onnx":
            raise ModuleNotFoundError(name=name)
        return import_module(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_onnx)
    message = refusal(str(scene_run[0]), output=str(tmp_path / "export"))
    assert "pip install onnx" in message
    assert not list(tmp_path.iterdir())


def test_workdir_without_a_checkpoint_is_refused(tmp_path):
    assert "has no checkpoint" in refusal(str(tmp_path))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("changed", ["data", "crops"])
def test_model_card_has_no_recalls_of_other_data_or_crops(
    exported, scene_run, tmp_path, changed, caplog
):
    path = scene_run[0] / "eval" / "test.json"
    before = path.read_text()
    result = json.loads(before)
    if changed == "data":
        result["digest"] = "of other data"
    else:
        result["config"]["data"]["crops"] = 10
    path.write_text(json.dumps(result))
    try:
        folder = export.export(str(scene_run[0]), output=str(tmp_path / "export"))
    finally:
        path.write_text(before)
    assert "model-index" not in (folder / "README.md").read_text()
    assert "is of other data or crops than the training" in caplog.text


def test_damaged_result_is_refused(scene_run, tmp_path):
    path = scene_run[0] / "eval" / "dev.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text("{")
    try:
        message = refusal(str(scene_run[0]), output=str(tmp_path / "export"))
    finally:
        path.unlink()
    assert str(path) in message


@pytest.mark.parametrize("content", ["[]", "3", '{"step": 7}'])
def test_file_of_the_user_is_no_evaluation(tmp_path, content):
    (tmp_path / "eval").mkdir()
    (tmp_path / "eval" / "notes.json").write_text(content)
    restored = types.SimpleNamespace(step=7)
    assert export._evaluations(str(tmp_path), restored) == []


def test_command(scene_run, tmp_path):
    path = tmp_path / "export"
    options = ("--mode=export", f"--workdir={scene_run[0]}", f"--output={path}")
    finished = programs.run(*options, "--checkpoint=latest")
    assert finished.returncode == 0, finished.stderr
    assert f"{path}, " in finished.stdout
    assert "image uint8 [batch, 64, 64, 3]" in finished.stdout
    assert saved_model.restore(str(path)).step == saved_runs.STEP
    (path / "mine.txt").write_text("")
    assert "mine.txt" in programs.refusal(programs.run(*options))
