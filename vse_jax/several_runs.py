"""Opens several runs that are evaluated on the same images and captions."""

import os
from collections.abc import Sequence

import numpy as np

from vse_jax import files
from vse_jax.data.identity import SplitIdentity
from vse_jax.errors import InputError
from vse_jax.evaluate import OpenRun, open_run

_HUBNESS = "evaluation.hubness"


def open_runs(
    workdirs: Sequence[str], split: str, checkpoint: str, overrides: dict
) -> list[OpenRun]:
    """Opens runs, and checks that they are evaluated on the same split.

    Args:
      workdirs: folders of the runs.
      split: name of the split; "" for the default split of the first run.
      checkpoint: `best`, `latest` or a step, of every run.
      overrides: values by dotted option names, for every run.

    Raises:
      InputError: if a run is named twice, cannot be opened, or has another split, or if
        an option has no effect on several runs.
    """
    _check_distinct(workdirs)
    if overrides.get(_HUBNESS):
        raise InputError(
            f"config.{_HUBNESS} is True, but ensembles and reports have no corrected "
            "scores; leave it out, or evaluate one run by --mode=eval"
        )
    overrides = {**overrides, _HUBNESS: False}  # a run may have it from its training
    runs = []
    for workdir in workdirs:
        run = open_run(workdir, split, checkpoint, overrides)
        split = run.split
        runs.append(run)
        _check_same_split(runs[0], run)
    return runs


def _check_distinct(workdirs):
    seen = {}
    for workdir in workdirs:
        path = files.absolute(workdir)
        if files.is_local(path):
            path = os.path.realpath(path)
        if path in seen:
            raise InputError(
                f"the run {workdir} is named twice, also as {seen[path]}; name each "
                "run once"
            )
        seen[path] = workdir


def _check_same_split(first: OpenRun, other: OpenRun) -> None:
    """Checks that the images and captions are equal, in the same order.

    The stored content may differ: runs may use different features of the same photos.

    Raises:
      InputError: if they differ; says where.
    """
    for name in first.split.split("+"):
        ours = first.experiment.identity.splits.get(name)
        theirs = other.experiment.identity.splits.get(name)
        if ours is not None and theirs is not None:
            difference = _difference(ours, theirs)
            if difference:
                raise InputError(
                    f"{other.workdir} has another split {name!r} than "
                    f"{first.workdir}: {difference}; name runs with the same images "
                    "and captions in the same order, or choose another --split"
                )


def _difference(ours: SplitIdentity, theirs: SplitIdentity) -> str:
    """Describes the first difference of two splits; "" if there is none."""
    counts = [(len(split.image_ids), split.caption_count) for split in (theirs, ours)]
    if counts[0] != counts[1]:
        (images, captions), (expected_images, expected_captions) = counts
        return (
            f"{images:,} images and {captions:,} captions instead of "
            f"{expected_images:,} and {expected_captions:,}"
        )
    pairs = zip(ours.image_ids, theirs.image_ids, strict=True)
    for record, (own, other) in enumerate(pairs):
        if own != other:
            return f"record {record} is image {other!r} instead of {own!r}"
    differing = np.flatnonzero(ours.caption_digests != theirs.caption_digests)
    if len(differing):
        record = int(differing[0])
        return f"the captions of image {ours.image_ids[record]!r} differ"
    return ""
