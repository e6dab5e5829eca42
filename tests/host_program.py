"""A program of one of several hosts: what tests need of a run, without a run.

python -m tests.host_program FUNCTION FOLDER ADDRESS NUM_PROCESSES PROCESS_ID
"""

import pathlib
import sys
import time
import types

import jax
import numpy as np
from etils import epath

from configs import common
from tests import parity
from tests.test_train_step import BATCH, VOCABULARY, adamw, make_batch
from vse_jax import host_connection, parallel, shared_folder, termination
from vse_jax.checkpoint import Checkpoints
from vse_jax.data.text.vocabulary import Vocabulary
from vse_jax.errors import InputError
from vse_jax.experiment import Experiment
from vse_jax.models.kernels import packed_gru
from vse_jax.models.vse import VSE
from vse_jax.train_step import create_train_state, make_train_step

STEPS = 20


def train(folder: pathlib.Path) -> None:
    """Makes steps on all devices of all hosts; the primary host saves the results."""
    results = steps(jax.devices())
    if parallel.is_primary_host():
        np.savez(folder / "results.npz", **results)


def steps(devices: list[jax.Device]) -> dict[str, np.ndarray]:
    """Makes steps from one state, with one global batch.

    Returns:
      The losses, and the first step's metrics, gradients and statistics by name.
    """
    packed_gru.PACKED_PARTS = 1  # compiles sooner
    model = VSE("region_residual", "gru", VOCABULARY, word_dim=3, embed_dim=8)
    model = model.clone(train=True, gather_over_devices=parallel.gather)
    optimizer, schedule = adamw(5e-4)
    settings = parity.loss_settings(epsilon=0.05)
    batch = make_batch()
    state = create_train_state(model.clone(train=True), optimizer, batch, seed=0)
    step = parallel.map_over_devices(
        make_train_step(model, optimizer, schedule, settings, "mean"),
        (parallel.REPLICATED, parallel.SPLIT),
        parallel.REPLICATED,
        devices=devices,
    )
    host = parallel.this_host()
    own = BATCH // host["process_count"]
    rows = slice(host["process_index"] * own, (host["process_index"] + 1) * own)
    local = len(devices) // host["process_count"]
    parts = {
        name: array[rows].reshape(local, -1, *array.shape[1:])
        for name, array in batch.items()
    }
    state = jax.tree.map(np.asarray, state)
    results, losses = {}, []
    for number in range(STEPS):
        state, metrics = step(state, parts)
        losses.append(float(parallel.unreplicate(metrics["loss"])))
        if number == 0:
            first = {
                "metrics": metrics,
                "gradients": state.opt_state[0],
                "batch_stats": state.batch_stats,
            }
            leaves = jax.tree_util.tree_leaves_with_path(parallel.unreplicate(first))
            results = {jax.tree_util.keystr(path): leaf for path, leaf in leaves}
    return results | {"losses": np.array(losses)}


def wait(folder: pathlib.Path) -> None:
    """Waits at a barrier to which the last host does not come."""
    print("waiting", flush=True)
    if parallel.this_host()["process_index"] == jax.process_count() - 1:
        time.sleep(60)
    parallel.wait_for_hosts("are all there")


def fail(folder: pathlib.Path) -> None:
    """Fails on the last host, while the others wait for it."""
    if parallel.this_host()["process_index"] == jax.process_count() - 1:
        raise InputError(f"{folder}: is missing")
    parallel.wait_for_hosts("have all read it")


def gather(folder: pathlib.Path) -> None:
    """Gathers over the hosts until SIGTERM; all hosts then write the same step."""
    with termination.Termination() as stop:
        stop.begin_steps()
        step = 0
        while not stop.is_due():
            parallel.gather_over_hosts(np.array([step]))
            step += 1
            if step == 1:
                print("gathering", flush=True)
    number = parallel.this_host()["process_index"]
    (folder / f"stopped_{number}").write_text(str(step))


def two_trainings(folder: pathlib.Path) -> None:
    """Makes steps, waits for the file `go`, then makes others until SIGTERM."""
    for training in range(2):
        with termination.Termination() as stop:
            stop.begin_steps()
            for step in range(1, 6):
                parallel.gather_over_hosts(np.array([step]))
                if stop.is_due():
                    number = parallel.this_host()["process_index"]
                    (folder / f"stopped_{number}").write_text(f"{training} {step}")
                    return
        if training == 0:
            print("between trainings", flush=True)
            while not (folder / "go").exists():
                time.sleep(0.01)


def compare(folder: pathlib.Path) -> None:
    """Prints what is said of folders, checkpoints and data that hosts do not share.

    Below `folder`, each kind has a workdir for each host, named by its number.
    """
    host = str(parallel.this_host()["process_index"])
    shared_folder.check("--workdir", epath.Path(folder))
    own = epath.Path(folder / "damaged" / host)
    refused(shared_folder.check, "--workdir", own, seconds=0.5)
    for kind in ("damaged", "changed", "older"):
        workdir = folder / kind / host
        refused(lambda found: found.restore(found.steps()), opened(workdir))
    builder = types.SimpleNamespace(data_dir="prepared")
    experiment = Experiment(None, builder, Vocabulary(["a"]))
    identity = types.SimpleNamespace(summary=lambda: {"digest": host})
    experiment.__dict__["identity"] = identity
    refused(experiment.check_same_on_hosts)


def opened(workdir: pathlib.Path) -> Checkpoints:
    return Checkpoints(str(workdir), read_only=True)


def refused(function, *args, **options) -> None:
    """Prints the error of a function, which is the same on all hosts."""
    try:
        function(*args, **options)
    except InputError as error:
        print(error, flush=True)


def main() -> None:
    """Connects the hosts and runs the function."""
    name, folder, address, count, number = sys.argv[1:]
    config = common.get_config()
    config.coordinator = address
    config.num_processes, config.process_id = int(count), int(number)
    with host_connection.failing_together():
        host_connection.connect(config, preemptible=True)
        parallel.set_up(config, f"{folder}/run")
        known = (train, wait, fail, gather, two_trainings, compare)
        functions = {f.__name__: f for f in known}
        functions[name](pathlib.Path(folder))
    host_connection.leave(0)


if __name__ == "__main__":
    main()
