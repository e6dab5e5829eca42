"""Draws losses and gradient norms of runs side by side: first epoch, and all of them.

    pip install matplotlib
    python -m benchmarks.plot_curves OUTPUT.png WORKDIR [WORKDIR ...]

Reads TensorBoard's files; every run is labeled with the name of its workdir.
"""

import pathlib
import sys

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import tensorflow as tf
from tensorboard.backend.event_processing import event_accumulator

CURVES = {
    "loss": "loss",
    "gradient_norm_image": "gradient norm, image encoder",
    "gradient_norm_text": "gradient norm, text encoder",
}


class Run:
    """The curves of one workdir."""

    def __init__(self, workdir: str):
        """Reads them."""
        self.name = pathlib.Path(workdir).name
        all_points = {"tensors": 0}  # rather than a sample of them
        self._events = event_accumulator.EventAccumulator(workdir, all_points)
        self._events.Reload()

    def curve(self, name: str) -> list[tuple[int, float]]:
        """Returns steps with their values."""
        return [
            (event.step, float(tf.make_ndarray(event.tensor_proto)))
            for event in self._events.Tensors(name)
        ]

    def first_evaluation(self) -> int:
        """Returns the step of the first evaluation: the first epoch's last."""
        tags = self._events.Tags()["tensors"]
        rsum = next(tag for tag in tags if tag.endswith("/rsum"))
        return self.curve(rsum)[0][0]


def draw(axis, runs: list[Run], name: str, last_step: float) -> None:
    for run in runs:
        shown = [point for point in run.curve(name) if point[0] <= last_step]
        axis.plot(*zip(*shown, strict=True), label=run.name)
    axis.set_title(CURVES[name])
    axis.set_xlabel("step")
    axis.grid(alpha=0.3)


def main(output: str, *workdirs: str) -> None:
    runs = [Run(workdir) for workdir in workdirs]
    figure, rows = plt.subplots(2, len(CURVES), figsize=(12, 6))
    epoch = runs[0].first_evaluation()
    for row, last_step in zip(rows, (epoch, float("inf")), strict=True):
        for axis, name in zip(row, CURVES, strict=True):
            draw(axis, runs, name, last_step)
    rows[0, 0].legend()
    figure.tight_layout()
    figure.savefig(output, dpi=90)


if __name__ == "__main__":
    main(*sys.argv[1:])
