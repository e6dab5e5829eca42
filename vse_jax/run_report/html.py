"""Pieces of HTML: escaped text, elements, tables and figures."""

import html
import re
from collections.abc import Sequence

# HTML forbids control characters; a browser would not show them.
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffe\uffff]")


def text(value: object) -> str:
    """Returns a value as escaped text, for the content and attributes of elements."""
    return html.escape(_CONTROL.sub("\ufffd", str(value)))


def foreign(value: str) -> str:
    """Returns text of any language, isolated from the direction of the page's text."""
    return f'<bdi dir="auto">{text(value)}</bdi>'


def element(tag: str, *content: str, **attributes: object) -> str:
    """Returns an element; its content must be HTML, its attributes are escaped.

    Args:
      tag: name of the element.
      *content: HTML.
      **attributes: attributes; a trailing underscore is removed from their names, and
        another one becomes a hyphen. Those that are None are left out.
    """
    named = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{text(value)}"'
        for name, value in attributes.items()
        if value is not None
    )
    return f"<{tag}{named}>{''.join(content)}</{tag}>"


def table(
    caption: str, header: Sequence[str], rows: Sequence[Sequence[str]], **attributes
) -> str:
    """Returns a table, whose first column has the headers of the rows.

    Args:
      caption: HTML.
      header: HTML of the headers of the columns.
      rows: HTML of the cells. A cell that begins with `<td` or `<th` is not wrapped.
      **attributes: of the table.
    """
    columns = "".join(element("th", cell, scope="col") for cell in header)
    body = "".join(
        element("tr", element("th", row[0], scope="row"), *map(_cell, row[1:]))
        for row in rows
    )
    content = element(
        "table",
        element("caption", caption),
        element("thead", element("tr", columns)),
        element("tbody", body),
        **attributes,
    )
    return element("div", content, class_="scroll", tabindex=0, role="group")


def _cell(cell: str) -> str:
    return cell if cell.startswith("<td") else element("td", cell)


def bar(share: float, label: str, color: int = 0) -> str:
    """Returns a cell with a bar.

    Args:
      share: length of the bar, 0 to 1 of the cell.
      label: HTML of the number.
      color: number of the color of a series.
    """
    width = f"{100 * min(1.0, max(0.0, share)):.1f}%"
    filled = element("span", class_=f"bar c{color}", style=f"width:{width}")
    return element("td", filled, element("span", label, class_="number"), class_="bars")


def figure(
    title: str, *content: str, note: str = "", level: int = 3, wide: bool = False
) -> str:
    """Returns a card with a heading, content and an optional note in HTML.

    Args:
      title: HTML of the heading.
      *content: HTML.
      note: HTML below the content.
      level: level of the heading.
      wide: whether the card takes the whole width of the page.
    """
    notes = [element("p", note, class_="note")] if note else []
    heading = element(f"h{level}", title)
    class_ = "card wide" if wide else "card"
    return element("section", heading, *content, *notes, class_=class_)


def legend(labels: Sequence[str]) -> str:
    """Returns the legend of series, whose colors are those of their numbers."""
    items = [
        element("li", element("span", class_=f"key c{i % 8} d{i // 8}"), label)
        for i, label in enumerate(labels)
    ]
    return element("ul", *items, class_="legend")
