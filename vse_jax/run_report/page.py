"""The HTML page of a report."""

from collections.abc import Callable, Sequence

from vse_jax.run_report import comparison, query_cards, sections
from vse_jax.run_report.facts import RunFacts
from vse_jax.run_report.html import element, text
from vse_jax.run_report.style import STYLE

# The page loads nothing, not even if a caption gets markup past the escaping.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_SECTIONS: tuple[tuple[str, Callable[[RunFacts, int], str]], ...] = (
    ("Recall", sections.recall),
    ("Training", sections.training),
    ("Ranks", sections.ranks),
    ("Similarities", sections.similarities),
    ("Hubs", sections.hubs),
    ("Captions", sections.captions),
    ("Queries", query_cards.queries),
    ("Model", sections.model),
)


def page(runs: Sequence[RunFacts]) -> str:
    """Returns the report of one run, or the comparison of several, as HTML."""
    names = comparison.names([run.workdir for run in runs])
    if len(runs) == 1:
        return _document(
            names[0],
            _header(names[0], runs[0], _facts_line(runs[0]), _tiles(runs[0])),
            _navigation([title for title, _ in _SECTIONS]),
            *_run_sections(runs[0]),
        )
    title = f"{len(runs)} runs: {', '.join(names)}"
    parts = comparison.sections(runs, names)
    details = [
        element(
            "details",
            element("summary", element("h2", text(name))),
            element("p", _facts_line(run), class_="subtitle"),
            *_run_sections(run, level=3),
            class_="run",
        )
        for run, name in zip(runs, names, strict=True)
    ]
    return _document(
        title,
        _header(f"{len(runs)} runs", runs[0], comparison.subtitle(runs[0]), ""),
        _navigation([*parts, "Each run"]),
        *(_section(name, content) for name, content in parts.items()),
        element("div", *details, id="each-run"),
    )


def _document(title, *body):
    head = element(
        "head",
        '<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f'<meta http-equiv="Content-Security-Policy" content="{text(_POLICY)}">',
        '<meta name="color-scheme" content="light dark">',
        element("title", f"{text(title)} - vse_jax"),
        element("style", STYLE),
    )
    content = element("body", element("main", *body))
    return f"<!doctype html>\n{element('html', head, content, lang='en')}\n"


def _header(title, run, subtitle, tiles):
    return element(
        "header",
        element("p", f"Report on the split {text(run.split)}", class_="overline"),
        element("h1", text(title)),
        element("p", subtitle, class_="subtitle"),
        tiles,
    )


def _facts_line(run):
    return (
        f"{run.images:,} images, {run.captions:,} captions. Checkpoint of step "
        f"{run.step:,} in {element('code', text(run.workdir))}."
    )


def _tiles(run):
    shown = {
        "rSum": "rsum",
        "R@1 image to text": "i2t_r1",
        "R@1 text to image": "t2i_r1",
        "R@10 image to text": "i2t_r10",
        "R@10 text to image": "t2i_r10",
    }
    return element(
        "dl",
        *(_tile(run, label, metric) for label, metric in shown.items()),
        class_="tiles",
    )


def _tile(run, label, metric):
    low, high = run.intervals[metric]
    return element(
        "div",
        element("dt", label),
        element("dd", f"{run.metrics[metric]:.1f}"),
        element("dd", f"95%: {low:.1f} to {high:.1f}", class_="interval"),
    )


def _navigation(titles):
    links = [
        element("li", element("a", title, href=f"#{_id(title)}")) for title in titles
    ]
    return element("nav", element("ul", *links), aria_label="Sections")


def _run_sections(run, level=2):
    return [_section(title, content(run, level), level) for title, content in _SECTIONS]


def _section(title, content, level=2):
    # Only the sections of the first level can be linked to.
    name = _id(title) if level == 2 else None
    cards = element("div", content, class_="cards")
    return element("section", element(f"h{level}", title), cards, id=name)


def _id(title):
    return title.lower().replace(" ", "-")
