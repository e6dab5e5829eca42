"""Checkpoints of a run, which Orbax saves while training continues.

A checkpoint contains everything that `--mode=eval` or a resumed training needs besides
the dataset: parameters, statistics, the optimizer's state, the configuration and the
vocabulary. A digest of the arrays detects damage that the file format does not.
"""

import contextlib
import json
import logging
import math
from typing import NamedTuple

import flax.serialization
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import checkpoint_managers

from vse_jax import files, parallel, run_config
from vse_jax.array_trees import digest, in_form_of, without_empty
from vse_jax.errors import InputError, TrainingError, one_line, write_advice
from vse_jax.train_step import TrainState

logger = logging.getLogger(__name__)

ITEMS = ("variables", "optimizer", "run", "pca", "unaveraged")


class Restored(NamedTuple):
    """The content of a checkpoint.

    Attributes:
      step: number of updates made.
      variables: nested dicts of numpy arrays, `params` and `batch_stats`: the model. If
        the training averages its variables, they are the average.
      optimizer: nested dicts of numpy arrays; empty if not requested.
      run: description of the run.
      metrics: metrics of the validation split, if it was evaluated.
      pca: arrays of the PCA that projected the dataset's features; empty without a PCA.
      unaveraged: variables of the next training step, if `variables` are an average;
        None otherwise, or if the optimizer's state was not requested.
    """

    step: int
    variables: dict
    optimizer: dict
    run: dict
    metrics: dict | None
    pca: dict
    unaveraged: dict | None = None

    def train_state(self, template: TrainState) -> TrainState:
        """Returns the training state.

        Args:
          template: state of the same structure, or its shapes by `jax.eval_shape`.

        Raises:
          InputError: if the shapes differ from those of the template.
        """
        variables = self.variables if self.unaveraged is None else self.unaveraged
        average = template.average
        if average is not None:
            average = in_form_of(average, self.variables)
        return TrainState(
            step=np.int32(self.step),
            **in_form_of(template.variables, variables),
            opt_state=in_form_of(template.opt_state, self.optimizer),
            average=average,
        )


