"""Serves a gallery over HTTP: the program's `--mode=serve`."""

import functools
from collections.abc import Callable, Iterator

from vse_jax import compile_ahead
from vse_jax.compile_ahead import Program
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


def serve(open_searcher: Callable[[], Searcher], host: str, port: int) -> int:
    """Serves the page and the endpoints until Ctrl-C or SIGTERM.

    Args:
      open_searcher: returns what answers the queries. It is called after the port was
        found to be free.
      host: name or address on which to listen.
      port: 0 for any that is free.

    Returns:
      The exit code, 128 plus the number of the signal.

    Raises:
      InputError: if the server cannot listen there, or the gallery is empty.
    """
    with server.listen(host, port) as listener:
        searcher = open_searcher()
        if not searcher.gallery.rows:
            raise InputError(
                f"{searcher.gallery.folder} has no rows; encode some first"
            )
        first, *others = programs_of(searcher)
        first.compile()
        app = Guard(App(searcher).router, host)

        def ready():
            rows = f"{searcher.gallery.rows:,} {searcher.gallery.content}"
            print(f"serving {rows} at {server.url_of(listener)}", flush=True)
            compile_ahead.compile_in_background(others)

        return server.run(app, listener, ready)


def programs_of(searcher: Searcher) -> Iterator[Program]:
    """Yields the programs of all batches, those of the most common first.

    Each is compiled by answering queries of its shape.
    """
    kinds = descriptions.kinds_of_queries(searcher)
    queries = []
    if "text" in kinds:
        lengths = token_lengths(searcher.model.config)
        queries += [Query((Part(1.0, text="a " * (size - 2)),)) for size in lengths]
    photo = searcher.picture(0) if "photo" in kinds else None
    if photo is not None:
        queries.append(Query((Part(1.0, photo=photo),)))
    for count in _COUNTS:
        for number, query in enumerate(queries):
            yield Program(
                f"{count} queries of kind {number}",
                functools.partial(_answer, searcher, [query] * count),
            )


def _answer(searcher, queries):
    searcher.search(searcher.embed(queries), DEFAULT_RESULTS)
