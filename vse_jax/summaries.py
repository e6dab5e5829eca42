"""TensorBoard curves that go on where a resumed run goes on."""

import tensorflow as tf
from clu import metric_writers
from etils import epath

Event = tf.compat.v1.Event


def create_writer(workdir: str, step: int, *, primary: bool = True):
    """Opens a metric writer for a run that stands at `step`.

    What an earlier process wrote beyond `step` is removed first: it was killed after
    its last checkpoint, and those steps are made again.

    Args:
      workdir: folder of the event files.
      step: updates made so far.
      primary: False on all hosts but one, whose writer writes nothing.

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
    """Rewrites an event file without the events after `step`, if it has any.

    TensorBoard's own way is a `SessionLog.START` event, upon which readers drop later
    steps. Its default data server ignores that event, and so do readers of single
    files; and it needs event files whose names sort by time, across hosts and clocks.
    """
    records, complete = _read_records(path)
    kept = [record for record in records if Event.FromString(record).step <= step]
    if complete and len(kept) == len(records):
        return
    # TensorBoard takes files for events by their names; this may be left by a kill.
    rewritten = path.with_name("rewritten.unfinished")
    with tf.io.TFRecordWriter(str(rewritten)) as writer:
        for record in kept:
            writer.write(record)
    rewritten.replace(path)


def _read_records(path):
    """The records, and whether the file was whole rather than cut off in the last."""
    records = []
    try:
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            records.append(record)
    except tf.errors.DataLossError:
        return records, False
    return records, True
