"""Reads the curves of a run from TensorBoard's event files."""

import tempfile

import tensorflow as tf
from etils import epath

from vse_jax import files
from vse_jax.summaries import EVENT_FILES, Event, read_records

Curve = list[tuple[int, float]]  # steps, which increase, with their values


def read_curves(workdir: str) -> dict[str, Curve]:
    """Returns the scalars of a run by name; {} if it has no event files.

    A file that a killed run cut off is read up to its last complete record. If files
    repeat a step, the value of the last file counts.
    """
    values: dict[str, dict[int, float]] = {}
    directory = epath.Path(workdir).expanduser()
    with tempfile.TemporaryDirectory() as folder:
        for path in sorted(directory.glob(EVENT_FILES)):
            if not files.is_local(path):  # TensorFlow reads local files only
                local = epath.Path(folder) / path.name
                path.copy(local)
                path = local
            for record in read_records(path)[0]:
                _add(values, Event.FromString(record))
    return {name: sorted(curve.items()) for name, curve in values.items()}


def _add(values, event):
    for value in event.summary.value:
        if value.metadata.plugin_data.plugin_name == "scalars":
            number = float(tf.make_ndarray(value.tensor))
            values.setdefault(value.tag, {})[event.step] = number
