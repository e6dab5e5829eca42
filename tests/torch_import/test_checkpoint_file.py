import argparse
import functools
import json
import math
import os
import re

import jax
import numpy as np
import pytest
import torch

from configs import coco_esa, coco_siglip_head, coco_vse_infinity_bert, coco_vsepp
from tests import parity, programs
from tests.models.backbones import pytorch_backbones
from vse_jax.checkpoint import Checkpoints
from vse_jax.data.text.vocabulary import Vocabulary
from vse_jax.errors import InputError
from vse_jax.models.vse import create_model
from vse_jax.run_config import check_options
from vse_jax.torch_import import checkpoint_file, torch_checkpoint

# Files, golden embeddings of the same parameters, and the expected options.
FILES = {
    "rvsepp_model_best.pth": ("rvsepp_eval", "region_residual", "bigru_gpo", "nltk"),
    "vse_infty_bigru_model_best.pth": (
        "vse_infty_bigru_eval",
        "region_parallel",
        "bigru_gpo",
        "nltk",
    ),
    "vsepp_model_best.pth.tar": ("vsepp_eval", "global", "gru", "nltk_sentences"),
}


TEXT = ("txt.embed.weight", "txt.rnn.weight_ih_l0")


def numbered(count: int) -> dict[str, int]:
    words = ["<pad>", "<start>", "<end>", "<unk>"]
    words += [f"word{i}" for i in range(count - len(words))]
    return {word: number for number, word in enumerate(words)}


def write_vocabulary(path, count):
    path.write_text(json.dumps({"word2idx": numbered(count), "idx": count}))
    return path


def content_of(name):
    return torch.load(parity.path_of(name), weights_only=False)


@pytest.mark.parametrize("name", FILES)
def test_parity_of_imported_embeddings(name, config, tmp_path):
    golden_name, image_encoder, text_encoder, tokenizer = FILES[name]
    path = parity.path_of(name)
    golden = parity.read(path.with_name(f"{golden_name}.npz"))
    size = len(golden["param/txt.embed.weight"])
    vocabulary = write_vocabulary(tmp_path / "vocab.json", size)
    workdir = str(tmp_path / "run")
    checkpoint_file.import_checkpoint(config, workdir, str(path), str(vocabulary))

    checkpoints = Checkpoints(workdir, read_only=True)
    restored = checkpoints.restore(checkpoints.steps())
    saved = restored.run["config"]
    assert saved["model"]["image_encoder"] == image_encoder
    assert saved["model"]["text_encoder"] == text_encoder
    assert saved["data"]["vocabulary"] == "checkpoint"
    assert saved["data"]["tokenizer"] == tokenizer
    config.update(saved)
    model = create_model(config, size + 1, train=False)  # and <mask>
    batch = parity.batch(golden)
    images, captions = jax.jit(model.apply)(restored.variables, batch)
    np.testing.assert_allclose(images, golden["out/image_emb"], atol=1e-5)
    np.testing.assert_allclose(captions, golden["out/caption_emb"], atol=1e-5)


def test_options_become_the_configuration(config, tmp_path):
    content = content_of("vsepp_model_best.pth.tar")
    vars(content["opt"]).update(
        measure="order", use_abs=True, no_imgnorm=True, max_violation=False, margin=0.05
    )
    content["best_rsum"] = np.float64(100)  # as the repositories save it
    path = str(tmp_path / "order.pth.tar")
    torch.save(content, path)
    read = torch_checkpoint.read(path)
    configured = checkpoint_file.configure(config, read, path)
    assert configured.model.absolute
    assert not configured.model.normalize_image
    assert (
        configured.loss.to_dict()
        | {
            "similarity": "order",
            "mining": "all",
            "margin": 0.05,
            "reduction": "sum",
        }
        == configured.loss.to_dict()
    )
    assert read.step == content["Eiters"]
    assert config.model.image_encoder == "region_residual"  # it is unchanged


