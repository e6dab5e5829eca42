"""Sections of the report of one run. They return HTML."""

import importlib.metadata
import platform
from collections.abc import Sequence

import numpy as np

from configs import common
from vse_jax.evaluation import bootstrap
from vse_jax.run_config import flatten
from vse_jax.run_report import charts, statistics
from vse_jax.run_report.charts import Interval, Series
from vse_jax.run_report.facts import HUB_DEPTH, RunFacts
from vse_jax.run_report.html import bar, element, figure, legend, table, text
from vse_jax.run_report.query_cards import images

DIRECTIONS = {"i2t": "image to text", "t2i": "text to image"}
_LIBRARIES = (
    "vse_jax",
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "tensorflow-datasets",
    "numpy",
    "nltk",
)


def recall(run: RunFacts, level: int) -> str:
    """Returns the metrics with their intervals."""
    rows = [
        (
            f"{name}, R@{k}",
            [Interval(run.metrics[f"{key}_r{k}"], *run.intervals[f"{key}_r{k}"])],
        )
        for key, name in DIRECTIONS.items()
        for k in (1, 5, 10)
    ]
    chart = charts.interval_chart(rows, "Recalls with 95% intervals, as in the table.")
    return figure(
        "Recalls in percent, with 95% intervals", chart, level=level + 1
    ) + figure(
        "All metrics", _metrics_table(run), level=level + 1, note=_of_intervals(run)
    )


def _of_intervals(run):
    return (
        "R@K: the share of queries whose right answer is among the first K results. "
        f"Ties count against the model. Intervals: 95%, from {bootstrap.RESAMPLES:,} "
        f"bootstrap samples of the {run.images:,} images."
    )


def _metrics_table(run: RunFacts) -> str:
    """Returns a table of all metrics with their intervals."""
    names = ("r1", "r5", "r10", "medr", "meanr")
    rows = [
        [name, *(with_interval(run, f"{key}_{metric}") for metric in names)]
        for key, name in DIRECTIONS.items()
    ]
    total = element("td", with_interval(run, "rsum"), colspan=len(names))
    header = ["", "R@1", "R@5", "R@10", "median rank", "mean rank"]
    return table("Metrics", header, [*rows, ["rSum", total]])


def with_interval(run: RunFacts, metric: str) -> str:
    """Returns a metric with its interval below it."""
    low, high = run.intervals[metric]
    interval = element("small", f"{low:.1f}\u2013{high:.1f}")
    return f"{run.metrics[metric]:.1f} {interval}"


def training(run: RunFacts, level: int) -> str:
    """Returns the curves of the training."""
    split = run.config["data.validation_split"]
    plots = [
        ("Loss", {"loss": "loss"}, False),
        (
            "Norm of the gradient",
            {
                "gradient_norm_image": "image encoder",
                "gradient_norm_text": "text encoder",
            },
            True,
        ),
        (
            f"R@1 on {split}, percent",
            {f"{split}/{key}_r1": name for key, name in DIRECTIONS.items()},
            False,
        ),
        (f"rSum on {split}", {f"{split}/rsum": "rSum"}, False),
    ]
    cards = []
    for title, names, log in plots:
        lines = [
            Series(label, statistics.thinned(run.curves[name]))
            for name, label in names.items()
            if run.curves.get(name)
        ]
        cards.append(curve_card(title, lines, level, log=log))
    return "".join(cards) or no_curves()


def no_curves() -> str:
    """Returns a note in place of missing curves."""
    return element("p", "The workdir has no TensorBoard files, so there are no curves.")


def curve_card(
    title: str, lines: Sequence[Series], level: int, *, log: bool = False
) -> str:
    """Returns a chart of curves over the steps of training; "" without a curve."""
    if not any(line.points for line in lines):
        return ""
    log = log and all(y > 0 for line in lines for _, y in line.points)
    last = "; ".join(
        f"{line.label} {line.points[-1][1]:.4g}" for line in lines if line.points
    )
    description = f"{title} by training step. Last values: {last}."
    chart = charts.line_chart(lines, "step", description, log_y=log, x_start=0)
    labels = [text(line.label) for line in lines]
    keys = legend(labels) if len(lines) > 1 else ""
    return figure(text(title), keys, chart, level=level + 1)


def ranks(run: RunFacts, level: int) -> str:
    """Returns histograms of ranks and recall by K."""
    lines = [
        Series(name, statistics.recall_curve(run.ranks[key]))
        for key, name in DIRECTIONS.items()
    ]
    chart = charts.line_chart(
        lines,
        "K",
        "Recall at K in percent, for K from 1 to 100.",
        log_x=True,
        y_range=(0.0, 100.0),
    )
    curves = figure(
        "Recall@K in percent",
        legend(list(DIRECTIONS.values())),
        chart,
        level=level + 1,
    )
    return curves + figure("Histogram of ranks", _rank_table(run), level=level + 1)


