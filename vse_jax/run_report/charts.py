"""Charts as inline SVG. Colors are classes, which follow the light or dark scheme."""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from vse_jax.run_report.html import element, text

WIDTH, HEIGHT = 420, 230  # units of the drawing, about pixels
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 12, 10, 36  # margins
_FEW_POINTS = 24  # a curve with more has no markers
_ROW = 30  # height of a row of intervals


class Series(NamedTuple):
    """A line of a chart.

    Attributes:
      label: plain text.
      points: pairs of finite numbers, in the order of x.
    """

    label: str
    points: Sequence[tuple[float, float]]


class Interval(NamedTuple):
    """A value with its interval."""

    value: float
    low: float
    high: float


class _Scale(NamedTuple):
    """Maps values to positions."""

    low: float
    high: float
    start: float
    stop: float
    function: Callable[[float], float]

    def __call__(self, value: float) -> float:
        low, high = self.function(self.low), self.function(self.high)
        share = (self.function(value) - low) / (high - low)
        return round(self.start + share * (self.stop - self.start), 1)


def line_chart(
    series: Sequence[Series],
    x_label: str,
    description: str,
    *,
    log_x: bool = False,
    log_y: bool = False,
    x_start: float | None = None,
    y_range: tuple[float, float] | None = None,
) -> str:
    """Returns lines; the color of a line is its number.

    Args:
      series: lines with at least one point in total.
      x_label: plain text below the axis.
      description: plain text for readers who do not see the chart.
      log_x, log_y: whether an axis is logarithmic; its values must be positive.
      x_start: where the axis starts; None for the first point.
      y_range: lowest and highest value of the axis; None for those of the points.
    """
    points = [point for line in series for point in line.points]
    x_values = [x for x, _ in points] + ([] if x_start is None else [x_start])
    x_scale = _scale(x_values, _LEFT, WIDTH - _RIGHT, log_x)
    y_values = y_range or _padded([y for _, y in points], log_y)
    y_scale = _scale(y_values, HEIGHT - _BOTTOM, _TOP, log_y)
    lines = [
        _line(number, line, x_scale, y_scale) for number, line in enumerate(series)
    ]
    axes = _x_axis(x_scale, x_label, log_x) + _y_axis(y_scale, log_y)
    return _svg(HEIGHT, description, axes, *lines)


def histogram_chart(
    edges: np.ndarray, shares: Sequence[np.ndarray], description: str
) -> str:
    """Returns outlines of histograms of similarities over the same bins, filled.

    Args:
      edges: `[bins + 1]`, which increase.
      shares: `[bins]` of each histogram, in percent.
      description: plain text for readers who do not see the chart.
    """
    highest = max(float(array.max()) for array in shares) or 1.0
    x_scale = _scale(edges, _LEFT, WIDTH - _RIGHT)
    y_scale = _scale((0.0, highest), HEIGHT - _BOTTOM, _TOP)
    areas = []
    for number, array in enumerate(shares):
        corners = [(edges[0], 0.0)]
        for (left, right), share in zip(itertools.pairwise(edges), array, strict=True):
            corners += [(left, share), (right, share)]
        corners.append((edges[-1], 0.0))
        path = _path(corners, x_scale, y_scale)
        areas.append(element("path", d=f"{path}Z", class_=f"area c{number}"))
    axes = _x_axis(x_scale, "similarity", False) + _y_axis(y_scale, False, unit="%")
    return _svg(HEIGHT, description, axes, *areas)


def interval_chart(
    rows: Sequence[tuple[str, Sequence[Interval]]], description: str
) -> str:
    """Returns percentages with their intervals, one row of runs per label.

    Args:
      rows: labels in plain text, with the values of each run. The color of a value is
        the number of its run.
      description: plain text for readers who do not see the chart.
    """
    runs = len(rows[0][1])
    height = max(_ROW, 10 * runs + 12)
    left = 168
    lowest = min(interval.low for _, values in rows for interval in values)
    start = min(80, 10 * math.floor(lowest / 10))
    x_scale = _Scale(start, 100, left, WIDTH - _RIGHT - 10, float)
    bottom = _TOP + height * len(rows)
    parts = []
    for tick in ticks(start, 100):
        x = x_scale(tick)
        parts.append(element("line", x1=x, x2=x, y1=_TOP, y2=bottom, class_="grid"))
        parts.append(_label(x, bottom + 16, f"{tick:.0f}%", "middle"))
    for number, (label, values) in enumerate(rows):
        middle = _TOP + height * (number + 0.5)
        parts.append(_label(left - 10, middle + 4, label, "end"))
        for run, interval in enumerate(values):
            y = middle + 10 * (run - (runs - 1) / 2)
            parts.append(_whisker(interval, x_scale, y, run))
    return _svg(bottom + 24, description, *parts)


