import math
import xml.etree.ElementTree

import numpy as np
import pytest

from vse_jax.run_report import charts
from vse_jax.run_report.charts import Interval, Series


def numbers_of(svg, tag, attribute):
    """Values of an attribute of all elements of a kind, which must be finite."""
    root = xml.etree.ElementTree.fromstring(svg)
    values = [float(each.get(attribute)) for each in root.iter(tag)]
    assert all(map(math.isfinite, values))
    return values


def test_points_of_a_line_are_in_proportion():
    svg = charts.line_chart([Series("a", [(0, 1.0), (5, 3.0), (10, 2.0)])], "x", "d")
    left, middle, right = numbers_of(svg, "circle", "cx")
    assert middle == pytest.approx((left + right) / 2, abs=0.1)
    low, high, between = numbers_of(svg, "circle", "cy")
    assert between == pytest.approx((low + high) / 2, abs=0.1)
    assert high < low  # up is less


def test_logarithmic_axes():
    points = [(1, 0.01), (10, 0.1), (100, 1.0)]
    svg = charts.line_chart([Series("a", points)], "K", "d", log_x=True, log_y=True)
    for attribute in ("cx", "cy"):
        first, middle, last = numbers_of(svg, "circle", attribute)
        assert middle == pytest.approx((first + last) / 2, abs=0.1)


@pytest.mark.parametrize(
    "points", [[(3, 0.5)], [(1, 2.0), (2, 2.0)], [(0, 0.0), (1, 0.0)], [(1, 1e-9)]]
)
@pytest.mark.parametrize("log_x", [False, True])
def test_degenerate_lines_are_drawn(points, log_x):
    points = [(x + 1, y) for x, y in points]
    svg = charts.line_chart([Series("a", points)], "step", "d", log_x=log_x)
    for attribute, limit in (("cx", charts.WIDTH), ("cy", charts.HEIGHT)):
        values = numbers_of(svg, "circle", attribute)
        assert len(values) == len(points)
        assert all(0 <= value <= limit for value in values)


def test_labels_are_escaped():
    svg = charts.line_chart([Series("<script>", [(0, 1), (1, 2)])], "<b>", '"&')
    root = xml.etree.ElementTree.fromstring(svg)
    assert root.get("aria-label") == '"&'
    assert not list(root.iter("script"))
    assert not list(root.iter("b"))


def test_histogram_and_intervals_are_well_formed():
    edges = np.linspace(-1, 1, 5)
    svg = charts.histogram_chart(edges, [np.array([10, 20, 30, 40.0])] * 2, "d")
    assert len(xml.etree.ElementTree.fromstring(svg).findall("path")) == 2
    rows = [
        ("a", [Interval(50, 40, 62), Interval(70, 60, 80)]),
        ("b", [Interval(9, 5, 100)] * 2),
    ]
    svg = charts.interval_chart(rows, "d")
    low, value, high = (
        numbers_of(svg, "circle", "cx")[0],
        numbers_of(svg, "circle", "cx")[1],
        charts.WIDTH,
    )
    assert low < value < high
    assert "50.0 (40.0 to 62.0)" in svg


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (0.2, 0.31), (-3, 1200), (1e-7, 3e-7), (99.5, 100)]
)
def test_ticks_are_few_and_inside(low, high):
    values = charts.ticks(low, high)
    assert 2 <= len(values) <= 8
    assert all(low - 1e-9 <= value <= high + 1e-9 for value in values)
    steps = np.diff(values)
    np.testing.assert_allclose(steps, steps[0], rtol=1e-6)


def test_logarithmic_ticks():
    assert charts.log_ticks(1, 100) == pytest.approx([1, 2, 5, 10, 20, 50, 100])
    assert charts.log_ticks(0.001, 10) == pytest.approx([0.001, 0.01, 0.1, 1, 10])
