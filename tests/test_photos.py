"""Training from photos in several stages: a real run of main.py, killed and resumed."""

import csv
import signal
import textwrap

import numpy as np
import pytest
from PIL import Image

from tests import programs
from tests.run_report import page_reader

WORDS = ("red", "green", "blue", "dark", "light", "sky", "sea")
IMAGES = {"train": 40, "dev": 8}
CAPTIONS = 2
STEPS_PER_EPOCH = 10  # 40 photos with 2 captions each, in batches of 8
STEPS = 3 * STEPS_PER_EPOCH
CONFIG = """
    from configs import common


    def get_config():
        config = common.get_config()
        config.batch_size = 8
        config.epochs = 1
        config.evaluation_batch_size = 8
        config.log_every_steps = 1
        config.checkpoint_every_steps = 4
        config.data.builder = "image_folder"
        config.data.image_size = 32
        config.data.token_lengths = (16,)
        config.data.minimum_word_count = 1
        config.model.backbone.name = "stem"
        config.model.text_encoder = "gru"
        config.model.embed_dim = 8
        config.model.word_dim = 4
        config.fine_tuning = (
            common.fine_tuning_stage(
                epochs=1,
                learning_rate=1e-3,
                groups=(common.parameter_group("image/backbone/.*", frozen=True),),
            ),
            common.fine_tuning_stage(epochs=1, learning_rate=1e-4),
        )
        return config
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Photos of different sizes, a file of captions, and a configuration."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "root").mkdir()
    (folder / "config.py").write_text(textwrap.dedent(CONFIG))
    rng = np.random.default_rng(0)
    with (folder / "root" / "captions.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "caption", "split"])
        for split, images in IMAGES.items():
            for number in range(images):
                name = f"{split}_{number}.jpg"
                size = rng.integers(40, 70, 2)
                pixels = rng.integers(0, 256, (*size, 3), np.uint8)
                Image.fromarray(pixels).save(folder / "root" / name)
                for _ in range(CAPTIONS):
                    rows.writerow([name, " ".join(rng.choice(WORDS, 4)), split])
    return folder


def start(folder, name):
    return programs.start(
        f"--config={folder / 'config.py'}",
        f"--config.data.root={folder / 'root'}",
        f"--config.data.data_dir={folder / 'data'}",
        f"--workdir={folder / 'runs' / name}",
        env=programs.environment() | {"PYTHONPATH": str(programs.REPOSITORY)},
    )


@pytest.fixture(scope="module")
def reference(folder):
    finished = programs.finish(start(folder, "reference"))
    assert finished.returncode == 0, finished.stderr
    return folder / "runs" / "reference", finished


def test_stages_train_with_their_options(reference):
    workdir, finished = reference
    assert "dev split, 8 images, 16 captions, checkpoint of step" in finished.stdout
    assert finished.stderr.count("fine-tuning the best checkpoint") == 2
    rates = programs.curves(workdir)["learning_rate"]
    assert [rates[step] for step in (10, 11, 20, 21, 30)] == pytest.approx(
        [5e-4, 1e-3, 1e-3, 1e-4, 1e-4]
    )


def test_training_ends_with_a_report(reference):
    workdir, finished = reference
    path = workdir / "eval" / "dev.html"
    assert f"report:      {path}" in finished.stdout
    reader = page_reader.read(path.read_text())
    assert len(reader.all("img")) > 20
    assert "8 images, 16 captions" in reader.words


def test_killed_run_ends_as_an_uninterrupted_one(folder, reference):
    """It is killed soon after a stage starts, so the stage starts again."""
    for step in (12, 22):
        text = f"step {step}/"
        killed = programs.stop_after(start(folder, "killed"), text, signal.SIGKILL)
        assert killed.returncode == -signal.SIGKILL
    assert "fine-tuning the best checkpoint" in killed.stderr
    last = programs.finish(start(folder, "killed"))
    assert last.returncode == 0, last.stderr
    assert "resuming from the checkpoint of step 20\n" in last.stderr
    programs.assert_same_run(folder / "runs" / "killed", reference[0], STEPS)