def _whisker(interval, x_scale, y, run):
    shown = f"{interval.value:.1f} ({interval.low:.1f} to {interval.high:.1f})"
    return element(
        "g",
        element("title", shown),
        element(
            "line", x1=x_scale(interval.low), x2=x_scale(interval.high), y1=y, y2=y
        ),
        element("circle", cx=x_scale(interval.value), cy=y, r=4),
        class_=f"whisker c{run % 8}",
    )


def _line(number, line, x_scale, y_scale):
    if not line.points:
        return ""
    color = f"c{number % 8} d{number // 8}"
    path = element(
        "path", d=_path(line.points, x_scale, y_scale), class_=f"line {color}"
    )
    markers = ""
    if len(line.points) <= _FEW_POINTS:
        markers = "".join(
            element(
                "circle",
                element("title", text(f"{line.label}: {y:.4g} at {x:,}")),
                cx=x_scale(x),
                cy=y_scale(y),
                r=3,
                class_=f"marker {color}",
            )
            for x, y in line.points
        )
    return path + markers


def _path(points, x_scale, y_scale):
    steps = " L".join(f"{x_scale(x)} {y_scale(y)}" for x, y in points)
    return f"M{steps}"


def _scale(values, start, stop, log=False) -> _Scale:
    low, high = float(min(values)), float(max(values))
    if low == high:
        low, high = (low / 2, high * 2) if log else (low - 0.5, high + 0.5)
    return _Scale(low, high, start, stop, math.log10 if log else float)


def _padded(values, log):
    """Returns a range with room above and below; from 0 if the values are near it."""
    low, high = min(values), max(values)
    if log:
        return low / 1.15, high * 1.15
    room = 0.06 * (high - low)
    return (0.0 if 0 <= low < (high - low) else low - room), high + room


def ticks(low: float, high: float) -> list[float]:
    """Returns about five round numbers from `low` to `high`."""
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next(m for m in (1, 2, 5, 10) if rough <= m * power * (1 + 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(k * step, 12) for k in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Returns powers of ten from `low` to `high`, with 2 and 5 times these if few."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1, 2, 5) if high / low < 300 else (1,)
    every = [factor * 10.0**power for power in powers for factor in factors]
    return [tick for tick in every if low * 0.999 <= tick <= high * 1.001]


def _x_axis(scale, label, log):
    bottom = HEIGHT - _BOTTOM
    values = log_ticks(scale.low, scale.high) if log else ticks(scale.low, scale.high)
    marks = [
        _label(scale(value), bottom + 15, _number(value), "middle") for value in values
    ]
    line = element(
        "line", x1=_LEFT, x2=WIDTH - _RIGHT, y1=bottom, y2=bottom, class_="axis"
    )
    middle = (_LEFT + WIDTH - _RIGHT) / 2
    return line + "".join(marks) + _label(middle, HEIGHT - 4, label, "middle")


def _y_axis(scale, log, unit=""):
    values = log_ticks(scale.low, scale.high) if log else ticks(scale.low, scale.high)
    return "".join(
        element(
            "line",
            x1=_LEFT,
            x2=WIDTH - _RIGHT,
            y1=scale(value),
            y2=scale(value),
            class_="grid",
        )
        + _label(_LEFT - 6, scale(value) + 4, _number(value) + unit, "end")
        for value in values
    )


def _number(value):
    if value and abs(value) < 0.001:
        return f"{value:.0e}"
    return f"{value:,.6g}"


def _label(x, y, label, anchor):
    return element(
        "text", text(label), x=round(x, 1), y=round(y, 1), text_anchor=anchor
    )


def _svg(height, description, *content):
    return element(
        "svg",
        *content,
        viewBox=f"0 0 {WIDTH} {height}",
        role="img",
        aria_label=description,
    )