def with_backbone(architecture, names):
    """Returns vsepp's checkpoint with a CNN by vsepp's `names`, and the CNN."""
    content = content_of("vsepp_model_best.pth.tar")
    network = pytorch_backbones.create(architecture, 32)
    images, _ = content["model"]
    dim = images["fc.weight"].shape[0]
    images["fc.weight"] = torch.randn(dim, 2048) / 45
    for name, array in network.state_dict().items():
        images[names.format(name)] = array
    vars(content["opt"]).update(cnn_type=architecture)
    return content, network


def test_cnn_is_imported_too(config, tmp_path):
    content, network = with_backbone("resnet50", "cnn.module.{}")
    path = str(tmp_path / "resnet.pth.tar")
    torch.save(content, path)
    read = torch_checkpoint.read(path)
    configured = checkpoint_file.configure(config, read, path)
    assert configured.model.backbone.name == "resnet50"
    assert configured.data.builder == "karpathy_images"
    assert configured.data.image_size == 224
    words = Vocabulary(list(numbered(len(read.arrays["txt.embed.weight"])))[4:])
    variables = checkpoint_file.convert(configured, words, read, path)

    photos = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    model = create_model(configured, len(words), train=False)
    embed = jax.jit(functools.partial(model.apply, method=model.embed_images))
    feature = pytorch_backbones.run(network, photos, pooled=True)
    images, _ = content["model"]
    normalize = functools.partial(torch.nn.functional.normalize, dim=1)
    projected = normalize(torch.tensor(feature)) @ images["fc.weight"].T
    expected = normalize(projected + images["fc.bias"])
    np.testing.assert_allclose(embed(variables, {"image": photos}), expected, atol=1e-5)


@pytest.mark.parametrize("given", [coco_vsepp, coco_esa, coco_vse_infinity_bert])
def test_cnn_imported_by_another_configuration_can_be_evaluated(given, tmp_path):
    content, _ = with_backbone("resnet50", "cnn.module.{}")
    path = str(tmp_path / "resnet.pth.tar")
    torch.save(content, path)
    given = given.get_config()
    configured = checkpoint_file.configure(given, torch_checkpoint.read(path), path)
    check_options(configured)
    assert configured.data.train_split == given.data.train_split
    assert not configured.fine_tuning


@pytest.mark.parametrize("given", [coco_vsepp, coco_siglip_head])
def test_features_imported_by_a_configuration_of_photos(given, tmp_path):
    path = parity.path_of("rvsepp_model_best.pth")
    size = content_of(path.name)["opt"].vocab_size
    vocabulary = str(write_vocabulary(tmp_path / "vocab.json", size))
    workdir = str(tmp_path / "run")
    config = given.get_config()
    checkpoint_file.import_checkpoint(config, workdir, str(path), vocabulary)
    checkpoints = Checkpoints(workdir, read_only=True)
    saved = checkpoints.restore(checkpoints.steps()).run["config"]
    assert saved["data"]["builder"] == "region_features"
    assert saved["data"]["validation_split"] == "dev"
    assert saved["model"]["backbone"]["name"] == ""


def test_photos_are_cropped_as_the_options_say(config, tmp_path):
    content, _ = with_backbone("resnet50", "cnn.module.{}")
    vars(content["opt"]).update(crop_size=192)
    path = str(tmp_path / "resnet.pth.tar")
    torch.save(content, path)
    configured = checkpoint_file.configure(config, torch_checkpoint.read(path), path)
    assert configured.data.image_size == 192


def test_unknown_cnn_is_refused(config, tmp_path):
    content, _ = with_backbone("resnet50", "cnn.module.{}")
    vars(content["opt"]).update(cnn_type="alexnet")
    path = str(tmp_path / "alexnet.pth.tar")
    torch.save(content, path)
    with pytest.raises(InputError, match=r"'alexnet', which is not supported"):
        checkpoint_file.configure(config, torch_checkpoint.read(path), path)


