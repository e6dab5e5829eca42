"""Whole CLIPs and SigLIPs, imported, evaluated and trained further."""

import json
import shutil

import numpy as np
import pytest
import safetensors.numpy
import torch

import vse_jax
from configs import common
from tests import photo_files, programs, whole_models
from tests.exporting.exported import onnx_session
from tests.models.backbones import hugging_face
from vse_jax import evaluate, train
from vse_jax.checkpoint import Checkpoints, find_description
from vse_jax.errors import InputError
from vse_jax.exporting import export
from vse_jax.starting_point import complete
from vse_jax.torch_import import text_weights, whole_model
from vse_jax.torch_import.resolve import resolved

pytestmark = pytest.mark.usefixtures("quick_compilation")

CAPTIONS = ["red sky", "Blue  sea", "dark green light sea sky red", "sky"]
LONG = " ".join(["red"] * 40)
SCALE = 3.0  # logarithm


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder of photos with captions."""
    folder = tmp_path_factory.mktemp("photos")
    images = {"train": 16, "dev": 6, "test": 6}
    photo_files.write_captioned(folder, whole_models.WORDS, images)
    return folder


def configured(root, data_dir):
    config = common.get_config()
    config.data.update(builder="image_folder", root=str(root), data_dir=str(data_dir))
    config.evaluation_batch_size = config.batch_size = 8
    return config


@pytest.fixture(scope="module", params=whole_models.SAVE)
def imported(request, root, tmp_path_factory):
    """A model, its folder and the workdir of its import."""
    folder = tmp_path_factory.mktemp(request.param)
    model = whole_models.SAVE[request.param](folder / "model")
    workdir = folder / "run"
    config = configured(root, folder / "data")
    whole_model.import_model(config, str(workdir), str(folder / "model"))
    return model, folder / "model", workdir


def of_text(model, tokens, padding):
    """Returns the unit embedding of one caption by transformers."""
    if padding is not None:
        tokens = [*tokens, *[padding] * (whole_models.POSITIONS - len(tokens))]
    with torch.no_grad():
        features = model.get_text_features(torch.tensor([tokens]))
    return _unit(features)


def of_images(model, pixels, mean, std):
    pixels = (pixels / 255 - np.array(mean)) / np.array(std)
    pixels = torch.tensor(pixels, dtype=torch.float32).permute(0, 3, 1, 2)
    with torch.no_grad():
        return _unit(model.get_image_features(pixels))


def _unit(features):
    features = getattr(features, "pooler_output", features)
    return torch.nn.functional.normalize(features, dim=-1).numpy()


def test_embeddings_equal_transformers(imported, root):
    model, folder, workdir = imported
    ours = vse_jax.load(workdir)
    is_siglip = ours.config.model.text_encoder == "siglip_text"
    tokenizer = hugging_face.transformers.PreTrainedTokenizerFast
    if is_siglip:
        tokenizer = tokenizer(tokenizer_file=str(folder / "tokenizer.json"))
        tokens = tokenizer(CAPTIONS)["input_ids"]
    else:
        tokenizer = hugging_face.transformers.CLIPTokenizer
        tokens = tokenizer.from_pretrained(str(folder))(CAPTIONS)["input_ids"]
    expected = [of_text(model, one, 1 if is_siglip else None) for one in tokens]
    found = ours.embed_captions(CAPTIONS)
    np.testing.assert_allclose(found, np.concatenate(expected), atol=1e-5)
    assert np.abs(found[0] - found[1]).max() > 1e-3
    paths = sorted(root.glob("test_*.png"))
    pixels = np.stack([ours.image_input.read(path) for path in paths])
    tower = ours.config.model.backbone.tower
    expected = of_images(model, pixels, tower.mean, tower.std)
    np.testing.assert_allclose(ours.embed_images(paths), expected, atol=1e-5)


def test_long_captions_are_cut_and_counted(imported, root, caplog):
    ours = vse_jax.load(imported[2])
    shorter = " ".join(["red"] * (whole_models.POSITIONS - 2))
    is_siglip = ours.config.model.text_encoder == "siglip_text"
    shorter += " red" if is_siglip else ""  # it has no token of the start
    np.testing.assert_allclose(
        ours.embed_captions(LONG), ours.embed_captions(shorter), atol=1e-6
    )


def test_evaluation_without_the_folder(imported, capsys):
    _, folder, workdir = imported
    hidden = folder.with_name("hidden")
    folder.rename(hidden)
    try:
        metrics = evaluate.evaluate(str(workdir), "test")
    finally:
        hidden.rename(folder)
    assert 0 < metrics["rsum"] <= 600
    assert "6 images, 12 captions, checkpoint of step 0" in capsys.readouterr().out


def test_export_computes_the_same(imported, root, tmp_path):
    workdir = imported[2]
    model = vse_jax.load(workdir)
    folder = export.export(str(workdir), output=str(tmp_path / "export"))
    card = (folder / "README.md").read_text()
    assert "The model was imported and exported by vse_jax." in " ".join(card.split())
    assert f"| `loss.name` | {model.config.loss.name} |" in card
    assert "optimizer" not in card  # not that of its training
    assert "trained on" not in card
    path = sorted(root.glob("dev_*.png"))[0]
    pixels = model.image_input.read(path)[None]
    (embedded,) = onnx_session((folder / "image_encoder.onnx").read_bytes()).run(
        None, {"image": pixels}
    )
    np.testing.assert_allclose(embedded, model.embed_images(path), atol=1e-5)
    encoded = model.vocabulary.encode(CAPTIONS[0])
    (embedded,) = onnx_session((folder / "text_encoder.onnx").read_bytes()).run(
        None,
        {
            "tokens": encoded[None],
            "token_count": np.array([len(encoded)], np.int32),
        },
    )
    np.testing.assert_allclose(embedded, model.embed_captions(CAPTIONS[0]), atol=1e-5)


def started(imported, root, tmp_path, **loss):
    config = configured(root, tmp_path / "data")
    config.start_from = str(imported[2])
    config.epochs, config.optimizer.learning_rate = 1, 1e-6
    config.checkpoint_every_steps = 1
    config.loss.update(**loss)
    return config


@pytest.mark.parametrize(
    ("imported", "name"),
    [("clip", "infonce"), ("clip", "triplet"), ("siglip", "sigmoid")],
    indirect=["imported"],
)
def test_training_starts_from_the_model(name, imported, root, tmp_path):
    """At a tiny learning rate the parameters remain close to the start."""
    config = started(imported, root, tmp_path, name=name)
    train.train_and_evaluate(config, str(tmp_path / "run"))
    before, after = (
        Checkpoints(str(workdir), read_only=True)
        for workdir in (imported[2], tmp_path / "run")
    )
    first = before.restore(before.steps()).variables["params"]
    assert after.steps()[0] == 4
    restored = after.restore([4])
    params = restored.variables["params"]
    if name == "triplet":
        assert "loss" not in params
    else:
        assert params["loss"]["log_scale"] == pytest.approx(SCALE, abs=1e-3)
    for part in ("image", "text"):
        for path, leaf in hugging_face.leaves(first[part]):
            other = params[part]
            for key in path:
                other = other[key]
            np.testing.assert_allclose(other, leaf, atol=1e-4)
    # A finished run is not repeated.
    train.train_and_evaluate(config, str(tmp_path / "run"))
    encoder = restored.run["config"]["model"]["text_encoder"]
    assert encoder in ("clip_text", "siglip_text")
    assert restored.run["tokenizer"]["name"] in ("BPE", "Unigram")


def refusal(function, *args):
    with pytest.raises(InputError) as error:
        function(*args)
    message = str(error.value)
    assert "\n" not in message
    return message


def test_weights_beside_the_start_are_refused(imported, root, tmp_path):
    config = started(imported, root, tmp_path)
    config.model.text_weights = "x"
    assert "set only one" in refusal(complete, config, None)


def test_an_imported_workdir_is_not_trained_in(imported, root, tmp_path):
    config = started(imported, root, tmp_path)
    workdir = str(imported[2])
    message = refusal(train.train_and_evaluate, config, workdir)
    assert f"choose another --workdir and set config.start_from={workdir}" in message


def test_parts_of_a_model_are_refused(imported, root, tmp_path):
    _, folder, _ = imported
    arrays = safetensors.numpy.load_file(folder / "model.safetensors")
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in folder.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    del arrays["logit_scale"]
    safetensors.numpy.save_file(arrays, copy / "model.safetensors")
    config = configured(root, tmp_path / "data")
    message = refusal(
        whole_model.import_model, config, str(tmp_path / "run"), str(copy)
    )
    assert message == f"{copy}: not a whole model; missing: logit_scale"
    content = json.loads((copy / "config.json").read_text())
    content["model_type"] = "clip_vision_model"
    (copy / "config.json").write_text(json.dumps(content))
    message = refusal(
        whole_model.import_model, config, str(tmp_path / "run"), str(copy)
    )
    assert "expected 'clip' or 'siglip': a whole model" in message
    content["model_type"] = ["clip"]
    (copy / "config.json").write_text(json.dumps(content))
    message = refusal(
        whole_model.import_model, config, str(tmp_path / "run"), str(copy)
    )
    assert "its model_type is ['clip']; expected 'clip' or 'siglip'" in message


VALUES = [(np.nan, "NaN, infinite"), (np.inf, "NaN, infinite"), (1, "no real float")]


@pytest.mark.parametrize(("value", "expected"), VALUES)
@pytest.mark.parametrize("number", range(3))
def test_impossible_values_are_refused(
    value, expected, number, imported, root, tmp_path
):
    """Of the loss, of a joint projection or head, and of a tower."""
    arrays = safetensors.numpy.load_file(imported[1] / "model.safetensors")
    projections = sorted(name for name in arrays if "projection.weight" in name)
    head = projections or ["text_model.head.weight"]
    name = ("logit_scale", head[0], "text_model.final_layer_norm.bias")[number]
    changed = arrays[name].astype(np.int32 if value == 1 else np.float32)
    changed.flat[0] = value
    copy = tmp_path / "copy"
    shutil.copytree(imported[1], copy)
    changed = arrays | {name: changed}
    safetensors.numpy.save_file(changed, copy / "model.safetensors")
    config = configured(root, tmp_path / "data")
    workdir = str(tmp_path / "run")
    message = refusal(whole_model.import_model, config, workdir, str(copy))
    assert message.startswith(f"{copy}: not ")
    assert expected in message
    assert name.endswith(message.rpartition(": ")[2])


def test_photos_have_the_size_of_the_model(imported, root, tmp_path, caplog):
    folder = str(imported[1])
    config = configured(root, tmp_path / "data")
    own = find_description(str(imported[2]))["config"]["data"]
    config.data.update(image_size=64, resize=72, fit="crop", interpolation="opencv")
    with caplog.at_level("WARNING"):
        whole_model.import_model(config, str(tmp_path / "x"), folder)
    data = find_description(str(tmp_path / "x"))["config"]["data"]
    for name in ("image_size", "resize", "fit", "interpolation"):
        assert data[name] == own[name]
    assert "config.data.image_size is 64, but the import takes the model's" in (
        caplog.text
    )
    # Drawn scenes are not resized otherwise.
    config.data.update(builder="shapes", image_size=0)
    whole_model.import_model(config, str(tmp_path / "run"), folder)
    run = find_description(str(tmp_path / "run"))
    data = run["config"]["data"]
    shorter = 0 if data["fit"] == "stretch" else whole_models.PIXELS
    assert (data["image_size"], data["resize"]) == (whole_models.PIXELS, shorter)


def test_another_tokenizer_is_refused(root, tmp_path):
    whole_models.save_clip(tmp_path / "clip")
    path = tmp_path / "clip" / "config.json"
    content = json.loads(path.read_text())
    content["text_config"]["eos_token_id"] = 5
    path.write_text(json.dumps(content))
    config = configured(root, tmp_path / "data")
    message = refusal(
        whole_model.import_model, config, str(tmp_path / "run"), str(tmp_path / "clip")
    )
    assert "ends captions with token 60, but config.json says 5" in message
    # So is it for the text tower alone.
    config.model.text_encoder = "clip_text"
    config.model.text_weights = str(tmp_path / "clip")
    assert refusal(text_weights.read_tokenizer, resolved(config)) == message
    content["text_config"]["eos_token_id"] = [5, 60]
    path.write_text(json.dumps(content))
    assert text_weights.read_tokenizer(resolved(config)).end == 60


def test_command(root, tmp_path):
    """The command of README.md."""
    whole_models.save_clip(tmp_path / "clip")
    finished = programs.run(
        "--mode=import",
        f"--import_file={tmp_path / 'clip'}",
        f"--workdir={tmp_path / 'run'}",
        "--config.data.builder=image_folder",
        f"--config.data.root={root}",
        f"--config.data.data_dir={tmp_path / 'data'}",
    )
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.startswith("checkpoint: ")
    assert programs.checkpoint_steps(tmp_path / "run") == [0]
    finished = programs.run(
        "--mode=import", f"--import_file={tmp_path / 'no'}", f"--workdir={tmp_path}/x"
    )
    assert "no such folder" in programs.refusal(finished)
