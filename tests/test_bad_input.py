"""Invalid input is reported in one line and leaves no incomplete files."""

import resource
import shutil
import subprocess

import numpy as np
import pytest

from tests import programs
from vse_jax import evaluate, train
from vse_jax.errors import ReportedError

STEPS = 2 * programs.STEPS_PER_EPOCH
KIBIBYTE = 1024


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return programs.playground(tmp_path_factory.getbasetemp())


@pytest.fixture
def root(place, tmp_path):
    """A copy of the source files, which a test may damage."""
    return shutil.copytree(place.root, tmp_path / "root")


@pytest.fixture
def run_copy(place, tmp_path):
    """A copy of the workdir of a finished run, which a test may damage."""
    return shutil.copytree(place.trained()[0], place.workdir(tmp_path.name))


def refused(action, *arguments):
    """Returns the message of a reported error, which has one line."""
    with pytest.raises(ReportedError) as info:
        action(*arguments)
    message = str(info.value)
    assert len(message.splitlines()) == 1
    return message


# Invalid command lines, which are reported before anything is imported.


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            [f"--config={programs.CONFIG}", "--config.batchsize=3"],
            ["no option", "batchsize", "f8k_rvse.py"],
        ),
        (
            ["--mode=eval", "--workdir=x", "--config.batchsize=3"],
            ["no option", "batchsize", "without --config"],
        ),
        (
            [f"--config={programs.CONFIG}", "--config.batch_size=abc"],
            ["batch_size", "abc"],
        ),
        (
            [f"--config={programs.CONFIG}", "--config.loss.margin=wide"],
            ["loss.margin", "wide"],
        ),
        (
            [f"--config={programs.CONFIG}", "--config.optimizer.groups[0].frozen=True"],
            ["f8k_rvse.py", "--config.optimizer.groups[0].frozen does not exist"],
        ),
        ([f"--config={programs.CONFIG}", "--mode=fly"], ["mode", "train"]),
        ([f"--config={programs.CONFIG}", "--speed=3"], ["speed"]),
        ([f"--config={programs.CONFIG}", "batch_size=3"], ["batch_size=3"]),
        (["--config=configs/no_such.py"], ["configs/no_such.py"]),
        ([], ["--config"]),
        (["--workdir=somewhere"], ["--config"]),
        (["--mode=eval"], ["--workdir"]),
        (
            ["--mode=import", "--import_file=.", "--vocabulary=v", "--workdir=x"],
            ["--vocabulary is 'v'", "--import_file is a folder"],
        ),
    ],
)
def test_command_line(options, words, tmp_path):
    message = programs.refusal(programs.run(*options, cwd=tmp_path))
    for word in words:
        assert word in message
    assert not programs.files(tmp_path)


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"def get_config(:\n", "syntax"),
        (b"import no_such_module\n", "no_such_module"),
        (b"raise RuntimeError('first line\\nsecond line')\n", "first line"),
        (b"get_config = None\n", "NoneType"),
        (b"batch_size = 3\n", "get_config"),
        (b"\xff\xfe", ""),
    ],
)
def test_config_file(content, word, tmp_path):
    path = tmp_path / "mine.py"
    path.write_bytes(content)
    message = programs.refusal(programs.run(f"--config={path}", cwd=tmp_path))
    assert word in message
    assert str(path) in message


# Invalid options.


@pytest.mark.parametrize(
    "options",
    [
        ["--config", programs.CONFIG, f"--config.data.builder={'x' * 100_000}"],
        ["--config", programs.CONFIG, f"--mode={'x' * 100_000}"],
        ["--mode=eval", f"--workdir=/{'x' * 100_000}"],
    ],
)
def test_long_values_are_shortened(options, tmp_path):
    assert len(programs.refusal(programs.run(*options, cwd=tmp_path))) < 1000


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("loss.mining", "hardes", ["loss.mining", "'hardes'", "'selective'"]),
        ("loss.warmup_mining", "x", ["loss.warmup_mining", "'x'"]),
        ("optimizer.name", "sgd", ["optimizer.name", "'sgd'", "'adamw'"]),
        ("dtype", "float64", ["dtype", "'float64'", "'bfloat16'"]),
        ("epochs", 0, ["epochs", "0"]),
        ("batch_size", 48, ["batch_size", "48", "40"]),
        ("model.image_encoder", "global", ["'global'", "'region_residual'"]),
        ("model.backbone.name", "stem", ["'stem'", "'regions'"]),
        ("model.backbone.name", "resnet", ["'resnet'", "'resnet50'"]),
        ("model.backbone.weights", "a.pth", ["/a.pth'", "backbone.name is empty"]),
        ("data.token_lengths", (1,), ["token_lengths", "(1,)"]),
        ("data.token_lengths", ("a",), ["token_lengths", "('a',)"]),
        ("data.minimum_word_count", 999, ["minimum_word_count", "999"]),
        ("data.validation_split", "val", ["'val'", "dev"]),
        ("data.builder", "nothing", ["nothing", "region_features"]),
    ],
)
def test_options(place, option, value, words, tmp_path):
    config = place.config()
    config.update_from_flattened_dict({option: value})
    message = refused(train.train_and_evaluate, config, str(tmp_path))
    for word in words:
        assert word in message
    assert not programs.files(tmp_path)


