"""Sections that compare several runs. They return HTML."""

import pathlib
from collections.abc import Sequence

from vse_jax.evaluation import bootstrap
from vse_jax.run_report import charts, statistics
from vse_jax.run_report.charts import Interval, Series
from vse_jax.run_report.facts import RunFacts
from vse_jax.run_report.html import element, figure, legend, table, text
from vse_jax.run_report.sections import (
    DIRECTIONS,
    curve_card,
    no_curves,
    with_interval,
)

_METRICS = {
    f"{key}_r{k}": f"R@{k} {name}"
    for key, name in DIRECTIONS.items()
    for k in (1, 5, 10)
} | {"rsum": "rSum"}


def names(workdirs: Sequence[str]) -> list[str]:
    """Returns the shortest ends of paths, of equally many folders, that differ."""
    parts = [pathlib.PurePath(path).parts for path in workdirs]
    for length in range(1, max(map(len, parts)) + 1):
        ends = ["/".join(some[-length:]) for some in parts]
        if len(set(ends)) == len(ends):
            return ends
    return list(workdirs)


def subtitle(run: RunFacts) -> str:
    """Returns what all runs share."""
    return (
        f"{run.images:,} images and {run.captions:,} captions, the same for all runs."
    )


def groups(runs: Sequence[RunFacts]) -> list[list[int]]:
    """Returns the numbers of runs that differ only by their seeds, two or more each."""
    members = {}
    for number, run in enumerate(runs):
        members.setdefault(run.seeds_of, []).append(number)
    return [numbers for numbers in members.values() if len(numbers) > 1]


def sections(runs: Sequence[RunFacts], labels: Sequence[str]) -> dict[str, str]:
    """Returns HTML by the title of its section.

    Args:
      runs: at least two runs.
      labels: names of the runs.
    """
    return {
        "Recall": _recall(runs, labels),
        "Training": _training(runs, labels),
        "Ranks": _ranks(runs, labels),
        "Options": _options(runs, labels),
    }


def _recall(runs, labels):
    rows = [
        [text(label), *(with_interval(run, metric) for metric in _METRICS)]
        for run, label in zip(runs, labels, strict=True)
    ]
    for numbers in groups(runs):
        rows.append(
            _seeds_row([runs[n] for n in numbers], [labels[n] for n in numbers])
        )
    header = ["run", *_METRICS.values()]
    intervals = [
        (
            f"{name}, R@{k}",
            [_interval(run, f"{key}_r{k}") for run in runs],
        )
        for key, name in DIRECTIONS.items()
        for k in (1, 5, 10)
    ]
    chart = charts.interval_chart(
        intervals, "Recalls of all runs with 95% intervals, as in the table."
    )
    note = (
        "Small numbers are 95% intervals, from bootstrap samples of the images. Seeds "
        "of one configuration have a row with their mean and standard deviation."
    )
    keys = legend([text(label) for label in labels])
    metrics = table("Recalls in percent, and rSum", header, rows)
    return (
        figure("Metrics", metrics, note=note, wide=True)
        + _differences(runs, labels)
        + figure("Recalls in percent, with 95% intervals", keys, chart)
    )


def _interval(run, metric):
    return Interval(run.metrics[metric], *run.intervals[metric])


def _seeds_row(runs, labels):
    cells = []
    for metric in _METRICS:
        values = [run.metrics[metric] for run in runs]
        mean, deviation = statistics.mean_and_deviation(values)
        cells.append(f"<b>{mean:.1f}</b> <small>\u00b1 {deviation:.1f}</small>")
    members = element("small", text(", ".join(labels)))
    return [f"mean of {len(runs)} seeds {members}", *cells]


def _differences(runs, labels):
    """Returns the differences from the first run, with paired intervals."""
    first = runs[0]
    rows = []
    for run, label in zip(runs[1:], labels[1:], strict=True):
        cells = []
        for metric in _METRICS:
            value = run.metrics[metric] - first.metrics[metric]
            low, high = bootstrap.interval(
                run.resampled[metric] - first.resampled[metric]
            )
            interval = element("small", f"{_signed(low)} to {_signed(high)}")
            shown = f"{_signed(value)} {interval}"
            # An interval without zero: chance alone hardly explains the difference.
            is_clear = low > 0 or high < 0
            cells.append(element("td", shown, class_="clear" if is_clear else None))
        rows.append([text(label), *cells])
    note = (
        "With 95% intervals of the difference, from the same bootstrap samples for "
        "both runs. Bold: the interval does not contain 0. It shows the chance of the "
        "images, not that of the training, which varies with the seed."
    )
    header = ["run", *_METRICS.values()]
    caption = f"Differences from {text(labels[0])}"
    return figure(caption, table(caption, header, rows), note=note, wide=True)


def _signed(value):
    return f"{value:+.1f}".replace("-", "\u2212")


def _training(runs, labels):
    split = runs[0].config["data.validation_split"]
    plots = [
        ("Loss", "loss", False),
        ("Norm of the gradient", "gradient_norm", True),
        (f"rSum on {split}", f"{split}/rsum", False),
        (f"R@1 image to text on {split}", f"{split}/i2t_r1", False),
        (f"R@1 text to image on {split}", f"{split}/t2i_r1", False),
    ]
    cards = [
        curve_card(
            title,
            [
                Series(label, statistics.thinned(run.curves.get(name, [])))
                for run, label in zip(runs, labels, strict=True)
            ],
            level=2,
            log=log,
        )
        for title, name, log in plots
    ]
    return "".join(cards) or no_curves()


def _ranks(runs, labels):
    cards = []
    for key, name in DIRECTIONS.items():
        lines = [
            Series(label, statistics.recall_curve(run.ranks[key]))
            for run, label in zip(runs, labels, strict=True)
        ]
        chart = charts.line_chart(
            lines,
            "K",
            f"Recall at K in percent, {name}, for K from 1 to 100.",
            log_x=True,
            y_range=(0.0, 100.0),
        )
        keys = legend([text(label) for label in labels])
        cards.append(figure(f"Recall@K in percent, {name}", keys, chart))
    return "".join(cards)


def _options(runs, labels):
    every = sorted({name for run in runs for name in run.config})
    rows = [
        [element("code", text(name))]
        + [element("code", text(run.config.get(name, "-"))) for run in runs]
        for name in every
        if len({str(run.config.get(name)) for run in runs}) > 1
    ]
    sizes = [f"{sum(run.parameters.values()):,}" for run in runs]
    rows.append(["parameters of the model", *sizes])
    header = ["option", *(text(label) for label in labels)]
    caption = "Options that differ between the runs"
    return figure(caption, table(caption, header, rows, class_="options"), wide=True)
