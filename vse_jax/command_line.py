"""Parses the command line, and reports mistakes in it in one line."""

import argparse
import os
import pathlib
import re
import sys

from absl import flags

from configs import common
from vse_jax import termination
from vse_jax.errors import InputError

FLAGS = flags.FLAGS
_MODES_OF_FLAGS = {
    "split": ("eval", "report"),
    "checkpoint": ("eval", "report", "encode", "search", "serve", "export"),
    "suite": ("eval",),
    "ensemble": ("eval",),
    "runs": ("report",),
    "seeds": ("train", "eval", "report"),
    "output": ("compile", "search", "report", "export"),
    **dict.fromkeys(("source", "gallery", "content"), ("encode", "search", "serve")),
    **dict.fromkeys(("query", "minus", "query_image", "minus_image"), ("search",)),
    **dict.fromkeys(("queries", "top", "threshold"), ("search",)),
    **dict.fromkeys(("host", "port"), ("serve",)),
    **dict.fromkeys(("import_file", "vocabulary"), ("import",)),
    **dict.fromkeys(("topology", "largest_batch"), ("compile",)),
}
_INSTEAD = {
    "suite": "; leave it out, or set config.evaluation.suite to evaluate the end of a "
    "training",
    "output": " of one run; leave it out",
    "split": "; leave it out, or name the split by --source where a mode takes it",
}
_USAGE = """Image-text retrieval: trains and evaluates visual-semantic embeddings.

  python main.py --config configs/quickstart.py
  python main.py --config configs/quickstart.py --mode=eval"""


def parse(argv: list[str]) -> list[str]:
    """Parses the flags and reports a mistake in them in one line."""
    if {"-h", "-help", "--help"} & set(argv[1:]):
        print(_help())
        sys.exit(0)
    try:
        arguments = FLAGS(_with_config(argv))
        # An unreadable file raises its error only when one of its options is read.
        getattr(FLAGS.config, "seed", None)
        return arguments
    except KeyboardInterrupt:
        return exit_interrupted()
    # A configuration file is a program, which may raise anything.
    except Exception as error:
        if termination.is_raised():
            return exit_interrupted()
        return exit_with_error(_mistake(error, argv))


def _help():
    own = FLAGS.module_help("vse_jax.cli").partition("\n")[2]
    return (
        f"{_USAGE}\n\nflags:\n{own}\n\n"
        "Set options of the configuration as in --config.batch_size=64. "
        "configs/common.py\ndocuments all options."
    )


def _with_config(argv):
    """Returns `argv` with a --config that exists.

    If options are set without --config, it adds the default configuration. If a file
    of configs/ does not exist in the current folder, it substitutes the installed one.
    """
    path = given_config(argv)
    if path is None:
        if any(argument.startswith("--config.") for argument in argv):
            return [argv[0], f"--config={common.__file__}", *argv[1:]]
        return argv
    file, colon, form = path.partition(".py:")
    file = file + ".py" if colon else file
    installed = pathlib.Path(common.__file__).parent / pathlib.Path(file).name
    is_of_configs = pathlib.Path(file).parent.name == "configs"
    if pathlib.Path(file).exists() or not is_of_configs or not installed.exists():
        return argv
    replaced = f"{installed}:{form}" if colon else str(installed)
    return [
        f"--config={replaced}"
        if argument == f"--config={path}"
        else replaced
        if argument == path and before == "--config"
        else argument
        for before, argument in zip(["", *argv], argv, strict=False)
    ]


