"""Answers the queries of the command line: the program's `--mode=search`."""

import json
import logging
import math
import os
import re
import shutil
import sys
from collections.abc import Sequence
from typing import NamedTuple

from etils import epath

from vse_jax import files
from vse_jax.errors import InputError, reporting_writes
from vse_jax.gallery.sources import read_lines
from vse_jax.search import queries, sheet
from vse_jax.search.open_gallery import Place, open_searcher
from vse_jax.search.queries import Query
from vse_jax.search.searcher import Hit, Searcher

logger = logging.getLogger(__name__)

_FORMATS = (".jsonl", ".html")
_AT_ONCE = 256  # queries
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


class Request(NamedTuple):
    """What to search, as the flags say it.

    Attributes:
      texts, minus, photos, minus_photos: parts of one query, see `queries.combined`.
      file: text file with one query per line, instead of the parts; or "".
      top: number of results per query.
      threshold: least similarity of a result; None for any.
      output: file to write, `.jsonl` or `.html`; "" prints the results.
    """

    texts: Sequence[str]
    minus: Sequence[str]
    photos: Sequence[str]
    minus_photos: Sequence[str]
    file: str
    top: int
    threshold: float | None
    output: str


def search(place: Place, request: Request) -> None:
    """Searches a gallery and prints or writes the results.

    Raises:
      InputError: if the request, the model, the source or the gallery is invalid.
      TrainingError: if a file cannot be written.
    """
    if request.threshold is not None and not math.isfinite(request.threshold):
        raise InputError(
            f"--threshold is {request.threshold}; expected a number, such as 0.3"
        )
    asked = _queries(request)
    if request.output and not request.output.endswith(_FORMATS):
        raise InputError(
            f"--output is {request.output}; expected a file that ends with "
            f"{' or '.join(_FORMATS)}"
        )
    searcher = open_searcher(place)
    if request.top > searcher.gallery.rows:
        logger.warning(
            "the gallery has only %d rows, fewer than --top=%d",
            searcher.gallery.rows,
            request.top,
        )
    for query in asked:
        _warn_of_unknown(searcher, query)
    results = []
    for start in range(0, len(asked), _AT_ONCE):
        some = asked[start : start + _AT_ONCE]
        embedded = searcher.embed(some, name="the queries")
        found = searcher.search(embedded, request.top, request.threshold)
        results += zip(some, found, strict=True)
    if request.output:
        _write(searcher, results, request.output)
    else:
        for query, hits in results:
            _print(query, hits)
        sys.stdout.flush()


def _queries(request) -> list[Query]:
    parts = (request.texts, request.minus, request.photos, request.minus_photos)
    if not request.file:
        return [queries.combined(*map(list, parts))]
    if any(parts):
        raise InputError("--queries is set; leave out --query and the like")
    lines = read_lines(epath.Path(request.file).expanduser())
    return [queries.text_query(line) for line in lines]


def _warn_of_unknown(searcher, query):
    unknown = searcher.unknown_words(query)
    if not searcher.has_known_words(query):
        logger.warning(
            "%r: the model knows none of its words, so its results are arbitrary",
            query.name,
        )
    elif unknown:
        words = ", ".join(dict.fromkeys(unknown))
        logger.warning("%r: the model does not know the words %s", query.name, words)


def _print(query: Query, hits: Sequence[Hit]) -> None:
    """Prints a query and a line for each result."""
    print(_visible(query.name))
    if not hits:
        print("  nothing is that similar")
    width = shutil.get_terminal_size((100, 24)).columns
    for hit in hits:
        caption = f"  {' '.join(hit.captions[0].split())}" if hit.captions else ""
        line = f"{hit.rank:3}  {hit.score:6.3f}  "
        line += _visible(f"{hit.path or hit.id}{caption}")
        # A path is printed as a whole, so that it can be opened.
        print(line if hit.path or len(line) <= width else f"{line[: width - 3]}...")


def _visible(text: str) -> str:
    """Escapes line ends, and characters that would control a terminal.

    Spaces of all kinds stay, as a path needs them: macOS puts a narrow one into the
    names of screenshots.
    """
    return _CONTROL.sub(lambda m: m[0].encode("unicode_escape").decode(), text)


def _write(searcher: Searcher, results, output: str) -> None:
    path = epath.Path(output).expanduser()
    if output.endswith(".html"):
        text = sheet.page(searcher, results)
    else:
        text = "".join(f"{_as_json(searcher, *result)}\n" for result in results)
    with reporting_writes(os.fspath(path)):
        path.parent.mkdir(parents=True, exist_ok=True)
        with files.unfinished(path) as unfinished:
            # Names of files may be no UTF-8.
            unfinished.write_bytes(text.encode(errors="backslashreplace"))
    print(f"results: {path}", flush=True)


def _as_json(searcher, query, hits) -> str:
    fields = ("rank", "score", "id", "path", "captions")
    content = {
        "query": query.name,
        "unknown_words": searcher.unknown_words(query),
        "is_truncated": searcher.is_truncated(query),
        "hits": [{name: getattr(hit, name) for name in fields} for hit in hits],
    }
    return json.dumps(content, ensure_ascii=False)
