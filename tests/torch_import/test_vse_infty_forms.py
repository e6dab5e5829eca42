"""Whole checkpoints in every form that vse_infty's options give them.

A grid CNN and BERT in one file is the form of its best published models.
"""

import csv
import json
import re

import numpy as np
import pytest
import torch

import vse_jax
from configs import common
from tests import photo_files, pretrained_files
from tests.models.backbones import hugging_face
from tests.torch_import import vse_infty_files
from tests.torch_import.test_checkpoint_file import numbered
from vse_jax import evaluate
from vse_jax.models import backbones
from vse_jax.torch_import import backbone_weights, checkpoint_file

pytestmark = pytest.mark.usefixtures("quick_compilation", "few_branches")

# Images and captions of a form; BiGRU after a grid is in `test_grid_checkpoints.py`.
FORMS = [
    ("detector", "bert"),
    ("wsl", "bert"),
    ("regions", "bert"),
    ("regions", "bigru"),
]
EMBED, DIM = 32, 12
SCALE = 0.25  # photos of 64 pixels
IMAGES = {"train": 4, "dev": 2, "test": 12}
WORDS = ("a", "red", "circle", "dogs", "running", "small", "squares", "yellow", "zebra")
SOME = ["a red dog", "Squares, above the CIRCLES.", "zebra running of a small cat"]


def write_regions(folder):
    """Writes features and captions of all splits."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for split, count in IMAGES.items():
        regions = rng.normal(size=(count, 5, DIM)).astype(np.float16)
        np.save(folder / f"{split}_ims.npy", regions)
        captions = [" ".join(rng.choice(WORDS, 4)) for _ in range(2 * count)]
        (folder / f"{split}_caps.txt").write_text("\n".join(captions) + "\n")
    return folder


def write_photos(folder):
    folder.mkdir()
    photo_files.write_captioned(folder, WORDS, IMAGES)
    return folder


def read_test_split(root, is_grid):
    """Returns the images of the test split, and two captions of each."""
    if not is_grid:
        captions = (root / "test_caps.txt").read_text().splitlines()
        return list(np.load(root / "test_ims.npy").astype(np.float32)), captions
    with (root / "captions.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "test"]
    return [root / row["image"] for row in rows[::2]], [row["caption"] for row in rows]


def words_of(text):
    return re.findall(r"\w+|[^\w\s]", text.lower())


class Published:
    """A checkpoint, its vocabulary, and the encoders that it was saved from."""

    def __init__(self, folder, images, captions):
        torch.manual_seed(0)
        self.path, self.is_grid = folder / "model_best.pth", images != "regions"
        options = {"precomp_enc_type": "basic"}
        if self.is_grid:
            self.images = vse_infty_files.Grid(images, EMBED)
            options = {
                "precomp_enc_type": "backbone",
                "backbone_source": images,
                "input_scale_factor": SCALE,
            }
        else:
            self.images = vse_infty_files.Regions(DIM, EMBED)
        if captions == "bert":
            words = pretrained_files.word_pieces()
            self.captions = vse_infty_files.BertCaptions(len(words), EMBED)
            self.vocabulary = folder / "vocab.txt"
            self.vocabulary.write_text("\n".join(words) + "\n")
            tokenizer = hugging_face.transformers.BertTokenizer(str(self.vocabulary))
            self.tokens_of = lambda texts: tokenizer(texts)["input_ids"]
        else:
            numbers = numbered(4) | {word: 4 + i for i, word in enumerate(WORDS)}
            self.captions = vse_infty_files.GruCaptions(len(numbers), EMBED)
            self.vocabulary = folder / "vocab.json"
            self.vocabulary.write_text(json.dumps({"word2idx": numbers}))
            self.tokens_of = lambda texts: [
                [1, *(numbers.get(word, 3) for word in words_of(text)), 2]
                for text in texts
            ]
        self.images.eval(), self.captions.eval()
        vse_infty_files.save(
            self.path, self.images, self.captions, parallel=self.is_grid, **options
        )

    @torch.inference_mode()
    def embed_images(self, contents):
        if not self.is_grid:
            contents = list(map(torch.from_numpy, contents))
        return self.images(contents).numpy()

    @torch.inference_mode()
    def embed_captions(self, texts):
        return self.captions(self.tokens_of(texts)).numpy()


@pytest.fixture(scope="module", params=FORMS, ids="-".join)
def published(request, tmp_path_factory):
    """A published checkpoint, and data; its CNN has few blocks."""
    folder = tmp_path_factory.mktemp("published")
    images, captions = request.param
    with pytest.MonkeyPatch.context() as patch:
        if images != "regions":
            name, spec = vse_infty_files.few_blocks(images)
            patch.setitem(backbones.SPECS, name, spec)
        backbone_weights.shapes.cache_clear()
        write = write_regions if images == "regions" else write_photos
        yield Published(folder, images, captions), write(folder / "data")
    backbone_weights.shapes.cache_clear()


@pytest.fixture(scope="module")
def workdir(published, tmp_path_factory):
    checkpoint, root = published
    config = common.get_config()
    config.data.root = str(root)
    config.data.data_dir = str(tmp_path_factory.mktemp("prepared"))
    config.evaluation_batch_size = 8
    if checkpoint.is_grid:
        config.data.builder = "image_folder"
    workdir = tmp_path_factory.mktemp("imported") / "run"
    checkpoint_file.import_checkpoint(
        config, str(workdir), str(checkpoint.path), str(checkpoint.vocabulary)
    )
    return workdir


@pytest.fixture(scope="module")
def model(workdir):
    return vse_jax.load(workdir)


@pytest.fixture(scope="module")
def embedded(published, model):
    """Embeddings of the test split by PyTorch."""
    checkpoint, root = published
    contents, captions = read_test_split(root, checkpoint.is_grid)
    if checkpoint.is_grid:
        contents = list(map(model.image_input.read, contents))
    return checkpoint.embed_images(contents), checkpoint.embed_captions(captions)


def test_embeddings_equal_pytorch(published, model, embedded):
    checkpoint, root = published
    contents, _ = read_test_split(root, checkpoint.is_grid)
    found = model.embed_images(contents)
    assert np.abs(embedded[0][0] - embedded[0][1]).max() > 0.01
    np.testing.assert_allclose(found, embedded[0], atol=1e-5)
    expected = checkpoint.embed_captions(SOME)
    assert np.abs(expected[0] - expected[1]).max() > 0.01
    np.testing.assert_allclose(model.embed_captions(SOME), expected, atol=1e-5)


def recall(scores, own, k):
    """Returns the share of rows, in percent, with one of their own in the first k."""
    best = np.argsort(-scores, axis=1)[:, :k]
    return 100 * np.mean(
        [row[found].any() for row, found in zip(own, best, strict=True)]
    )


def test_evaluation_equals_pytorch(workdir, embedded):
    images, captions = embedded
    own = np.arange(len(images))[:, None] == np.arange(len(captions)) // 2
    metrics = evaluate.evaluate(str(workdir), "test")
    for k in (1, 5, 10):
        scores = images @ captions.T
        assert metrics[f"i2t_r{k}"] == pytest.approx(recall(scores, own, k))
        assert metrics[f"t2i_r{k}"] == pytest.approx(recall(scores.T, own.T, k))
    assert 0 < metrics["rsum"] < 600