def test_models_of_equal_sizes_are_distinguished_by_the_options(config):
    arrays = {
        "img.fc.weight": np.zeros((8, 8)),
        "img.mlp.layers.0.weight": np.zeros((4, 8)),
        "txt.embed.weight": np.zeros((9, 3)),
        "txt.rnn.weight_ih_l0": np.zeros((24, 3)),
    }
    kinds = [
        checkpoint_file.configure(
            config, torch_checkpoint.TorchCheckpoint(arrays, {}, options, 0), "x"
        )
        for options in ({}, {"precomp_enc_type": "basic"})
    ]
    encoders = [kind.model.image_encoder for kind in kinds]
    assert encoders == ["region_residual", "region_parallel"]


def spoilt(change):
    """Returns a checkpoint with one change."""
    content = content_of("rvsepp_model_best.pth")
    images, captions = content["model"]
    change(content, images, captions)
    return content


def zeros(branch, name, shape, expected=""):
    """Returns a change of a parameter's shape, and what is expected of the message."""
    reason = rf"mis-shaped parameters: \w+.{name} {re.escape(str(shape))} instead of a"

    def change(content, images, captions):
        content["model"][branch][name] = torch.zeros(shape)

    return change, expected or reason


SPOILT = {
    "missing": (lambda c, i, t: i.pop("mlp.bns.0.weight"), "missing: params.image"),
    "unexpected": (lambda c, i, t: i.update({"head.x": i["fc.bias"]}), "img.head.x"),
    "second layer": (
        lambda c, i, t: t.update({"rnn.weight_ih_l1": t["rnn.weight_ih_l0"]}),
        "unexpected parameters: txt.rnn.weight_ih_l1",
    ),
    "mis-shaped": (
        lambda c, i, t: i.update({"fc.bias": i["fc.bias"][:-1]}),
        r"mis-shaped: params.image.encoder.projection.bias \(\d+,\) instead of",
    ),
    **{
        f"{name} {shape}": zeros(branch, name, shape)
        for branch, name in (
            (0, "fc.weight"),
            (0, "mlp.layers.0.weight"),
            (1, "embed.weight"),
        )
        for shape in ((), (8,), (2, 8, 8), (0, 8), (8, 0))
    },
    **{
        f"{name} {shape}": zeros(branch, name, shape, r"mis-shaped: params.\S+ \(")
        for branch, name, shape in (
            (0, "mlp.layers.1.weight", (3,)),
            (0, "mlp.layers.1.weight", (0, 3)),
            (1, "rnn.weight_ih_l0", ()),
            (1, "rnn.weight_hh_l0", (2, 3, 4)),
            (1, "gpool.linear.weight", (3,)),
        )
    },
    "one row": (
        lambda c, i, t: i.update({"fc.weight": torch.zeros(1, 8)}),
        r"mis-shaped parameters: img.fc.weight \(1, 8\) instead of 2 rows or more",
    ),
    "NaN": (
        lambda c, i, t: i["fc.bias"].__setitem__(0, math.nan),
        r"with NaN, infinite or too large numbers: img.fc.bias$",
    ),
    "infinite": (
        lambda c, i, t: t["embed.weight"].__setitem__((0, 0), -math.inf),
        r"with NaN, infinite or too large numbers: txt.embed.weight$",
    ),
    "complex": (
        lambda c, i, t: i.update({"fc.bias": i["fc.bias"].to(torch.complex64)}),
        r"no real floating-point numbers: img.fc.bias$",
    ),
    "whole numbers": (
        lambda c, i, t: t.update({"embed.weight": t["embed.weight"].int()}),
        r"no real floating-point numbers: txt.embed.weight$",
    ),
    "no image encoder": (lambda c, i, t: i.clear(), "missing parameters: img.fc"),
    "captions not normalized": (
        lambda c, i, t: setattr(c["opt"], "no_txtnorm", True),
        "no_txtnorm",
    ),
    "no options": (lambda c, i, t: c.pop("opt"), "not a checkpoint of vsepp"),
    "one encoder": (lambda c, i, t: c["model"].pop(), "not a checkpoint of vsepp"),
}