class Checkpoints:
    """Saves and restores the checkpoints in a run's `workdir`.

    The last two checkpoints are kept, as is the one with the best `rsum` on the
    validation split.
    """

    def __init__(self, workdir: str, *, read_only: bool = False):
        self.directory = epath.Path(workdir).expanduser() / "checkpoints"
        self._read_only = read_only
        self._open()

    def _open(self):
        policies = checkpoint_managers.AnyPreservationPolicy(
            [
                checkpoint_managers.LatestN(2),
                checkpoint_managers.BestN(
                    get_metric_fn=_rsum, n=1, keep_checkpoints_without_metrics=False
                ),
            ]
        )
        options = ocp.CheckpointManagerOptions(
            best_fn=_rsum,
            preservation_policy=policies,
            read_only=self._read_only,
            create=not self._read_only,
            cleanup_tmp_directories=not self._read_only,
        )
        try:
            if not self._read_only:  # Orbax would not notice a file of this name
                self.directory.mkdir(parents=True, exist_ok=True)
            with parallel.primary_host_first("looked for damaged metrics"):
                self._move_damaged_aside()
            self._manager = ocp.CheckpointManager(
                files.absolute(str(self.directory)), options=options, item_names=ITEMS
            )
        except OSError as error:
            raise InputError(
                f"{self.directory} cannot be used for checkpoints "
                f"({one_line(error)}); choose another --workdir"
            ) from error

    def _move_damaged_aside(self):
        """Moves checkpoints with damaged metrics aside, which Orbax fails to open."""
        for path in self.directory.glob("*/metrics/metrics"):
            try:
                if not math.isfinite(_rsum(json.loads(path.read_text()))):
                    raise ValueError("its rsum is not finite")
            except (ValueError, TypeError, LookupError) as error:
                step = path.parent.parent
                if self._read_only:
                    raise InputError(
                        f"{path} is damaged ({one_line(error)}); move {step} away"
                    ) from error
                logger.error("%s is damaged (%s)", path, one_line(error))
                self._move_aside(step)  # the other hosts then find no damage

    def steps(self) -> list[int]:
        """Returns the steps of the complete checkpoints, the latest first."""
        return sorted(self._manager.all_steps(), reverse=True)

    def best_step(self) -> int | None:
        """Returns the step with the best `rsum`; None if none was evaluated."""
        best = self._manager.best_step()
        return best if best is not None and self._manager.metrics(best) else None

    def best_first(self) -> list[int]:
        """Returns the steps of the complete checkpoints: the best, then the latest."""
        best = self.best_step()
        others = [step for step in self.steps() if step != best]
        return others if best is None else [best, *others]

    def would_be_best(self, rsum: float) -> bool:
        """Returns whether a later checkpoint with this `rsum` would be the best one."""
        best = self.best_step()  # the latest of those with equal values
        return best is None or rsum >= _rsum(self._manager.metrics(best))

    def path(self, step: int) -> epath.Path:
        """Returns the folder of the checkpoint of `step`."""
        return self.directory / str(step)

    def save(
        self,
        state: TrainState,
        run: dict,
        metrics: dict[str, float] | None = None,
        pca: dict[str, np.ndarray] | None = None,
    ) -> None:
        """Starts to save a checkpoint; returns as soon as the arrays are copied.

        Args:
          state: training state, numpy arrays on the host.
          run: JSON-serializable description of the run.
          metrics: metrics of the validation split, if it was evaluated at this step.
          pca: arrays of the PCA that projected the features, if any.

        Raises:
          TrainingError: if this checkpoint or the previous one cannot be written.
        """
        to_dict = flax.serialization.to_state_dict
        variables, optimizer = to_dict(state.result), to_dict(state.opt_state)
        arrays = {"variables": variables, "optimizer": optimizer, "pca": pca or {}}
        if state.average is not None:
            arrays["unaveraged"] = to_dict(state.variables)
        digests = {name: digest(tree) for name, tree in arrays.items()}
        step = int(state.step)
        items = {
            "variables": ocp.args.StandardSave(variables),
            "run": ocp.args.JsonSave({**run, "digests": digests}),
        }
        for name in ("optimizer", "pca", "unaveraged"):
            if arrays.get(name):  # an imported model has none of them
                items[name] = ocp.args.StandardSave(without_empty(arrays[name]))
        args = ocp.args.Composite(**items)

        def save():
            if not self._manager.save(step, args=args, metrics=metrics):
                raise OSError("Orbax declined to save it")

        self._report(save, step)

    def wait(self) -> None:
        """Waits until all saves are complete.

        Raises:
          TrainingError: if a checkpoint cannot be written.
        """
        self._report(self._manager.wait_until_finished, None)

    def close(self) -> None:
        """Completes pending saves and ignores failures; call `wait` to raise them."""
        with contextlib.suppress(Exception):
            self._manager.close()

    def _report(self, action, step):
        try:
            action()
        # Orbax and TensorStore raise many types of errors if a file cannot be written,
        # some of them from a thread.
        except Exception as error:
            which = f"the checkpoint of step {step}" if step else "a checkpoint"
            complete = [s for s in self.steps() if s != step]
            resume = f"step {complete[0]}" if complete else "the beginning"
            raise TrainingError(
                f"cannot save {which} in {self.directory} ({one_line(error)}); "
                f"{write_advice(error)}: the run resumes from {resume}"
            ) from error

    def restore(
        self, steps: list[int], *, with_optimizer: bool = False
    ) -> Restored | None:
        """Restores the first of `steps` whose checkpoint is undamaged.

        A damaged checkpoint is logged. Unless the checkpoints are read-only, it is also
        moved aside, so that its step can be saved again; but only if another checkpoint
        can be restored, since the fault may lie elsewhere.

        Args:
          steps: steps in order of preference.
          with_optimizer: whether to restore the optimizer's state.

        Returns:
          The content of the checkpoint, or None if `steps` is empty.

        Raises:
          InputError: if none of the checkpoints can be read, if only some hosts can
            read one, or if hosts have different ones.
        """
        self._check_same("the list of checkpoints", str(steps))
        damaged = []
        for step in steps:
            reason = ""
            try:
                restored = self._restore(step, with_optimizer)
            except Exception as error:
                reason = one_line(error)
            reason = self._failure_of_all(step, reason)
            if reason:
                damaged.append(step)
                logger.error("checkpoint %s is damaged (%s)", self.path(step), reason)
                continue
            self._check_same(f"checkpoint {step}", str(restored.run["digests"]))
            if damaged and not self._read_only:
                self._set_aside(damaged)
            return restored
        if damaged:
            paths = ", ".join(str(self.path(step)) for step in damaged)
            raise InputError(
                f"no checkpoint could be read: {paths} ({reason}); repair them, choose "
                "another --workdir, or delete this one to start over"
            )
        return None

    def _failure_of_all(self, step, reason):
        """Returns why no host can read a checkpoint; "" if all can.

        Raises:
          InputError: if only some hosts can, so that the checkpoint is undamaged.
        """
        reasons = parallel.failures_of_hosts(reason)
        failing = [host for host, reason in enumerate(reasons) if reason]
        if 0 < len(failing) < len(reasons):
            raise InputError(
                f"{self.path(step)} cannot be read on host {failing[0]} "
                f"({reasons[failing[0]]}), although other hosts can read it; check "
                "that host's access to it, and start the same command again on every "
                "host"
            )
        return reasons[0]

    def _check_same(self, what, text):
        parallel.check_same_on_hosts(
            f"{what} in {self.directory}",
            text,
            "name a --workdir that all hosts share",
        )

    def _read(self, step, **items):
        """Reads items of a checkpoint on this host, whatever the other hosts do.

        The manager would wait for the other hosts, of which one may fail to read.
        """
        host = parallel.this_host()["process_index"]
        alone = ocp.options.MultiprocessingOptions(
            primary_host=host, active_processes={host}
        )
        handler = ocp.CompositeCheckpointHandler()
        reader = ocp.Checkpointer(handler, multiprocessing_options=alone)
        path = files.absolute(str(self.path(step)))
        return reader.restore(path, ocp.args.Composite(**items))

    def _restore(self, step, with_optimizer):
        optional = ["pca", "unaveraged"] if with_optimizer else ["pca"]
        required = ["variables", "optimizer"] if with_optimizer else ["variables"]
        found = [name for name in optional if (self.path(step) / name).exists()]
        names = ["run", *required, *found]
        restore_args = {
            name: ocp.args.JsonRestore()
            if name == "run"
            else ocp.args.StandardRestore()
            for name in names
        }
        items = self._read(step, **restore_args)
        digests = items.run["digests"]
        for name in (*required, *optional):
            tree = items[name] if name in names else {}
            if digest(tree) != digests.get(name, digest({})):
                raise ValueError(f"the digest of its {name} does not match")
        metrics = self._manager.metrics(step)
        return Restored(
            step,
            items["variables"],
            items["optimizer"] if with_optimizer else {},
            items.run,
            metrics,
            items["pca"] if "pca" in names else {},
            items["unaveraged"] if "unaveraged" in names else None,
        )

    def _set_aside(self, steps):
        self._manager.close()
        parallel.wait_for_hosts("found a damaged checkpoint")
        if parallel.is_primary_host():
            for step in steps:
                self._move_aside(self.path(step))
        parallel.wait_for_hosts("moved a damaged checkpoint")
        self._open()

    def _move_aside(self, path):
        """Moves a checkpoint into `damaged/`, next to the folder of checkpoints."""
        aside = self.directory.parent / "damaged"
        number = sum(1 for _ in aside.glob("*"))
        files.move_folder(path, aside / f"{path.name}-{number}")
        logger.error("moved %s to %s", path, aside)