def _rank_table(run):
    candidates = {"i2t": run.captions, "t2i": run.images}
    longest = max(candidates.values())
    bins = [statistics.rank_histogram(run.ranks[key], longest) for key in DIRECTIONS]
    shares = [
        [100.0 * each.count / max(1, len(run.ranks[key])) for each in some]
        for key, some in zip(DIRECTIONS, bins, strict=True)
    ]
    highest = max(map(max, shares))
    rows = [
        [each.label]
        + [
            bar(some[number] / highest, f"{some[number]:.1f}%", color)
            for color, some in enumerate(shares)
        ]
        for number, each in enumerate(bins[0])
        if any(some[number] for some in shares)
    ]
    header = ["rank", *DIRECTIONS.values()]
    return table("Share of queries by the rank of the right answer", header, rows)


def similarities(run: RunFacts, level: int) -> str:
    """Returns histograms of the similarities of positives and hardest negatives."""
    cards = []
    for key, name in DIRECTIONS.items():
        positive, hardest = (
            values[np.isfinite(values)] for values in run.similarities[key]
        )
        edges, shares = statistics.shared_histogram([positive, hardest])
        means = [
            float(values.mean()) if len(values) else 0.0
            for values in (positive, hardest)
        ]
        description = (
            f"Histograms of similarities, {name}. Mean of right answers "
            f"{means[0]:.3f}, of the most similar wrong answers {means[1]:.3f}."
        )
        labels = [
            f"right answer, mean {means[0]:.3f}",
            f"most similar wrong answer, mean {means[1]:.3f}",
        ]
        chart = charts.histogram_chart(edges, shares, description)
        title = name.capitalize()
        cards.append(figure(title, legend(labels), chart, level=level + 1))
    return "".join(cards)


def hubs(run: RunFacts, level: int) -> str:
    """Returns how often images are retrieved, and the images that are most often."""
    bins = statistics.hub_histogram(run.hub_counts)
    most = max(each.count for each in bins)
    rows = [[each.label, bar(each.count / most, f"{each.count:,}")] for each in bins]
    expected = run.hub_counts.mean()
    never = int((run.hub_counts == 0).sum())
    note = (
        f"How often each image is in the first {HUB_DEPTH} results of a caption: "
        f"{expected:.1f} times on average, {int(run.hub_counts.max()):,} at most, and "
        f"never for {never:,} images. The skewness is "
        f"{statistics.skewness(run.hub_counts):.2f}; a model without hubs has about 0."
    )
    counts = figure(
        "How often images are retrieved",
        table("Images by their number of appearances", ["times", "images"], rows),
        level=level + 1,
        note=note,
    )
    largest = [
        (image, element("small", f"{int(run.hub_counts[image]):,} times"), None)
        for image in run.hubs
    ]
    return counts + figure("The largest hubs", images(run, largest), level=level + 1)


def captions(run: RunFacts, level: int) -> str:
    """Returns recall by the length and by the rarest word of captions."""
    tables = [
        ("By length", "words", run.by_length, "Words and punctuation marks."),
        (
            "By the rarest word",
            "occurrences",
            run.by_rarity,
            "How often the rarest word of a caption occurs in the training captions; "
            "unknown: a word is not in the model's vocabulary.",
        ),
    ]
    cards = []
    for title, header, groups, note in tables:
        rows = [
            [text(group.label), f"{group.captions:,}"]
            + [bar(value / 100, f"{value:.1f}", 1) for value in group.recalls]
            for group in groups
        ]
        columns = [header, "captions", "R@1", "R@5", "R@10"]
        content = table("Recall, text to image, in percent", columns, rows)
        if not rows:
            content = element(
                "p", "The dataset has no training split to count words in."
            )
        cards.append(figure(title, content, level=level + 1, note=note))
    return "".join(cards)


def model(run: RunFacts, level: int) -> str:
    """Returns the number of parameters, the options and the versions."""
    sizes = [[name, f"{count:,}"] for name, count in run.parameters.items()]
    sizes.append(["total", f"{sum(run.parameters.values()):,}"])
    defaults = flatten(common.get_config())
    differing = {
        name: value
        for name, value in run.config.items()
        if name not in defaults or defaults[name] != value
    }
    every = element(
        "details",
        element("summary", f"All {len(run.config)} options"),
        _options(run.config, "All options"),
    )
    return (
        figure(
            "Parameters",
            table("Parameters", ["part", "number"], sizes),
            level=level + 1,
        )
        + figure(
            "Options that differ from the defaults",
            _options(differing, "Options that differ from configs/common.py"),
            every,
            level=level + 1,
        )
        + figure("Versions", _versions(), level=level + 1, note="Of this report.")
    )


def _options(options, caption):
    rows = [
        [element("code", text(name)), element("code", text(value) or "\u2018\u2019")]
        for name, value in sorted(options.items())
    ]
    return table(caption, ["option", "value"], rows, class_="options")


def _versions():
    rows = [["Python", platform.python_version()]]
    for name in _LIBRARIES:
        try:
            rows.append([name, text(importlib.metadata.version(name))])
        except importlib.metadata.PackageNotFoundError:
            continue  # the program may run from a copy of the repository
    return table("Versions of libraries", ["library", "version"], rows)
