"""Vision transformers in the program: extraction, training, search and export."""

import shutil

import jax
import numpy as np
import pytest
import torch
from PIL import Image

import vse_jax
from configs import common, f8k_rvse
from tests import photo_files, programs, saved_runs
from tests.exporting.exported import onnx_session
from tests.models.backbones import hugging_face
from vse_jax import evaluate
from vse_jax.data import datasets
from vse_jax.errors import InputError
from vse_jax.exporting import export
from vse_jax.extraction import extract
from vse_jax.torch_import.resolve import resolved

pytestmark = pytest.mark.usefixtures("quick_compilation", "few_branches")

WORDS = ("red", "green", "blue", "dark", "light", "sky", "sea")
IMAGES = {"train": 16, "dev": 6, "test": 6}
STRETCHED = {"size": {"height": 32, "width": 32}, "image_mean": [0.4, 0.5, 0.6]}
CROPPED = {"size": {"shortest_edge": 36}, "crop_size": 32, "do_center_crop": True}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder with photos of different sizes and a file of captions."""
    folder = tmp_path_factory.mktemp("photos")
    photo_files.write_captioned(folder, WORDS, IMAGES)
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A model of each kind, and its folder."""
    folder = tmp_path_factory.mktemp("models")
    found = {}
    for kind, options in (("siglip", STRETCHED), ("clip", CROPPED)):
        model = hugging_face.create(kind)
        found[kind] = model, hugging_face.save(model, folder / kind, **options)
    return found


def configured(kind, weights, root, data_dir):
    config = common.get_config()
    config.data.update(
        builder="image_folder",
        root=str(root),
        data_dir=str(data_dir),
        minimum_word_count=1,
        token_lengths=(8,),
    )
    config.evaluation_batch_size, config.batch_size = 8, 8
    config.model.backbone.name = hugging_face.NAMES[kind]
    config.model.backbone.weights = weights
    config.model.update(embed_dim=16, word_dim=8)
    return config


@pytest.fixture(scope="module")
def extracted(models, root, tmp_path_factory):
    """Features by SigLIP's tower, and the configuration of their extraction."""
    folder = tmp_path_factory.mktemp("extracted")
    config = configured("siglip", models["siglip"][1], root, folder / "data")
    return extract.extract(config, str(folder)), config


def features_of(model, sizes, paths):
    """Computes features with PIL and PyTorch alone."""
    pixels = np.stack(
        [np.asarray(Image.open(path).resize((32, 32), Image.BICUBIC)) for path in paths]
    )
    with torch.no_grad():
        return hugging_face.run("siglip", model, pixels, sizes, pooled=False).numpy()


def test_extracted_features_are_those_of_the_model(extracted, models, root):
    """Photos are stretched bicubically, as the files of the weights say."""
    features, _ = extracted
    model, folder = models["siglip"]
    sizes = hugging_face.sizes_of("siglip", folder)
    assert sizes.mean == (0.4, 0.5, 0.6)
    config = f8k_rvse.get_config()
    config.data.update(root=str(features), region_dim=32)
    builder = datasets.prepare(config.data)
    for split, count in IMAGES.items():
        examples = list(builder.as_data_source(split))
        assert len(examples) == count
        paths = [root / example["image_id"].decode() for example in examples]
        expected = features_of(model, sizes, paths)
        found = np.stack([example["regions"] for example in examples])
        assert found.shape == (count, 16, 32)
        # Whole levels of PIL and TensorFlow differ in rounding.
        difference = np.abs(found - expected)
        assert difference.mean() < 0.01 * expected.std()
        assert difference.max() < 0.2 * expected.std()


@pytest.fixture(scope="module")
def head(extracted, tmp_path_factory):
    """A workdir of a head on the features, after the weights are gone."""
    features, _ = extracted
    config = f8k_rvse.get_config()
    config.data.update(
        root=str(features), region_dim=32, minimum_word_count=1, token_lengths=(8,)
    )
    config.batch_size, config.evaluation_batch_size = 8, 8
    config.model.update(embed_dim=16, word_dim=8)
    workdir = tmp_path_factory.mktemp("head")
    saved_runs.save(workdir, config)
    return workdir


