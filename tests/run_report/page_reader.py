"""Reads a report as a browser does, as far as tests look at it."""

import html.parser
import re

_VOID = ("img", "meta", "br", "link", "input")


class PageReader(html.parser.HTMLParser):
    """Collects elements; checks that they are closed in order.

    Attributes:
      elements: names and attributes of all elements, in order.
      headings: levels of the headings, in order.
      words: all text, with single spaces.
    """

    def __init__(self, page: str):
        super().__init__(convert_charrefs=True)
        self.elements, self.headings, self._open, self._text = [], [], [], []
        self.feed(page)
        self.close()
        assert not self._open, self._open
        self.words = " ".join("".join(self._text).split())

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if re.fullmatch(r"h\d", tag):
            self.headings.append(int(tag[1]))
        if tag not in _VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if not self._open or self._open[-1] != "style":
            self._text.append(data)

    def all(self, tag):
        """Returns the attributes of all elements of a kind."""
        return [attributes for name, attributes in self.elements if name == tag]


def read(page: str) -> PageReader:
    """Reads a page and checks what holds for every report."""
    assert page.startswith("<!doctype html>")
    reader = PageReader(page)
    assert reader.all("html") == [{"lang": "en"}]
    assert reader.headings[0] == 1
    assert reader.headings.count(1) == 1
    pairs = zip(reader.headings, reader.headings[1:], strict=False)
    assert all(after <= before + 1 for before, after in pairs)
    _check_self_contained(page, reader)
    for attributes in reader.all("img"):
        assert attributes["alt"].strip()
    for attributes in reader.all("svg"):
        assert attributes["role"] == "img"
        assert attributes["aria-label"].strip()
    for attributes in reader.all("th"):
        assert attributes["scope"] in ("row", "col")
    assert len(reader.all("caption")) == len(reader.all("table")) > 0
    names = [a["id"] for _, a in reader.elements if "id" in a]
    assert len(names) == len(set(names))
    assert {a["href"] for a in reader.all("a")} <= {f"#{name}" for name in names}
    return reader


def _check_self_contained(page, reader):
    assert not reader.all("script")
    assert not reader.all("link")
    assert not reader.all("iframe")
    for _, attributes in reader.elements:
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href", "srcset", "action", "data"):
            value = attributes.get(name, "#")
            assert value.startswith(("#", "data:image/jpeg;base64,")), value
    (style,) = re.findall("<style>(.*?)</style>", page, re.DOTALL)
    assert "url(" not in style
    assert "@import" not in style
    assert "prefers-color-scheme: dark" in style
