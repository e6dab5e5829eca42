"""Serves a gallery over HTTP: the program's `--mode=serve`."""

import functools
import socket
from collections.abc import Iterator

from PIL import Image

from vse_jax import compile_ahead
from vse_jax.compile_ahead import Compilation
from vse_jax.data.batch_options import token_lengths
from vse_jax.errors import InputError
from vse_jax.search.queries import Part, Query
from vse_jax.search.searcher import Searcher
from vse_jax.serving import descriptions, server
from vse_jax.serving.app import App
from vse_jax.serving.batcher import MAXIMUM_BATCH
from vse_jax.serving.guard import Guard
from vse_jax.serving.parameters import DEFAULT_RESULTS

_COUNTS = tuple(2**i for i in range(MAXIMUM_BATCH.bit_length()))  # of queries


def serve(searcher: Searcher, listener: socket.socket, host: str) -> int:
    """Serves the page and the endpoints until Ctrl-C or SIGTERM.

    Args:
      searcher: answers the queries.
      listener: where to listen, see `server.listen`.
      host: name or address of the listener, as clients may name it.

    Returns:
      The exit code, 128 plus the number of the signal.

    Raises:
      InputError: if the gallery is empty, or another process listens there by now.
    """
    gallery = searcher.gallery
    if not gallery.rows:
        raise InputError(f"{gallery.folder} has no rows; encode others")
    programs = list(programs_of(searcher))
    for program in programs[:1]:
        program.compile()
    app = Guard(App(searcher).router, host)

    def ready():
        url = server.url_of(listener)
        print(f"serving {gallery.rows:,} {gallery.content} at {url}", flush=True)
        compile_ahead.compile_in_background(programs[1:])

    return server.run(app, listener, ready)


def programs_of(searcher: Searcher) -> Iterator[Compilation]:
    """Yields the programs of all batches, those of the most common first.

    Each is compiled by answering queries of its shape.
    """
    kinds = descriptions.kinds_of_queries(searcher)
    queries = []
    if "text" in kinds:
        lengths = token_lengths(searcher.model.config)
        words = [max(1, length - 2) for length in lengths]
        queries += [Query((Part(1.0, text="a " * count),)) for count in words]
    if "photo" in kinds:
        queries.append(Query((Part(1.0, photo=Image.new("RGB", (64, 64))),)))
    for count in _COUNTS:
        for number, query in enumerate(queries):
            yield Compilation(
                f"{count} queries of kind {number}",
                functools.partial(_answer, searcher, [query] * count),
            )


def _answer(searcher, queries):
    searcher.search(searcher.embed(queries), DEFAULT_RESULTS)
