"""Command-line interface: flags, and the errors and signals that end the program.

`main.py` and the installed command `vse_jax` call `run`, by `vse_jax.__main__`.
"""

import os

# TensorFlow reads these once, when it is imported. Log only its errors.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # oneDNN logs a notice

import logging
import pathlib
import re
import signal
import sys

from absl import app, flags
from absl import logging as absl_logging
from ml_collections import config_flags

from vse_jax import command_line, storage, termination
from vse_jax.errors import InputError, ReportedError, lack_of_memory, store_errors
from vse_jax.modes import MODES, NO_CONFIG

FLAGS = flags.FLAGS
config_flags.DEFINE_config_file("config", None, "Configuration file.")
flags.DEFINE_string("workdir", "", "Folder of the run; default: runs/<config name>.")
flags.DEFINE_string(
    "split", "", "Split to evaluate; default: the test split, or else the validation."
)
flags.DEFINE_string("checkpoint", "best", "Checkpoint to use: best, latest or a step.")
flags.DEFINE_string("topology", "", "TPU to compile for, such as v5e:2x4.")
flags.DEFINE_bool(
    "largest_batch", False, "In --mode=compile, also search the largest batch."
)
flags.DEFINE_string(
    "output",
    "",
    "File to write: .json of --mode=compile, --ensemble and --seeds; .html of "
    "--mode=report; .jsonl or .html of search; the folder of --mode=export.",
)
flags.DEFINE_list(
    "ensemble", [], "Runs whose similarities --mode=eval averages: runs/a,runs/b."
)
flags.DEFINE_string(
    "suite", "", "config.evaluation.suite of --mode=eval: recall, cxc or eccv."
)
flags.DEFINE_list("runs", [], "Runs that --mode=report compares: runs/a,runs/b.")
flags.DEFINE_list(
    "seeds",
    [],
    "Seeds to train, evaluate or report, each in a workdir of its own: 0,1,2.",
)
flags.DEFINE_string(
    "source",
    "",
    "What to encode or search: a folder of photos, a text file with one caption per "
    "line, or a split; default: the split of --mode=eval.",
)
flags.DEFINE_string("gallery", "", "Folder of embeddings; default: in the workdir.")
flags.DEFINE_enum(
    "content",
    "",
    ["", "images", "captions"],
    "What to encode of a split; default images.",
)
flags.DEFINE_multi_string("query", [], "Words to search for: 'a dog' or '0.5:snow'")
flags.DEFINE_multi_string("minus", [], "Words to search away from")
flags.DEFINE_multi_string("query_image", [], "Photo to search for")
flags.DEFINE_multi_string("minus_image", [], "Photo to search away from")
flags.DEFINE_string("queries", "", "Text file with one query per line.")
flags.DEFINE_integer("top", 10, "Number of results per query.", lower_bound=1)
flags.DEFINE_float("threshold", None, "Least similarity of a result.")
flags.DEFINE_string("host", "127.0.0.1", "Address on which --mode=serve listens.")
flags.DEFINE_integer(
    "port", 8000, "Port of --mode=serve; 0: any.", lower_bound=0, upper_bound=65535
)
flags.DEFINE_string(
    "import_file",
    "",
    "What to import: a checkpoint, .pth or .pth.tar, or a folder of CLIP or SigLIP.",
)
flags.DEFINE_string(
    "vocabulary",
    "",
    "Vocabulary of the imported model: *_vocab.json or *_vocab.pkl; with BERT, its "
    "tokenizer: a folder, a package, tokenizer.json or vocab.txt.",
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
    """Runs the mode and returns the exit code.

    Raises:
      ReportedError: if the command line or anything that the mode reads is invalid.
    """
    if len(argv) > 1:
        raise InputError(f"unexpected argument {argv[1]!r}; options begin with --")
    config = FLAGS.config if _has_config_file() else None
    if config is None and FLAGS.mode not in NO_CONFIG:
        raise InputError("--config is missing; an example is configs/quickstart.py")
    command_line.check_flags()
    command_line.seeds()  # reports a mistake before the hosts are connected
    workdir = _workdir()
    _set_up_logging()
    return MODES[FLAGS.mode](config, workdir)


flags.DEFINE_enum(
    "mode",
    "train",
    list(MODES),
    "train or resume training; evaluate a checkpoint; write an HTML report of runs; "
    "encode photos or captions into a gallery; search a gallery; serve a gallery over "
    "HTTP; prepare the dataset; extract features from photos; import a checkpoint of "
    "the PyTorch repositories, or a CLIP or SigLIP; export a model as ONNX and "
    "StableHLO; compile for a TPU topology, without a TPU.",
)


def _has_config_file():
    """Returns whether the user named a configuration file."""
    return FLAGS.config is not None and command_line.given_config(sys.argv) is not None


def _workdir():
    if several := command_line.several_runs():
        return several[0]
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
        if message := lack_of_memory(error):
            return command_line.exit_with_error(message)
        raise


def _leave_hosts(code):
    """Exits, if there are several hosts."""
    connection = sys.modules.get("vse_jax.host_connection")  # its import takes seconds
    if connection is not None:
        connection.leave(code)
