"""Command-line interface: flags and one function per mode.

Both `main.py` and the installed command `vse_jax` call `run`.
"""

import os

# TensorFlow reads these once, when it is imported. Log only its errors.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # oneDNN logs a notice

import contextlib
import logging
import operator
import pathlib
import re
import signal
import sys

from absl import app, flags
from absl import logging as absl_logging
from ml_collections import config_flags

from configs import common
from vse_jax import command_line, storage, termination
from vse_jax.errors import InputError, ReportedError, store_errors

FLAGS = flags.FLAGS
_PATH_OPTIONS = (  # options of paths that may be gs://
    "compilation_cache",
    "data.annotations",
    "data.data_dir",
    "data.root",
    "extract.numpy_layout",
    "model.backbone.weights",
)
_NO_CONFIG = ("eval", "import")  # modes that do not need --config

config_flags.DEFINE_config_file("config", None, "Configuration file.")
flags.DEFINE_string("workdir", "", "Folder of the run; default: runs/<config name>.")
flags.DEFINE_string(
    "split", "", "Split to evaluate; default: the test split, or else the validation."
)
flags.DEFINE_string(
    "checkpoint", "best", "Checkpoint to evaluate: best, latest or a step."
)
flags.DEFINE_string("topology", "", "TPU to compile for, such as v5e:2x4.")
flags.DEFINE_bool(
    "largest_batch", False, "In --mode=compile, also search the largest batch."
)
flags.DEFINE_string("output", "", "JSON file to write, of --mode=compile.")
flags.DEFINE_string("import_file", "", "Checkpoint file to import: .pth or .pth.tar.")
flags.DEFINE_string(
    "vocabulary", "", "Vocabulary of the imported model: *_vocab.json or *_vocab.pkl."
)


def run() -> None:
    """Parses the command line, runs the mode and exits the process."""
    termination.install()
    for stream in (sys.stdout, sys.stderr):
        # Paths and captions may contain characters that a terminal cannot encode.
        stream.reconfigure(errors="backslashreplace")
    try:
        app.run(_run, flags_parser=command_line.parse)
    except SystemExit as error:
        _exit_if_compiling(error.code)
        raise


def _exit_if_compiling(code):
    """Exits at once if a thread compiles, which a regular exit would wait for."""
    module = sys.modules.get("vse_jax.compile_ahead")
    if module is None or not module.is_busy():
        return
    termination.exit_now(code if isinstance(code, int) else int(bool(code)))


def main(argv: list[str]) -> int:
    """Runs the mode and returns the exit code."""
    if len(argv) > 1:
        raise InputError(f"unexpected argument {argv[1]!r}; options begin with --")
    config = FLAGS.config if _has_config_file() else None
    if config is None and FLAGS.mode not in _NO_CONFIG:
        raise InputError("--config is missing; an example is configs/quickstart.py")
    workdir = _workdir()
    _set_up_logging()
    return MODES[FLAGS.mode](config, workdir)


def _train(config, workdir):
    with _connected(config, workdir, preemptible=True):
        from vse_jax import goodput, parallel, train

        config.dtype = config.dtype or _saved_dtype(workdir)
        parallel.set_up(config, workdir)
        seconds_before = goodput.seconds_since_process_start()
        finished = train.train_and_evaluate(config, workdir, seconds_before)
    return 0 if finished else termination.exit_code()


def _saved_dtype(workdir):
    """Returns the dtype of the run in the workdir; "" if there is none."""
    from vse_jax.checkpoint import read_description

    try:
        return read_description(workdir, "latest")["dtype"]
    except InputError:
        return ""


def _evaluate(config, workdir):
    del config  # the checkpoint has one
    overrides = {}
    if FLAGS.config is not None:
        overrides = config_flags.get_override_values(FLAGS["config"])
    with _connected(FLAGS.config or common.get_config(), workdir):
        from vse_jax import evaluate, parallel, run_config
        from vse_jax.checkpoint import read_description

        saved = read_description(workdir, FLAGS.checkpoint)
        parallel.set_up(run_config.merge(saved["config"], overrides), workdir)
        evaluate.evaluate(workdir, FLAGS.split, FLAGS.checkpoint, overrides)
    return 0


def _prepare(config, workdir):
    with _connected(config, workdir):
        from vse_jax import parallel
        from vse_jax.data import datasets

        with parallel.primary_host_first("prepared the dataset"):
            builder = datasets.prepare(config.data)
        if parallel.is_primary_host():
            print(f"prepared: {builder.data_dir}")
    return 0


def _extract(config, workdir):
    with _hosts(config, workdir):
        from vse_jax.extraction import extract

        extract.extract(config, workdir)
    return 0