def test_batch_size_that_devices_do_not_divide(place, tmp_path):
    finished = place.run("--config.batch_size=9", f"--workdir={tmp_path}", devices=2)
    message = programs.refusal(finished)
    assert "batch_size is 9" in message
    assert "2 devices" in message
    assert "8 or 10" in message
    assert not programs.files(tmp_path)


def test_missing_platform(place, tmp_path):
    finished = place.run("--config.platform=tpu", f"--workdir={tmp_path}")
    assert "config.platform is 'tpu'" in programs.refusal(finished)
    assert not programs.files(tmp_path)


# Invalid data.


def missing_root(root):
    shutil.rmtree(root)
    return [str(root)]


def missing_captions(root):
    (root / "dev_caps.txt").unlink()
    return ["dev_caps.txt: is missing"]


def missing_train_split(root):
    for name in ("train_ims.npy", "train_caps.txt"):
        (root / name).unlink()
    return ["'train'", "dev"]


def missing_validation_split(root):
    for name in ("dev_ims.npy", "dev_caps.txt"):
        (root / name).unlink()
    return ["'dev'", "train, test"]


def truncated_features(root):
    path = root / "test_ims.npy"
    path.write_bytes(path.read_bytes()[:-100])
    return ["test_ims.npy"]


def nan_in_features(root):
    features = np.load(root / "train_ims.npy")
    features[33, 2, 5] = np.nan
    np.save(root / "train_ims.npy", features)
    return ["train_ims.npy", "row 33", "'33'", "nan"]


def other_rank(root):
    for split in programs.IMAGES:
        features = np.load(root / f"{split}_ims.npy")
        np.save(root / f"{split}_ims.npy", features[..., None])
    return ["_ims.npy", "[40, 6, 12, 1]"]


def other_dim(root):
    for split in programs.IMAGES:
        features = np.load(root / f"{split}_ims.npy")
        np.save(root / f"{split}_ims.npy", features[..., :7])
    return ["7", "12"]


def no_images(root):
    np.save(root / "dev_ims.npy", np.zeros((0, 6, 12), np.float16))
    (root / "dev_caps.txt").write_text("")
    return ["dev_ims.npy"]


def captions_in_latin1(root):
    path = root / "dev_caps.txt"
    path.write_bytes(path.read_bytes().replace(b"\n", b" caf\xe9\n", 1))
    return ["dev_caps.txt: line 1 is not UTF-8", "0xe9"]


def empty_caption(root):
    path = root / "train_caps.txt"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:2], "  ", *lines[3:]]) + "\n")
    return ["train_caps.txt: line 3 is empty"]


def caption_too_few(root):
    path = root / "train_caps.txt"
    path.write_text("\n".join(path.read_text().splitlines()[:-1]) + "\n")
    return ["train_caps.txt", "199 captions", "40 images"]


@pytest.mark.parametrize(
    "spoil",
    [
        missing_root,
        missing_captions,
        missing_train_split,
        missing_validation_split,
        truncated_features,
        nan_in_features,
        other_rank,
        other_dim,
        no_images,
        captions_in_latin1,
        empty_caption,
        caption_too_few,
    ],
)
def test_data(place, spoil, root, tmp_path):
    words = spoil(root)
    data_dir, workdir = tmp_path / "data", tmp_path / "workdir"
    config = place.config(root=str(root), data_dir=str(data_dir))
    message = refused(train.train_and_evaluate, config, str(workdir))
    for word in words:
        assert word in message
    assert not programs.files(workdir)
    if "split" not in spoil.__name__:  # the other splits are valid and prepared
        assert not programs.files(data_dir)


@pytest.mark.parametrize("mode", ["prepare", "train"])
def test_data_in_a_process(place, mode, root, tmp_path):
    (word, *_) = nan_in_features(root)
    finished = place.run(
        f"--mode={mode}",
        f"--config.data.root={root}",
        f"--config.data.data_dir={tmp_path / 'data'}",
        f"--workdir={tmp_path / 'workdir'}",
    )
    assert word in programs.refusal(finished)
    assert not programs.files(tmp_path / "data")


# Invalid workdirs.


def test_eval_of_an_empty_workdir(place, tmp_path):
    workdir = tmp_path / "empty"
    message = refused(evaluate.evaluate, str(workdir))
    assert f"{workdir} has no checkpoint" in message
    assert not workdir.exists()


