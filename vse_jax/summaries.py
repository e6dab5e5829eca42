"""TensorBoard curves that a resumed run continues without repeated steps.

TensorFlow writes and reads event files on local disks only. Those of a remote workdir
are written to a temporary folder and uploaded by `flush`, so that they contain every
step that a checkpoint includes.
"""

import tempfile

import tensorflow as tf
from clu import metric_writers
from etils import epath

from vse_jax import files

Event = tf.compat.v1.Event
EVENT_FILES = "events.out.tfevents.*"


def create_writer(workdir: str, step: int, *, primary: bool = True):
    """Opens a metric writer for a run that starts or resumes at `step`.

    Events after `step` are removed first. An earlier process wrote them between its
    last checkpoint and its end, and the resumed run repeats these steps.

    Args:
      workdir: folder of the event files.
      step: number of updates made so far.
      primary: whether this is the primary host; other hosts write nothing.

    Returns:
      A `clu.metric_writers.MetricWriter`.
    """
    if not primary:
        return metric_writers.MultiWriter([])
    directory = epath.Path(workdir)
    directory.mkdir(parents=True, exist_ok=True)
    for path in sorted(directory.glob(EVENT_FILES)):
        remove_events_after(path, step)
    if files.is_local(directory):
        return metric_writers.SummaryWriter(str(directory))
    return _UploadingWriter(directory)


class _UploadingWriter(metric_writers.MultiWriter):
    """A writer of event files that uploads them when it is flushed or closed."""

    def __init__(self, directory: epath.Path):
        self._directory = directory
        self._temporary = tempfile.TemporaryDirectory()
        self._uploaded: dict[str, int] = {}  # sizes by name
        super().__init__([metric_writers.SummaryWriter(self._temporary.name)])

    def flush(self):
        super().flush()
        self._upload()

    def close(self):
        super().close()
        self._upload()
        self._temporary.cleanup()

    def _upload(self):
        for path in sorted(epath.Path(self._temporary.name).glob(EVENT_FILES)):
            size = path.stat().length
            if self._uploaded.get(path.name) != size:
                # An object appears, or is replaced, when its upload is complete.
                path.copy(self._directory / path.name, overwrite=True)
                self._uploaded[path.name] = size


def remove_events_after(path: epath.Path, step: int) -> None:
    """Removes the events after `step` from an event file.

    TensorBoard's own mechanism is a `SessionLog.START` event, at which readers drop
    later steps. Its default data server ignores that event, as do readers of single
    files. It also needs event files whose names sort by time across hosts and clocks.
    """
    if not files.is_local(path):
        with tempfile.TemporaryDirectory() as folder:
            local = epath.Path(folder) / path.name
            path.copy(local)
            if _rewrite(local, step):
                local.copy(path, overwrite=True)
        return
    _rewrite(path, step)


def _rewrite(path: epath.Path, step: int) -> bool:
    """Removes the events after `step` from a local file; returns whether it changed."""
    records, complete = read_records(path)
    kept = [record for record in records if Event.FromString(record).step <= step]
    if complete and len(kept) == len(records):
        return False
    # TensorBoard finds event files by name. A kill may leave this one behind.
    rewritten = path.with_name("rewritten.unfinished")
    with tf.io.TFRecordWriter(str(rewritten)) as writer:
        for record in kept:
            writer.write(record)
    rewritten.replace(path)
    return True


def read_records(path: epath.Path) -> tuple[list[bytes], bool]:
    """Returns the complete records, and whether the file ends after the last one."""
    records = []
    try:
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            records.append(record)
    except tf.errors.DataLossError:
        return records, False
    return records, True
