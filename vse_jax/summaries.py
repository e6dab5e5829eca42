"""TensorBoard curves that a resumed run continues without repeated steps."""

import tensorflow as tf
from clu import metric_writers
from etils import epath

Event = tf.compat.v1.Event


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
    for path in sorted(directory.glob("events.out.tfevents.*")):
        remove_events_after(path, step)
    return metric_writers.SummaryWriter(str(directory))


def remove_events_after(path: epath.Path, step: int) -> None:
    """Removes the events after `step` from an event file.

    TensorBoard's own mechanism is a `SessionLog.START` event, at which readers drop
    later steps. Its default data server ignores that event, as do readers of single
    files. It also needs event files whose names sort by time across hosts and clocks.
    """
    records, complete = _read_records(path)
    kept = [record for record in records if Event.FromString(record).step <= step]
    if complete and len(kept) == len(records):
        return
    # TensorBoard finds event files by name. A kill may leave this one behind.
    rewritten = path.with_name("rewritten.unfinished")
    with tf.io.TFRecordWriter(str(rewritten)) as writer:
        for record in kept:
            writer.write(record)
    rewritten.replace(path)


def _read_records(path):
    """Returns the complete records, and whether the file ends after the last one."""
    records = []
    try:
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            records.append(record)
    except tf.errors.DataLossError:
        return records, False
    return records, True