def test_a_head_on_features_takes_photos(head, extracted, models, root):
    model = vse_jax.load(head)
    paths = sorted(root.glob("test_*.png"))
    sizes = hugging_face.sizes_of("siglip", models["siglip"][1])
    regions = features_of(models["siglip"][0], sizes, paths).astype(np.float16)
    of_features = model.embed_images(list(regions.astype(np.float32)))
    of_photos = model.embed_images(paths)
    np.testing.assert_allclose(of_photos, of_features, atol=0.02)
    assert np.abs(of_photos - of_photos[::-1]).max() > 0.05


def test_an_exported_backbone_computes_the_same(head, root, tmp_path, monkeypatch):
    folder = export.export(str(head), output=str(tmp_path / "export"))
    model = vse_jax.load(folder)
    path = sorted(root.glob("test_*.png"))[0]
    expected = vse_jax.load(head).embed_images(path)
    np.testing.assert_allclose(model.embed_images(path), expected, atol=1e-5)
    card = (folder / "README.md").read_text()
    assert "Image.BICUBIC" in card
    # The code of the card, without its tokenizer.
    image = np.asarray(Image.open(path).resize((32, 32), Image.BICUBIC))[None]
    (regions,) = onnx_session((folder / "backbone.onnx").read_bytes()).run(
        None, {"image": image}
    )
    (embedded,) = onnx_session((folder / "image_encoder.onnx").read_bytes()).run(
        None, {"regions": regions, "region_count": np.array([16], np.int32)}
    )
    np.testing.assert_allclose(embedded, expected, atol=0.01)


CONFIG = """
from configs import common


def get_config():
    config = common.get_config()
    config.batch_size = 8
    config.epochs = 1
    config.evaluation_batch_size = 8
    config.data.builder = "image_folder"
    config.data.token_lengths = (8,)
    config.data.minimum_word_count = 1
    config.model.backbone.name = "clip_vision"
    config.model.text_encoder = "gru"
    config.model.pooling = "cls"
    config.model.embed_dim = 8
    config.model.word_dim = 4
    frozen = common.parameter_group("image/backbone/.*", frozen=True)
    first = common.parameter_group("image/backbone/(patches|block_0)/.*", frozen=True)
    slow = common.parameter_group("image/backbone/.*", learning_rate=0.1)
    config.optimizer.groups = (frozen,)
    config.fine_tuning = (
        common.fine_tuning_stage(epochs=1, learning_rate=1e-3, groups=(first, slow)),
    )
    return config
"""