@pytest.mark.parametrize("kind", SPOILT)
def test_checkpoint_that_does_not_match_is_refused(kind, config, tmp_path):
    change, expected = SPOILT[kind]
    content = spoilt(change)
    path, workdir = str(tmp_path / "spoilt.pth"), tmp_path / "run"
    torch.save(content, path)
    size = content_of("rvsepp_model_best.pth")["opt"].vocab_size
    vocabulary = write_vocabulary(tmp_path / "vocab.json", size)
    with pytest.raises(InputError, match=expected) as error:
        checkpoint_file.import_checkpoint(config, str(workdir), path, str(vocabulary))
    assert str(error.value).startswith(path)
    assert "\n" not in str(error.value)
    assert not workdir.exists()


MARGIN = "expected a finite number, at least 0; correct"
FLAG = "expected True or False; correct"


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        *(("margin", value, MARGIN) for value in (math.nan, -1, None, "abc", True)),
        *(("epsilon", value, MARGIN) for value in (math.inf, None)),
        ("measure", "l2", "expected one of 'cosine', 'order'"),
        ("measure", ["order"], "expected one of 'cosine', 'order'"),
        *(
            (name, value, FLAG)
            for name in ("use_abs", "no_imgnorm", "no_txtnorm", "max_violation")
            for value in ("False", None, 2)
        ),
    ],
)
def test_invalid_options_are_refused(name, value, expected, config, tmp_path):
    path, workdir = str(tmp_path / "x.pth"), tmp_path / "run"
    torch.save(spoilt(lambda c, i, t: setattr(c["opt"], name, value)), path)
    with pytest.raises(InputError) as error:
        checkpoint_file.import_checkpoint(config, str(workdir), path, "none.json")
    message = str(error.value)
    assert message.startswith(f"{path}: its option {name} is {value!r}; {expected}")
    assert not workdir.exists()


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        *(
            ("crop_size", v, f"is {v!r}; expected a whole")
            for v in (None, "x", 1.5, -1)
        ),
        ("crop_size", 8, "makes photos of 8 x 8 pixels; expected 32 to 4096"),
        ("input_scale_factor", None, "is None; expected a finite number"),
        ("input_scale_factor", math.inf, "is inf; expected a finite number"),
        ("input_scale_factor", 1e300, "makes photos of 8192 x 8192 pixels; expected"),
        ("input_scale_factor", 0, "makes photos of 0 x 0 pixels; expected 32 to"),
    ],
)
def test_invalid_sizes_of_photos_are_refused(name, value, expected, config):
    arrays = {name: np.zeros((4, 4)) for name in ("img.fc.weight", *TEXT)}
    options = {"cnn_type": "resnet50", name: value}
    if name == "input_scale_factor":
        options |= {"precomp_enc_type": "backbone", "backbone_source": "detector"}
    loaded = torch_checkpoint.TorchCheckpoint(arrays, {"x": None}, options, 0)
    with pytest.raises(InputError) as error:
        checkpoint_file.configure(config, loaded, "x.pth")
    assert str(error.value).startswith(f"x.pth: its option {name} {expected}")


@pytest.mark.parametrize("updates", [math.inf, math.nan, 10**12, -5, "many", 0.5])
def test_impossible_numbers_of_updates_are_refused(updates, tmp_path):
    path = str(tmp_path / "x.pth")
    torch.save(spoilt(lambda c, i, t: c.update(Eiters=updates)), path)
    with pytest.raises(InputError, match=r"option Eiters is .*; expected a whole numb"):
        torch_checkpoint.read(path)


def test_options_of_the_configuration_are_checked(config, tmp_path):
    path, workdir = str(parity.path_of("rvsepp_model_best.pth")), tmp_path / "run"
    config.evaluation_batch_size = 0
    with pytest.raises(InputError, match=r"evaluation_batch_size is 0; expected"):
        checkpoint_file.import_checkpoint(config, str(workdir), path, "none.json")
    assert not workdir.exists()


