"""The modes of the command line, one function each.

A function takes the configuration, or None, and the workdir; it returns the exit code.
Modules are imported by the mode that needs them, since some take seconds.
"""

import contextlib
import operator

from absl import flags
from etils import epath
from ml_collections import config_flags

from configs import common
from vse_jax import command_line, seed_workdirs, storage, termination
from vse_jax.errors import InputError

FLAGS = flags.FLAGS
# Modes that do not need --config.
NO_CONFIG = ("eval", "report", "import", "export", "encode", "search", "serve")

# Options of paths that may be gs://. The first are of models.
_MODEL_OPTIONS = ("model.backbone.weights", "model.text_weights", "start_from")
_PATH_OPTIONS = (
    *_MODEL_OPTIONS,
    "compilation_cache",
    "data.annotations",
    "data.data_dir",
    "data.root",
    "evaluation.cxc",
    "extract.numpy_layout",
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
        command = _command(config)
        host_connection.connect(config, preemptible=preemptible, command=command)
        # What may fail on one host alone comes after, so that the others hear of it.
        _check_storage(config, workdir)
        yield


def _check_output():
    """Reports a file that cannot be written, before anything is computed."""
    from vse_jax import files, parallel

    if parallel.is_primary_host():
        files.check_output(FLAGS.output)


def _command(config):
    """Returns what all hosts must be started with; None for a single host."""
    if not (config.distributed or config.coordinator):
        return None
    from vse_jax import host_command, run_config

    flags_of_modes = FLAGS.flags_by_module_dict()["vse_jax.cli"]
    values = {flag.name: flag.value for flag in flags_of_modes}
    del values["config"]
    return host_command.describe(values, run_config.flatten(config))


def _check_storage(config, workdir):
    """Reports an unreachable bucket now, rather than from within a library."""
    named = {
        "--workdir": workdir,
        "--import_file": FLAGS.import_file,
        "--vocabulary": FLAGS.vocabulary,
        "--gallery": FLAGS.gallery,
        "--source": FLAGS.source,
        "--queries": FLAGS.queries,
        "--output": FLAGS.output,
    }
    named |= {
        f"the run {number}": path
        for number, path in enumerate(command_line.several_runs())
    }
    storage.check_reachable((named | _paths(config, _PATH_OPTIONS)).items())


def _paths(config, options):
    """Returns the values of options that are paths, by name."""
    return {
        f"config.{option}": str(operator.attrgetter(option)(config) or "")
        for option in options
    }


def _train(config, workdir):
    with _connected(config, workdir, preemptible=True):
        from vse_jax import goodput, parallel, seeds, train

        numbers = command_line.seeds()
        config.dtype = config.dtype or _saved_dtype(_workdirs(workdir))
        parallel.set_up(config, workdir)
        _check_output()
        seconds_before = goodput.seconds_since_process_start()
        if numbers:
            finished = seeds.train_and_evaluate(
                config, workdir, numbers, FLAGS.output, seconds_before
            )
        else:
            reported = train.train_and_evaluate(config, workdir, seconds_before)
            finished = reported is not None
    return 0 if finished else termination.exit_code()


def _saved_dtype(workdirs):
    """Returns the dtype of the first run in the workdirs; "" if there is none."""
    from vse_jax.checkpoint import find_description

    found = filter(None, map(find_description, workdirs))
    return next(found, {}).get("dtype", "")


def _workdirs(workdir):
    """Returns the folders of the runs that flags name: several, or the workdir."""
    of_seeds = seed_workdirs.of_workdir(workdir, command_line.seeds())
    several = command_line.several_runs() or [seed.workdir for seed in of_seeds]
    return several or [workdir]


def _evaluate(config, workdir):
    del config  # the checkpoint has one
    workdirs = _workdirs(workdir)
    with _restored(*workdirs) as overrides:
        _check_output()
        if FLAGS.suite:
            overrides["evaluation.suite"] = FLAGS.suite
        options = FLAGS.split, FLAGS.checkpoint, overrides
        if numbers := command_line.seeds():
            from vse_jax import seeds

            seeds.evaluate(workdir, numbers, *options, FLAGS.output)
        elif FLAGS.ensemble:
            from vse_jax import ensemble

            ensemble.evaluate(workdirs, *options, FLAGS.output)
        else:
            from vse_jax import evaluate

            evaluate.evaluate(workdir, *options)
    return 0


def _report(config, workdir):
    del config
    workdirs = _workdirs(workdir)
    with _restored(*workdirs) as overrides:
        _check_output()
        from vse_jax.run_report import report_mode

        report_mode.report(
            workdirs, FLAGS.split, FLAGS.checkpoint, overrides, FLAGS.output
        )
    return 0


def _export(config, workdir):
    del config
    with _restored(workdir):
        from vse_jax.exporting import export

        export.export(workdir, FLAGS.checkpoint, FLAGS.output)
    return 0


@contextlib.contextmanager
def _embedding(workdir):
    """Like `_restored`, for photos of up to `config.data.maximum_pixels`."""
    with _restored(workdir) as overrides:
        from vse_jax.data.datasets import photos

        with photos.own_limit():
            yield overrides


def _encode(config, workdir):
    del config
    with _embedding(workdir) as overrides:
        from vse_jax.search import open_gallery

        open_gallery.encode_and_report(_place(workdir, overrides))
    return 0


def _search(config, workdir):
    del config
    with _embedding(workdir) as overrides:
        _check_output()
        from vse_jax.search import search_mode

        request = search_mode.Request(
            texts=FLAGS.query,
            minus=FLAGS.minus,
            photos=FLAGS.query_image,
            minus_photos=FLAGS.minus_image,
            file=FLAGS.queries,
            top=FLAGS.top,
            threshold=FLAGS.threshold,
            output=FLAGS.output,
        )
        search_mode.search(_place(workdir, overrides), request)
    return 0


def _serve(config, workdir):
    del config
    from vse_jax.serving import server

    # A port that is in use should be reported at once.
    listening = server.listen(FLAGS.host, FLAGS.port)
    with listening as listener, _embedding(workdir) as found:
        from vse_jax.search.open_gallery import open_searcher
        from vse_jax.serving import serve

        return serve.serve(open_searcher(_place(workdir, found)), listener, FLAGS.host)


def _place(workdir, overrides):
    from vse_jax.search.open_gallery import Place

    return Place(
        workdir=workdir,
        checkpoint=FLAGS.checkpoint,
        source=FLAGS.source,
        gallery=FLAGS.gallery,
        content=FLAGS.content,
        overrides=overrides,
        options=(FLAGS.config or common.get_config()).gallery,
    )


@contextlib.contextmanager
def _restored(*workdirs):
    """Sets up JAX for the checkpoints of workdirs; yields the overridden options."""
    overrides = {}
    if FLAGS.config is not None:
        overrides = config_flags.get_override_values(FLAGS["config"])
    # These are of the gallery and not of the checkpoint.
    overrides = {k: v for k, v in overrides.items() if not k.startswith("gallery.")}
    with _connected(FLAGS.config or common.get_config(), workdirs[0]):
        from vse_jax import parallel, run_config, saved_model

        saved = [saved_model.read_description(w, FLAGS.checkpoint) for w in workdirs]
        configs = [run_config.merge(run["config"], overrides) for run in saved]
        # If any run computes in float32, so do all matrix products.
        chosen = next((c for c in configs if c.dtype == "float32"), configs[0])
        parallel.set_up(chosen, workdirs[0])
        yield overrides


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
    source = FLAGS.import_file
    path = epath.Path(source).expanduser()
    is_folder = bool(source) and (path.is_dir() or not (path.suffix or path.is_file()))
    for flag in () if is_folder else ("import_file", "vocabulary"):
        if not FLAGS[flag].present:
            raise InputError(
                f"--{flag} is missing; --mode=import needs --import_file and "
                "--vocabulary, or a folder of CLIP or SigLIP as --import_file"
            )
    if is_folder and FLAGS.vocabulary:
        raise InputError(
            f"--vocabulary is {FLAGS.vocabulary!r}, but --import_file is a folder, "
            "whose tokenizer is used; leave out --vocabulary"
        )
    config = config or FLAGS.config or common.get_config()
    with _hosts(config, workdir):
        from vse_jax.torch_import import checkpoint_file, whole_model

        if is_folder:
            whole_model.import_model(config, workdir, source)
        else:
            checkpoint_file.import_checkpoint(config, workdir, source, FLAGS.vocabulary)
    return 0


def _compile(config, workdir):
    del workdir  # nor is any data read
    paths = {"--output": FLAGS.output} | _paths(config, _MODEL_OPTIONS)
    storage.check_reachable(paths.items())
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
    "report": _report,
    "encode": _encode,
    "search": _search,
    "serve": _serve,
    "prepare": _prepare,
    "extract": _extract,
    "import": _import,
    "export": _export,
    "compile": _compile,
}
