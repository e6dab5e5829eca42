"""The table and the JSON of --mode=compile."""

import dataclasses
from collections.abc import Sequence

import ml_collections

from vse_jax.compilation.chips import GIB
from vse_jax.compilation.measured import Measured
from vse_jax.compilation.topology import Topology

_MIB = 2**20
_HEADS = (
    ("program", ""),
    ("args", "MiB"),
    ("temp", "MiB"),
    ("peak", "MiB"),
    ("HBM", "%"),
    ("code", "MiB"),
    ("FLOPs", "G"),
    ("bytes", "MB"),
    ("coll.", "count"),
    ("coll.", "MB"),
    ("estimate", "ms"),
    ("roofline", "ms"),
    ("rows/s", "all"),
    ("MFU", "%"),
    ("training", "min"),
)


def table(
    measured: Sequence[Measured],
    topology: Topology,
    config: ml_collections.ConfigDict,
) -> str:
    """Returns a table of all programs with the notes that explain it."""
    rows = [list(column) for column in zip(*_HEADS, strict=True)]
    rows += [_row(one, config) for one in measured]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [_title(topology, config)]
    for row in rows:
        cells = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        lines.append("  ".join([row[0].ljust(widths[0]), *list(cells)[1:]]).rstrip())
    return "\n".join([*lines, "", *_notes(measured, config)])


def _title(topology, config):
    chip, count = topology.chip, len(topology.devices)
    return (
        f"{topology.name}: {count} devices, each with {chip.hbm_bytes / GIB:.0f} GiB "
        f"of HBM at {chip.hbm_bandwidth / 1e9:.0f} GB/s, "
        f"{chip.peak_flops / 1e12:.1f} TFLOP/s (bfloat16), {chip.clock / 1e9:.2f} GHz; "
        f"{config.dtype}, batch {config.batch_size} ({config.batch_size / count:g} per "
        f"device), evaluation batch {config.evaluation_batch_size}"
    )


def _row(one, config):
    if one.refusal:
        return [one.program.name, *("-" for _ in _HEADS[1:])]
    cost, peak = one.cost, one.peak_bytes
    minutes = training_minutes(one, config)
    return [
        one.program.name,
        f"{one.argument_bytes / _MIB:.1f}",
        f"{one.temporary_bytes / _MIB:.1f}",
        f"{peak / _MIB:.1f}",
        f"{100 * peak / one.topology.chip.hbm_bytes:.1f}",
        f"{one.code_bytes / _MIB:.1f}",
        f"{cost.flops / 1e9:.1f}",
        f"{cost.bytes / 1e6:.0f}",
        f"{cost.collectives:.0f}",
        f"{cost.collective_bytes / 1e6:.1f}",
        f"{1e3 * one.estimate:.2f}",
        f"{1e3 * one.roofline:.2f}",
        f"{one.rows_per_second:,.0f}",
        f"{100 * one.mfu:.1f}",
        f"{minutes:.1f}" if minutes else "",
    ]


def training_minutes(one: Measured, config: ml_collections.ConfigDict) -> float:
    """Returns the minutes of all steps of a stage if all had this program's time."""
    steps = config.compile.pairs_per_epoch // one.program.size
    return one.program.epochs * steps * one.step_seconds / 60


def _notes(measured, config):
    choices = sum(one.cost.choices for one in measured)
    loops = sum(one.cost.unknown_loops for one in measured)
    kernels = sum(one.cost.kernels for one in measured)
    notes = [
        "All figures are of one device and one execution, except rows/s.",
        "FLOPs: of dots and convolutions, times the iterations of the loops they are "
        "in. bytes: read from and written to HBM.",
        "estimate: the compiler's cycles at the chip's clock; without collectives and "
        "without waits for HBM. roofline: the larger of FLOPs / peak and bytes / "
        "bandwidth.",
        "rows/s (pairs, images or captions of all devices), MFU and training use the "
        "larger of both. They assume that the host delivers each batch in time.",
        f"training: config.epochs or a stage's epochs of "
        f"{config.compile.pairs_per_epoch:,} pairs, if all batches had this length.",
    ]
    if choices:
        notes.append(
            f"{choices} conditionals depend on data; the branch with the most "
            "FLOPs counts."
        )
    if loops:
        notes.append(
            f"The length of {loops} loops depends on data; the number of words or "
            "regions counts."
        )
    if kernels:
        notes.append(
            "The FLOPs and cycles of hand-written kernels are not counted: "
            f"{kernels:.0f} calls."
        )
    return notes


def as_json(
    measured: Sequence[Measured],
    topology: Topology,
    config: ml_collections.ConfigDict,
) -> dict:
    """Returns all figures, in bytes, seconds and operations of one device."""
    return {
        "topology": topology.name,
        "devices": len(topology.devices),
        "device": topology.chip._asdict(),
        "dtype": config.dtype,
        "batch_size": config.batch_size,
        "evaluation_batch_size": config.evaluation_batch_size,
        "programs": [_as_json(one, config) for one in measured],
    }


def _as_json(one, config):
    described = {
        "name": one.program.name,
        "rows": one.program.size,
        "tokens": one.program.tokens,
        "compile_seconds": one.seconds,
    }
    if one.refusal:
        return described | {"refusal": one.refusal}
    return described | {
        "argument_bytes": one.argument_bytes,
        "temporary_bytes": one.temporary_bytes,
        "peak_bytes": one.peak_bytes,
        "code_bytes": one.code_bytes,
        **dataclasses.asdict(one.cost),
        "estimated_seconds": one.estimate,
        "roofline_seconds": one.roofline,
        "collective_seconds_at_full_speed": one.collective_seconds,
        "rows_per_second": one.rows_per_second,
        "mfu": one.mfu,
        "training_minutes": training_minutes(one, config),
    }
