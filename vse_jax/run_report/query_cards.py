"""HTML of queries with what they retrieve."""

from collections.abc import Sequence

from vse_jax.run_report.facts import RunFacts
from vse_jax.run_report.html import element, foreign, text
from vse_jax.run_report.queries import Query, Result

_LONGEST_ALT = 200  # characters


def queries(run: RunFacts, level: int) -> str:
    """Returns the best, median and worst queries of both directions."""
    return _direction(run, "t2i", "Text to image", _caption_card, level) + _direction(
        run, "i2t", "Image to text", _image_card, level
    )


def images(run: RunFacts, items: Sequence[tuple[int, str, str | None]]) -> str:
    """Returns a list of images: a grid of photos, or lines without photos.

    Args:
      run: run that shows the images.
      items: the number of each image, HTML that stands beside it, and a class.
    """
    if run.shown.thumbnails:
        cells = [
            element("li", _image(run, image), label, class_=class_)
            for image, label, class_ in items
        ]
        return element("ol", *cells, class_="photos")
    lines = [
        element("li", label, _image(run, image), class_=class_)
        for image, label, class_ in items
    ]
    return element("ol", *lines, class_="captions")


def _image(run: RunFacts, image: int) -> str:
    """Returns the thumbnail of an image; without photos its ID and a caption."""
    shown = run.shown
    caption = shown.captions_of_images.get(image, "")
    if image in shown.thumbnails:
        alt = f"Image {shown.image_ids[image]}: {caption}"[:_LONGEST_ALT]
        return (
            f'<img src="{shown.thumbnails[image]}" alt="{text(alt)}" '
            f'title="{text(alt)}" loading="lazy">'
        )
    name = element("b", foreign(shown.image_ids[image]))
    return element("span", name, " ", foreign(caption))


def _direction(run, direction, title, card, level):
    kinds = []
    for kind, some in run.queries[direction].items():
        heading = element(f"h{level + 2}", kind.capitalize())
        kinds.append(element("div", heading, *(card(run, query) for query in some)))
    heading = element(f"h{level + 1}", title)
    return element("section", heading, *kinds, class_=f"queries {direction}")


def _caption_card(run: RunFacts, query: Query) -> str:
    caption = element("q", foreign(run.shown.captions[query.number]))
    ask = element("p", caption, _rank(query), class_="ask")
    results = [
        (result.number, verdict, _class(result)) for result, verdict in _verdicts(query)
    ]
    return element("article", ask, images(run, results), class_="query")


def _image_card(run: RunFacts, query: Query) -> str:
    ask = element("p", _image(run, query.number), _rank(query), class_="ask")
    items = [
        element(
            "li",
            verdict,
            foreign(run.shown.captions[result.number]),
            class_=_class(result),
        )
        for result, verdict in _verdicts(query)
    ]
    results = element("ol", *items, class_="captions")
    return element("article", ask, results, class_="query")


def _verdicts(query: Query) -> list[tuple[Result, str]]:
    """Returns the results with their verdicts; last the answer if it is not there."""
    shown = [(result, _verdict(result)) for result in query.results]
    if not any(result.is_right for result in query.results):
        shown.append((query.answer, _verdict(query.answer, query.rank)))
    return shown


def _verdict(result: Result, rank: int = 0) -> str:
    """Says whether a result is right, not by color alone, and its similarity."""
    mark, word = ("\u2713", "right") if result.is_right else ("\u2717", "wrong")
    sign = element("b", mark, aria_label=word, role="img")
    place = f"rank {rank:,}, " if rank else ""
    score = element("small", f"{place}{result.similarity:.2f}")
    return element("span", sign, " ", score, class_="verdict")


def _class(result):
    return "right" if result.is_right else "wrong"


def _rank(query):
    return element("span", f"rank {query.rank:,}", class_="rank")