def read_description(workdir: str, checkpoint: str) -> dict:
    """Reads the description in a checkpoint without starting JAX.

    JAX is then set up by the configuration in the description.

    Args:
      workdir: folder of the run.
      checkpoint: step of the checkpoint; any other text means the latest.

    Raises:
      InputError: if there is no readable checkpoint, or if another version of this
        program saved it.
    """
    run = _find_description(workdir, checkpoint)
    if run is None:
        raise no_checkpoint(workdir)
    return run


def no_checkpoint(workdir: str) -> InputError:
    """Returns the error for a folder without a checkpoint."""
    return InputError(
        f"{workdir} has no checkpoint; train first, or name the folder of another run"
    )


def find_description(workdir: str) -> dict | None:
    """Returns the latest description in a workdir; None if there is no checkpoint.

    Raises:
      InputError: if another version of this program saved it.
    """
    return _find_description(workdir, "latest")


def _find_description(workdir, checkpoint):
    folder = epath.Path(workdir).expanduser() / "checkpoints"
    steps = [p for p in folder.glob("*/run/metadata") if p.parents[1].name.isdecimal()]
    chosen = [path for path in steps if path.parents[1].name == checkpoint] or steps
    for path in sorted(chosen, key=lambda path: -int(path.parents[1].name)):
        try:
            run = json.loads(path.read_text())
        except (OSError, ValueError):
            continue
        run_config.check_complete(run, path)
        return run
    return None


def _rsum(metrics):
    return metrics["rsum"]