def given_config(argv: list[str]) -> str | None:
    """Returns the value of --config; None if it is not given."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config")
    return parser.parse_known_args(argv[1:])[0].config


def check_flags() -> None:
    """Checks that each given flag belongs to the mode.

    Raises:
      InputError: if the mode would ignore a flag; names it and its modes.
    """
    of_several = FLAGS["seeds"].present or FLAGS["ensemble"].present
    for flag, modes in _MODES_OF_FLAGS.items():
        if flag == "output" and of_several:
            continue
        if FLAGS[flag].present and FLAGS.mode not in modes:
            raise InputError(
                f"--{flag} belongs to --mode={', '.join(modes)}, not to {FLAGS.mode}"
                f"{_INSTEAD.get(flag, '; leave it out')}"
            )


def several_runs() -> list[str]:
    """Returns the folders of runs that --ensemble or --runs names; [] without them.

    Raises:
      InputError: if the flag is empty or stands with --workdir.
    """
    for flag in ("ensemble", "runs"):
        if not FLAGS[flag].present:
            continue
        paths = FLAGS[flag].value
        if not all(paths or [""]):
            raise InputError(
                f"--{flag} has an empty name; expected folders of runs, such as "
                f"--{flag}=runs/a,runs/b"
            )
        if FLAGS.workdir:
            raise InputError(f"--{flag} names the runs; leave out --workdir")
        return [os.path.expanduser(path) for path in paths]
    return []


def seeds() -> list[int]:
    """Returns the seeds that --seeds names; [] without it.

    Raises:
      InputError: if the flag does not name at least two different seeds, or stands
        with another flag that names runs or the seed.
    """
    if not FLAGS["seeds"].present:
        return []
    given = [text.strip() for text in FLAGS.seeds]
    listed = ",".join(FLAGS.seeds)
    if not all(re.fullmatch(r"[0-9]{1,9}", text) for text in given):
        raise InputError(
            f"--seeds is {listed!r}; expected whole numbers from 0 to 999999999, such "
            "as --seeds=0,1,2"
        )
    numbers = list(map(int, given))
    if len(set(numbers)) < max(2, len(numbers)):
        raise InputError(
            f"--seeds is {listed!r}; expected at least two different seeds, such as "
            "--seeds=0,1,2"
        )
    for flag in ("ensemble", "runs"):
        if FLAGS[flag].present:
            raise InputError(f"--seeds and --{flag} both name runs; leave out one")
    if any(re.match(r"--?config\.seed\b", argument) for argument in sys.argv[1:]):
        raise InputError("--seeds names the seeds; leave out --config.seed")
    return numbers


def _mistake(error, argv):
    """Returns one line that names the configuration file and says what is wrong.

    The error's own message may contain a stack trace and may not name the file.
    """
    path = given_config(argv) or "without --config"
    while error.args and isinstance(error.args[0], Exception):
        error = error.args[0]  # an unknown option's KeyError is wrapped
    text = str(error)
    if isinstance(error, KeyError):
        text = f"there is no option {text}; configs/common.py documents all options"
    if isinstance(error, flags.Error) and "Traceback" not in text:
        return " ".join(text.split())
    if isinstance(error, OSError) or "Traceback" in text:
        text = text.strip().splitlines()[-1]
    indexed = [a.partition("=")[0] for a in argv if re.match(r"--config\.[^=]*\[", a)]
    if isinstance(error, IndexError) and indexed:
        text = f"{' or '.join(indexed)} does not exist; the tuple has fewer items"
    return f"{path}: {' '.join(text.split())}"


def exit_interrupted() -> None:
    """Exits after Ctrl-C."""
    print(
        "interrupted: completed work is kept; run the same command to continue",
        file=sys.stderr,
        flush=True,
    )
    sys.exit(130)


def exit_with_error(message: str) -> None:
    """Prints the line of an error and exits."""
    # A value of an option may be of any length.
    message = re.sub(r"(\S{200})\S{200,}(\S{100})", r"\1...\2", message)
    print(f"error: {message}", file=sys.stderr, flush=True)
    _tell_other_hosts(message)
    sys.exit(2)


def _tell_other_hosts(message):
    """Ends the other hosts, which would wait for this one."""
    options = ("--config.coordinator", "--config.distributed")
    if any(argument.startswith(options) for argument in sys.argv):
        from vse_jax import host_connection  # its import takes seconds

        host_connection.tell_others(sys.argv[1:], message)
