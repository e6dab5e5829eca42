"""Image-text retrieval: trains and evaluates visual-semantic embeddings.

python main.py --config configs/quickstart.py
python main.py --config configs/quickstart.py --mode=eval
"""

import os

# Read once, when TensorFlow is imported: only its errors are of interest here.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # it announces them

import argparse
import logging
import pathlib
import re
import sys

from absl import app, flags
from absl import logging as absl_logging
from ml_collections import config_flags

from configs import common
from vse_jax.errors import InputError, ReportedError

FLAGS = flags.FLAGS
SIGTERM_EXIT_CODE = 143  # what a shell reports of a process that SIGTERM ended

config_flags.DEFINE_config_file("config", None, "File of configs/.")
flags.DEFINE_string("workdir", "", "Folder of the run; runs/<name of the config>.")
flags.DEFINE_enum(
    "mode",
    "train",
    ["train", "eval", "prepare", "extract", "import"],
    "train or resume; evaluate a checkpoint; prepare the dataset; extract features of "
    "photos; import a checkpoint of the PyTorch repositories.",
)
flags.DEFINE_string("split", "", "Split to evaluate; the test split if there is one.")
flags.DEFINE_string(
    "checkpoint", "best", "Checkpoint to evaluate: best, latest or its step."
)
flags.DEFINE_string("import_file", "", "Checkpoint to import: .pth or .pth.tar.")
flags.DEFINE_string("vocabulary", "", "Its vocabulary: *_vocab.json or *_vocab.pkl.")


def main(argv):
    """Runs the mode."""
    if len(argv) > 1:
        raise InputError(f"unexpected argument {argv[1]!r}; options begin with --")
    if FLAGS.config is None and FLAGS.mode not in ("eval", "import"):
        raise InputError("--config is missing, such as --config configs/quickstart.py")
    workdir = _workdir()
    _set_up_logging()
    return MODES[FLAGS.mode](FLAGS.config, workdir)


def _train(config, workdir):
    from vse_jax import parallel, train

    parallel.set_up(config, workdir)
    finished = train.train_and_evaluate(config, workdir)
    return 0 if finished else SIGTERM_EXIT_CODE


def _evaluate(config, workdir):
    from vse_jax import evaluate, parallel

    overrides = config and config_flags.get_override_values(FLAGS["config"])
    parallel.set_up(config or common.get_config(), workdir)
    evaluate.evaluate(workdir, FLAGS.split, FLAGS.checkpoint, overrides)
    return 0


def _prepare(config, workdir):
    del workdir
    from vse_jax.data import datasets

    print(f"prepared: {datasets.prepare(config.data).data_dir}")
    return 0


def _extract(config, workdir):
    from vse_jax import parallel
    from vse_jax.extraction import extract

    parallel.set_up(config, workdir)
    extract.extract(config, workdir)
    return 0


def _import(config, workdir):
    from vse_jax import parallel
    from vse_jax.torch_import import checkpoint_file

    for flag in ("import_file", "vocabulary"):
        if not FLAGS[flag].present:
            raise InputError(f"--{flag} is missing, the file to import")
    config = config or common.get_config()
    parallel.set_up(config, workdir)
    checkpoint_file.import_checkpoint(
        config, workdir, FLAGS.import_file, FLAGS.vocabulary
    )
    return 0


MODES = {
    "train": _train,
    "eval": _evaluate,
    "prepare": _prepare,
    "extract": _extract,
    "import": _import,
}


def _workdir():
    if FLAGS.workdir:
        return os.path.expanduser(FLAGS.workdir)
    if FLAGS.config is None:
        raise InputError("--workdir is missing, or --config to tell it from")
    path = config_flags.get_config_filename(FLAGS["config"])
    path, _, form = path.partition(".py:")
    name = pathlib.Path(path).name.removesuffix(".py")
    return str(pathlib.Path("runs") / "_".join(filter(None, [name, form])))


def _set_up_logging():
    """Only this program's own messages, on standard error."""
    # Orbax logs the stack trace of what it cannot write; one line of it is told later.
    absl_logging.set_verbosity(absl_logging.FATAL)
    sys.unraisablehook = _print_unraisable
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s  %(message)s", "%H:%M:%S"))
    logger = logging.getLogger("vse_jax")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False


def _print_unraisable(unraisable):
    """Prints an error of a thread, unless it is TensorStore's after a failed save.

    It reports its results to an event loop that Orbax has closed by then.
    """
    if str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)


def _parse_flags(argv):
    """Parses the flags; a mistake in them is told in one line."""
    try:
        arguments = FLAGS(argv)
        # That a file cannot be opened is told only when its options are used.
        getattr(FLAGS.config, "seed", None)
        return arguments
    # A file of options is a program, which may raise anything.
    except Exception as error:
        return _fail(_mistake(error, argv))


def _mistake(error, argv):
    """One line; the message may hold a stack trace, or not name the file."""
    while error.args and isinstance(error.args[0], Exception):
        error = error.args[0]  # of an unknown option: its KeyError
    text = str(error.args[0] if isinstance(error, KeyError) else error)
    if isinstance(error, flags.Error) and "Traceback" not in text:
        return " ".join(text.split())
    if isinstance(error, OSError) or "Traceback" in text:
        text = text.strip().splitlines()[-1]
    indexed = [a.partition("=")[0] for a in argv if re.match(r"--config\.[^=]*\[", a)]
    if isinstance(error, IndexError) and indexed:
        text = f"{' or '.join(indexed)} does not exist; the tuple has fewer items"
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config")
    return f"{parser.parse_known_args(argv)[0].config}: {' '.join(text.split())}"


def _run(argv):
    try:
        return main(argv)
    except ReportedError as error:
        return _fail(str(error))


def _fail(message):
    print(f"error: {message}", file=sys.stderr, flush=True)
    sys.exit(2)


if __name__ == "__main__":
    app.run(_run, flags_parser=_parse_flags)
