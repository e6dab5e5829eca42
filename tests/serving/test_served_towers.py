"""Models with pretrained towers, whose weights are gone: served, searched, exported."""

import shutil

import numpy as np
import pytest

import vse_jax
from configs import common
from tests import photo_files, pretrained_files, programs, saved_runs, whole_models
from tests.exporting.exported import onnx_session
from tests.models.backbones import hugging_face
from tests.serving import served
from vse_jax.exporting import export
from vse_jax.search.open_gallery import Place, open_searcher
from vse_jax.search.queries import Part, Query, text_query
from vse_jax.torch_import import whole_model
from vse_jax.torch_import.resolve import resolved

pytestmark = pytest.mark.usefixtures("quick_compilation", "few_branches")

IMAGES = {"train": 16, "dev": 2, "test": 6}
TEXTS = ["red sky", "Blue  sea", " ".join(["dark green"] * 20)]
TOLERANCE = 2e-3  # galleries are stored in float16


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder of photos with captions."""
    folder = tmp_path_factory.mktemp("photos")
    photo_files.write_captioned(folder, whole_models.WORDS, IMAGES)
    return folder


def configured(root, folder):
    config = common.get_config()
    config.data.update(
        builder="image_folder",
        root=str(root),
        data_dir=str(folder / "data"),
        minimum_word_count=1,
        token_lengths=(8, 24),
    )
    config.batch_size = config.evaluation_batch_size = 8
    config.model.update(embed_dim=16, word_dim=8)
    return config


def bert(config, folder):
    """A BERT beside a small network of convolutions."""
    weights = pretrained_files.write_bert(folder / "weights")
    config.model.update(text_encoder="bert", text_weights=str(weights))
    config.model.backbone.name, config.data.image_size = "stem", 32
    saved_runs.save(folder / "run", resolved(config))


def dinov2(config, folder):
    """A DINOv2 beside a GRU in both directions."""
    model = hugging_face.create("registers")
    options = {"size": {"shortest_edge": 32}, "crop_size": 28}
    hugging_face.save(model, folder / "weights", **options)
    weights = str(folder / "weights")
    config.model.backbone.update(name="dinov2", weights=weights)
    saved_runs.save(folder / "run", resolved(config))


def whole(kind):
    """A whole CLIP or SigLIP, as it is imported."""

    def create(config, folder):
        weights = folder / "weights"
        whole_models.SAVE[kind](weights)
        whole_model.import_model(config, str(folder / "run"), str(weights))

    return create


KINDS = {"bert": bert, "dinov2": dinov2} | {k: whole(k) for k in whole_models.SAVE}


@pytest.fixture(scope="module", params=KINDS)
def workdir(request, root, tmp_path_factory):
    """A run with a pretrained tower, whose folder is gone."""
    folder = tmp_path_factory.mktemp(request.param)
    KINDS[request.param](configured(root, folder), folder)
    shutil.rmtree(folder / "weights")
    return folder / "run"


@pytest.fixture(scope="module")
def model(workdir):
    return vse_jax.load(workdir)


@pytest.fixture(scope="module")
def paths(root):
    return [root / f"test_{number}.png" for number in range(IMAGES["test"])]


@pytest.fixture(scope="module")
def scores(model, paths):
    """Similarities of texts and images `[texts, images]`, by the model alone."""
    found = model.embed_captions(TEXTS) @ model.embed_images(paths).T
    assert np.ptp(found) > 10 * TOLERANCE
    return found


def assert_ranked(hits, scores, paths):
    """Checks pairs of ID and score against the score of each image."""
    expected = dict(zip((path.name for path in paths), scores, strict=True))
    assert len(hits) == len(expected)
    for name, score in hits:
        assert score == pytest.approx(expected.pop(name), abs=TOLERANCE)
    assert [s for _, s in hits] == sorted((s for _, s in hits), reverse=True)


def test_server(workdir, paths, scores):
    process = programs.start("--mode=serve", f"--workdir={workdir}", "--port=0")
    with served.ending(process):
        what, _, url = served.first_line(process).partition(" at ")
        assert what == "serving 6 images"
        server = served.Served(process, url)
        for text, row in zip(TEXTS, scores, strict=True):
            hits = server.search(q=text, k=6).json["hits"]
            assert_ranked([(hit["id"], hit["score"]) for hit in hits], row, paths)
        for path in paths[:2]:
            (best,) = server.upload(path.read_bytes(), "image/png", k=1).json["hits"]
            assert best["id"] == path.name
            assert best["score"] == pytest.approx(1, abs=TOLERANCE)


def test_search(workdir, paths, scores):
    options = common.get_config().gallery
    searcher = open_searcher(Place(str(workdir), "best", "", "", "", {}, options))
    photo = Query((Part(1.0, photo=paths[3]),))
    queries = [*map(text_query, TEXTS), photo]
    *of_texts, of_photo = searcher.search(searcher.embed(queries), 6)
    for hits, row in zip(of_texts, scores, strict=True):
        assert_ranked([(hit.id, hit.score) for hit in hits], row, paths)
    assert of_photo[0].id == paths[3].name


@pytest.mark.parametrize("workdir", ["dinov2"], indirect=True)
def test_export(workdir, model, paths, tmp_path):
    """The exports of the others are tested beside their other uses."""
    folder = export.export(str(workdir), output=str(tmp_path / "export"))
    again = vse_jax.load(folder)
    np.testing.assert_array_equal(
        again.embed_captions(TEXTS), model.embed_captions(TEXTS)
    )
    pixels = np.stack([model.image_input.read(path) for path in paths])
    session = onnx_session((folder / "image_encoder.onnx").read_bytes())
    (embedded,) = session.run(None, {"image": pixels})
    np.testing.assert_allclose(embedded, model.embed_images(paths), atol=1e-5)