@pytest.mark.parametrize(
    ("split", "checkpoint", "words"),
    [
        ("val", "best", ["'val'", "train, dev, test"]),
        ("dev", "7", ["step 7", str(STEPS)]),
        ("dev", "newest", ["'newest'", "latest"]),
    ],
)
def test_eval_of_missing_split_or_checkpoint(place, split, checkpoint, words):
    workdir, _ = place.trained()
    before = programs.files(workdir)
    message = refused(evaluate.evaluate, str(workdir), split, checkpoint)
    for word in words:
        assert word in message
    assert programs.files(workdir) == before


def test_run_of_another_config(place):
    workdir, _ = place.trained()
    before = programs.files(workdir)
    config = place.config()
    config.loss.margin = 0.3
    message = refused(train.train_and_evaluate, config, str(workdir))
    assert "config.loss.margin was 0.2 and is now 0.3" in message
    assert "batch_size" not in message
    assert programs.files(workdir) == before


def train_with(config, workdir):
    train.train_and_evaluate(config, workdir)


def evaluate_with(config, workdir):
    folders = {f"data.{name}": config.data[name] for name in ("root", "data_dir")}
    evaluate.evaluate(workdir, overrides=folders)


@pytest.mark.parametrize("action", [train_with, evaluate_with])
def test_vocabulary_of_other_captions(place, action, root, tmp_path):
    workdir, _ = place.trained()
    before = programs.files(workdir)
    path = root / "train_caps.txt"
    path.write_text(path.read_text().replace("green", "yellow"))
    config = place.config(root=str(root), data_dir=str(tmp_path / "data"))
    message = refused(action, config, str(workdir))
    assert "vocabulary" in message
    assert "config.data.root" in message
    assert programs.files(workdir) == before


def test_damaged_latest_checkpoint(place, run_copy):
    damage(run_copy / "checkpoints" / str(STEPS))
    finished = place.run(f"--workdir={run_copy}")
    assert finished.returncode == 0, finished.stderr
    assert f"{STEPS} is damaged" in finished.stderr
    assert "resuming from the checkpoint of step 45\n" in finished.stderr
    reference, _ = place.trained()
    ours, theirs = (programs.restored(path, STEPS) for path in (run_copy, reference))
    assert ours.run["digests"] == theirs.run["digests"]
    assert programs.curves(run_copy).keys() == programs.curves(reference).keys()


def damage(checkpoint):
    """Changes some bytes in the middle of the parameters."""
    paths = [path for path in (checkpoint / "variables").rglob("*") if path.is_file()]
    path = max(paths, key=lambda path: path.stat().st_size)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 8] = bytes(8)
    path.write_bytes(content)


# Failures during training.


def test_loss_that_is_not_finite(place):
    """After a normal epoch, the learning rate becomes very large."""
    workdir = place.workdir("diverged")
    epoch = programs.STEPS_PER_EPOCH
    finished = place.run(
        f"--workdir={workdir}",
        "--config.optimizer.gradient_clip=0.0",
        "--config.optimizer.decay_epochs=(1,)",
        "--config.optimizer.decay_factor=1e30",
        f"--config.checkpoint_every_steps={epoch}",
    )
    message = programs.refusal(finished)
    assert f"step {epoch + 2}" in message
    assert f"the last good checkpoint is {workdir}/checkpoints/{epoch}" in message
    assert programs.checkpoint_steps(workdir) == [epoch]
    assert np.isfinite(programs.restored(workdir, epoch).metrics["rsum"])


def test_parameters_that_are_not_finite_are_not_saved(place):
    """An infinite learning rate makes them non-finite; the step's loss is finite."""
    workdir = place.workdir("infinite")
    finished = place.run(
        f"--workdir={workdir}",
        "--config.optimizer.learning_rate=1e39",
        "--config.checkpoint_every_steps=1",
    )
    assert "not finite after step 1;" in programs.refusal(finished)
    assert programs.checkpoint_steps(workdir) == []


def limited_files():
    """Limits the size of files, as a full disk does."""
    size = 64 * KIBIBYTE
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def test_checkpoint_that_cannot_be_written(place):
    workdir = place.workdir("too_large")
    finished = place.run(f"--workdir={workdir}", preexec_fn=limited_files)
    message = programs.refusal(finished)
    assert "cannot save the checkpoint of step" in message
    assert f"in {workdir}" in message
    assert "File too large" in message
    assert "the run resumes from the beginning" in message
    assert programs.checkpoint_steps(workdir) == []


@pytest.fixture
def small_disk(place, tmp_path):
    """A workdir on its own disk, which has space for only one or two checkpoints."""
    workdir = place.workdir(tmp_path.name)
    workdir.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", "size=1400k", "tmpfs", workdir]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"may not mount a small disk: {mounted.stderr.strip()}")
    yield workdir
    subprocess.run(["umount", workdir], check=True)


def test_full_disk(place, small_disk):
    """The first write to fail may be that of a checkpoint or of a curve."""
    finished = place.run(f"--workdir={small_disk}")
    message = programs.refusal(finished)
    assert "No space left on device" in message
    assert "free some space" in message
    step, *_ = programs.checkpoint_steps(small_disk)
    assert programs.restored(small_disk, step).step == step