def run(folder, *options):
    finished = programs.run(
        *options, env=programs.environment() | {"PYTHONPATH": str(programs.REPOSITORY)}
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


@pytest.fixture(scope="module")
def trained(models, root, tmp_path_factory):
    """The folder of a run of main.py: a frozen tower, then a fine-tuned one."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "config.py").write_text(CONFIG)
    weights = shutil.copytree(models["clip"][1], folder / "clip")
    train_again(folder, root)
    shutil.rmtree(weights)  # a trained model does not need them
    return folder / "run"


def train_again(folder, root):
    """Starts or resumes the training in a folder; returns its output."""
    return run(
        folder,
        f"--config={folder / 'config.py'}",
        f"--config.model.backbone.weights={folder / 'clip'}",
        f"--config.data.root={root}",
        f"--config.data.data_dir={folder / 'data'}",
        f"--workdir={folder / 'run'}",
    )


def leaves_of(workdir, step):
    variables = programs.restored(workdir, step).variables["params"]["image"]
    return variables["backbone"]


def test_training_freezes_and_fine_tunes(trained, models):
    """The checkpoint after the first stage is the best or among the last two."""
    steps = programs.checkpoint_steps(trained)
    assert steps == [8, 4]
    first, last = leaves_of(trained, 4), leaves_of(trained, 8)
    sizes = hugging_face.sizes_of("clip", models["clip"][1])
    expected = hugging_face.vision_weights.load(
        "clip_vision", models["clip"][1], sizes, pooled=True
    )["params"]
    jax.tree.map(np.testing.assert_array_equal, first, expected)
    for name in ("patches", "block_0"):
        jax.tree.map(np.testing.assert_array_equal, last[name], first[name])
    for name in ("block_1", "norm", "pre_norm"):
        changed = jax.tree.map(lambda a, b: (a != b).any(), last[name], first[name])
        assert any(jax.tree.leaves(changed))
    run_of = programs.restored(trained, 8).run
    assert run_of["config"]["model"]["backbone"]["tower"]["layers"] == 2
    assert run_of["preprocessing"] == {
        "image_size": 32,
        "resize": 36,
        "crop": "center, rounded down",
        "interpolation": "bicubic",
        "backbone": "clip_vision",
    }


def test_a_run_resumes_without_the_weights(trained, root):
    """It takes the sizes and the preprocessing from its checkpoint."""
    assert "rSum" in train_again(trained.parent, root)


def test_a_trained_model_searches_and_exports(trained, root, tmp_path):
    assert evaluate.evaluate(str(trained), "test")["rsum"] > 0
    found = run(
        trained,
        "--mode=search",
        f"--workdir={trained}",
        f"--source={root}",
        "--query=red sky",
        "--top=2",
    )
    assert ".png" in found
    model = vse_jax.load(trained)
    paths = sorted(root.glob("dev_*.png"))
    expected = model.embed_images(paths)
    folder = export.export(str(trained), output=str(tmp_path / "export"))
    np.testing.assert_allclose(
        vse_jax.load(folder).embed_images(paths), expected, atol=1e-5
    )
    pixels = np.stack([model.image_input.read(path) for path in paths])
    session = onnx_session((folder / "image_encoder.onnx").read_bytes())
    np.testing.assert_allclose(
        session.run(None, {"image": pixels})[0], expected, atol=1e-5
    )


def refusal(config):
    with pytest.raises(InputError) as error:
        vse_jax.run_config.check_options(resolved(config))
    message = str(error.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"data.image_size": 33}, "config.data.image_size is 33; expected at least 8"),
        ({"model.backbone.tower.layers": 7}, "tower.layers is 7, but it is 2 in the"),
        (
            {"data.fit": "stretch", "data.crops": 10},
            "data.crops is 10, but config.data",
        ),
        ({"model.backbone.weights": "/nowhere/x"}, "/nowhere/x: no such folder"),
        ({"model.backbone.weights": ""}, "tower.dim is 0, and config.model.backbone"),
        ({"model.backbone.name": "dinov2"}, "set config.model.backbone.name to 'clip"),
        ({"model.pooling": "cls"}, "text_encoder='bigru_gpo' has no class token"),
        ({"model.backbone.tower.mean": (0.5,)}, "mean is (0.5,); expected three"),
        (
            {"model.backbone.tower.std": (1.0, 0.0, 1.0)},
            "expected three numbers above 0, of RGB",
        ),
    ],
)
def test_invalid_options(changes, expected, models, root, tmp_path):
    config = configured("clip", models["clip"][1], root, tmp_path)
    config.update_from_flattened_dict(changes)
    assert expected in refusal(config)


def test_images_of_the_pretraining_may_leave_pixels_over(root, tmp_path):
    """Such as SigLIP's 384 pixels, with patches of 14."""
    model = hugging_face.create("siglip", image_size=35)
    folder = hugging_face.save(model, tmp_path / "model")
    config = resolved(configured("siglip", folder, root, tmp_path))
    assert config.data.image_size == 35
    vse_jax.run_config.check_options(config)
    config.data.image_size = 36
    with pytest.raises(InputError, match="a multiple of 8"):
        vse_jax.run_config.check_options(config)


def test_siglip_has_no_class_token(models, root, tmp_path):
    config = configured("siglip", models["siglip"][1], root, tmp_path)
    config.model.update(pooling="cls", text_encoder="gru")
    assert "config.model.backbone.name='siglip_vision' has no class" in refusal(config)


def test_stored_photos_must_fit_the_patches(models, tmp_path):
    """Drawn scenes have 64 pixels, and are resized only if an option says so."""
    folder = hugging_face.save(
        hugging_face.create("dinov2", image_size=42, patch_size=14), tmp_path / "dinov2"
    )
    config = saved_runs.of_scenes(tmp_path / "data")
    config.model.backbone.update(name="dinov2", weights=folder)
    config = resolved(config)
    assert config.data.image_size == 0
    fails = pytest.raises(InputError, match=r"64x64 pixels, but dinov2 needs a mult")
    with fails:
        vse_jax.experiment.create_experiment(config)
    with fails:
        extract.extract(config, str(tmp_path / "features"))
    config.data.image_size = 56
    vse_jax.experiment.create_experiment(config)


def test_larger_photos_keep_the_margin_of_the_crop(models, root, tmp_path):
    config = configured("clip", models["clip"][1], root, tmp_path)
    config.data.image_size = 64
    assert resolved(config).data.resize == 72
    config.data.resize = 64
    assert resolved(config).data.resize == 64