def test_vocabulary_of_another_size_is_refused(config, tmp_path):
    path = str(parity.path_of("rvsepp_model_best.pth"))
    size = content_of("rvsepp_model_best.pth")["opt"].vocab_size
    vocabulary = str(write_vocabulary(tmp_path / "vocab.json", size - 1))
    with pytest.raises(InputError, match=f"has {size - 1} words, but the model") as e:
        checkpoint_file.import_checkpoint(
            config, str(tmp_path / "run"), path, vocabulary
        )
    assert str(e.value).startswith(vocabulary)


def make_torch_checkpoint(playground, folder):
    """Writes a checkpoint of RVSE++ for the playground's dataset and its vocabulary."""
    words = [*numbered(4), *programs.WORDS]
    golden = content_of("rvsepp_model_best.pth")
    images, captions = golden["model"]
    generator = np.random.default_rng(0)

    def drawn(*shape):
        return torch.from_numpy(generator.normal(size=shape).astype(np.float32))

    embed_dim = len(images["fc.weight"])
    images["fc.weight"] = drawn(embed_dim, programs.DIM)
    captions["embed.weight"] = drawn(len(words), captions["embed.weight"].shape[1])
    folder.mkdir(parents=True)
    torch.save(golden, folder / "model_best.pth")
    numbers = {word: number for number, word in enumerate(words)}
    (folder / "vocab.json").write_text(json.dumps({"word2idx": numbers}))
    return golden, Vocabulary(programs.WORDS)


def test_program_imports_and_evaluates(tmp_path_factory):
    playground = programs.playground(tmp_path_factory.getbasetemp())
    folder = playground.folder / "published"
    make_torch_checkpoint(playground, folder)
    # A file without an ending is not taken for a folder.
    checkpoint = (folder / "model_best.pth").rename(folder / "model_best")
    workdir = f"--workdir={playground.workdir('imported')}"
    files = [
        f"--import_file={checkpoint}",
        f"--vocabulary={folder / 'vocab.json'}",
    ]
    imported = playground.run("--mode=import", workdir, *files)
    assert imported.returncode == 0, imported.stderr
    assert "checkpoint: " in imported.stdout

    # The checkpoint contains the configuration, so --config is not needed.
    evaluated = programs.run("--mode=eval", workdir, cwd=playground.folder)
    assert evaluated.returncode == 0, evaluated.stderr
    report = playground.workdir("imported") / "eval" / "test.json"
    metrics = json.loads(report.read_text())["metrics"]
    assert 0 < metrics["rsum"] < 600

    again = programs.refusal(playground.run("--mode=import", workdir, *files))
    assert "already has a run" in again
    trained = programs.refusal(playground.run(workdir))
    assert "to train from it, choose another --workdir" in trained


@pytest.mark.parametrize("flag", ["import_file", "vocabulary"])
def test_program_asks_for_the_files(flag, tmp_path):
    given = {"import_file": "model.pth", "vocabulary": "vocab.json"}
    options = [f"--{name}={value}" for name, value in given.items() if name != flag]
    finished = programs.run(
        "--mode=import", f"--workdir={tmp_path / 'run'}", *options, cwd=tmp_path
    )
    assert f"--{flag} is missing" in programs.refusal(finished)
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(
    "prefix", ["_orig_mod.", "module.module.", "module._orig_mod."]
)
def test_prefixes_of_training_code_are_removed(prefix, tmp_path):
    content = content_of("rvsepp_model_best.pth")
    plain = torch_checkpoint.read(str(parity.path_of("rvsepp_model_best.pth")))
    content["model"] = [
        {f"{prefix}{name.removeprefix('module.')}": a for name, a in branch.items()}
        for branch in content["model"]
    ]
    path = str(tmp_path / "x.pth")
    torch.save(content, path)
    assert torch_checkpoint.read(path).arrays.keys() == plain.arrays.keys()


def test_options_are_an_argparse_namespace():
    content = content_of("rvsepp_model_best.pth")
    assert isinstance(content["opt"], argparse.Namespace)
