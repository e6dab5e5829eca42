"""Draws the loss and the gradient norms of runs' first epochs, side by side.

    pip install matplotlib
    python -m benchmarks.plot_first_epoch OUTPUT.png WORKDIR [WORKDIR ...]

Reads TensorBoard's files; every run is labelled with the name of its workdir.
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
LAST_STEP = 234


def read_curve(workdir: str, name: str) -> tuple[list[int], list[float]]:
    accumulator = event_accumulator.EventAccumulator(workdir)
    accumulator.Reload()
    events = [e for e in accumulator.Tensors(name) if e.step <= LAST_STEP]
    values = [float(tf.make_ndarray(event.tensor_proto)) for event in events]
    return [event.step for event in events], values


def main(output: str, *workdirs: str):
    figure, axes = plt.subplots(1, len(CURVES), figsize=(12, 3.2))
    for axis, (name, title) in zip(axes, CURVES.items(), strict=True):
        for workdir in workdirs:
            axis.plot(*read_curve(workdir, name), label=pathlib.Path(workdir).name)
        axis.set_title(title)
        axis.set_xlabel("step")
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
    axes[0].legend()
    figure.tight_layout()
    figure.savefig(output, dpi=90)


if __name__ == "__main__":
    main(*sys.argv[1:])