def _import(config, workdir):
    for flag in ("import_file", "vocabulary"):
        if not FLAGS[flag].present:
            raise InputError(
                f"--{flag} is missing; --mode=import needs --import_file and "
                "--vocabulary"
            )
    config = config or FLAGS.config or common.get_config()
    with _hosts(config, workdir):
        from vse_jax.torch_import import checkpoint_file

        checkpoint_file.import_checkpoint(
            config, workdir, FLAGS.import_file, FLAGS.vocabulary
        )
    return 0


def _compile(config, workdir):
    _check_storage(config, workdir)
    from vse_jax.compilation import topology

    topology.set_environment()  # before JAX is imported
    from vse_jax.compilation import compile as compilation

    compilation.compile_programs(
        config,
        FLAGS.topology,
        output=FLAGS.output,
        find_largest_batch=FLAGS.largest_batch,
    )
    return 0


MODES = {
    "train": _train,
    "eval": _evaluate,
    "prepare": _prepare,
    "extract": _extract,
    "import": _import,
    "compile": _compile,
}


flags.DEFINE_enum(
    "mode",
    "train",
    list(MODES),
    "train or resume training; evaluate a checkpoint; prepare the dataset; extract "
    "features from photos; import a checkpoint of the PyTorch repositories; compile "
    "for a TPU that is not at hand.",
)


@contextlib.contextmanager
def _hosts(config, workdir):
    """Sets up JAX; within the context, all hosts fail together."""
    with _connected(config, workdir):
        from vse_jax import parallel

        parallel.set_up(config, workdir)
        yield


@contextlib.contextmanager
def _connected(config, workdir, *, preemptible=False):
    """Connects the hosts; within the context, they fail together."""
    from vse_jax import host_connection

    with host_connection.failing_together():
        host_connection.check_options(config)
        host_connection.connect(config, preemptible=preemptible)
        # What may fail on one host alone comes after, so that the others hear of it.
        _check_storage(config, workdir)
        yield


def _has_config_file():
    """Returns whether the user named a configuration file."""
    return FLAGS.config is not None and command_line.given_config(sys.argv) is not None


def _check_storage(config, workdir):
    """Reports an unreachable bucket now, rather than from within a library."""
    named = {
        "--workdir": workdir,
        "--import_file": FLAGS.import_file,
        "--vocabulary": FLAGS.vocabulary,
    }
    named |= {
        f"config.{option}": str(operator.attrgetter(option)(config) or "")
        for option in _PATH_OPTIONS
    }
    storage.check_reachable(named.items())


def _workdir():
    if FLAGS.workdir:
        if re.fullmatch("[a-z]+://[^/]*/*", FLAGS.workdir):
            raise InputError(
                f"--workdir is {FLAGS.workdir}; expected a folder in the bucket, such "
                f"as {FLAGS.workdir.rstrip('/')}/runs/first"
            )
        return os.path.expanduser(FLAGS.workdir)
    if not _has_config_file():
        raise InputError(
            "--workdir is missing; set it, or set --config to use the default"
        )
    path = config_flags.get_config_filename(FLAGS["config"])
    path, _, form = path.partition(".py:")
    name = pathlib.Path(path).name.removesuffix(".py")
    return str(pathlib.Path("runs") / "_".join(filter(None, [name, form])))


def _set_up_logging():
    """Logs only this program's own messages, to standard error."""
    # Orbax logs the stack trace of a failed save, which we report in one line later.
    absl_logging.set_verbosity(absl_logging.FATAL)
    sys.unraisablehook = _print_unraisable
    handler = logging.StreamHandler()
    handler.setFormatter(_Formatter("%(asctime)s  %(message)s", "%H:%M:%S"))
    logger = logging.getLogger("vse_jax")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False


class _Formatter(logging.Formatter):
    """Adds the level to warnings and errors."""

    def formatMessage(self, record):  # noqa: N802
        line = super().formatMessage(record)
        if record.levelno < logging.WARNING:
            return line
        time, _, message = line.partition("  ")
        return f"{time}  {record.levelname.lower()}: {message}"


def _print_unraisable(unraisable):
    """Prints an exception that cannot be raised, except TensorStore's.

    After a failed save, TensorStore reports to an event loop that Orbax has closed.
    """
    if isinstance(unraisable.exc_value, KeyboardInterrupt):
        return  # `termination.check` raises it again
    if str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)


def _run(argv):
    try:
        code = main(argv)
        _leave_hosts(code)
        return code
    except KeyboardInterrupt:
        return command_line.exit_interrupted()
    except BrokenPipeError:  # the reader has exited, such as `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except Exception as error:
        if termination.is_raised():
            return command_line.exit_interrupted()
        if isinstance(error, ReportedError):
            return command_line.exit_with_error(str(error))
        if isinstance(error, store_errors()):
            return command_line.exit_with_error(
                f"object storage: {storage.reason(error)}"
            )
        raise


def _leave_hosts(code):
    """Exits, if there are several hosts."""
    connection = sys.modules.get("vse_jax.host_connection")  # its import takes seconds
    if connection is not None:
        connection.leave(code)
