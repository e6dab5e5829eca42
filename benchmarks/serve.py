"""Load on the HTTP server: concurrent clients that search by words.

    python -m benchmarks.serve [--tiny] [--clients=N] [--seconds=N] [--rows=N]

The model is RVSE++ with random parameters (`configs/f8k_rvse.py`, 512 dimensions), and
the gallery has 100,000 rows. The server and the clients are a process each, on the same
cores. Each client keeps one connection, asks for 24 results of a caption of 4 to 12
random words, and asks again as soon as it has the answer.

Prints queries a second, and the median and the 99th percentile of the time from a
request to its whole answer; the processor time of the server; requests without a
complete answer (lost); and, of 200 queries, answers that differ from those of the same
query when it is asked alone (wrong).
"""

import argparse
import asyncio
import contextlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import urllib.parse
from collections.abc import Iterator

import numpy as np

from benchmarks import sides, timing
from benchmarks.rvse_sizes import TINY, Sizes

CLIENTS, SECONDS, ROWS = 50, 60.0, 100_000
TINY_CLIENTS, TINY_SECONDS, TINY_ROWS = 8, 1.0, 2_000
WARM_SECONDS = 0.1  # of the load, before it is measured
CHECKED = 200  # queries


def random_model(is_tiny: bool):
    """Returns RVSE++ with random parameters."""
    import jax

    from configs import f8k_rvse
    from vse_jax import run_config
    from vse_jax.checkpoint import Restored
    from vse_jax.data.text.vocabulary import Vocabulary
    from vse_jax.models.vse import create_model
    from vse_jax.retrieval_model import RetrievalModel
    from vse_jax.train_step import init_variables

    config = f8k_rvse.get_config()
    sizes = TINY if is_tiny else Sizes(region_dim=256, embed_dim=512)
    config.dtype, config.data.region_dim = "float32", sizes.region_dim
    if is_tiny:
        config.data.token_lengths = (16,)  # for fewer programs
    config.model.embed_dim, config.model.word_dim = sizes.embed_dim, sizes.word_dim
    vocabulary = Vocabulary([word(i) for i in range(sizes.vocabulary_size)])
    batch = {
        "tokens": np.ones((1, 16), np.int32),
        "token_count": np.full(1, 16, np.int32),
        "regions": np.ones((1, 16, sizes.region_dim), np.float32),
        "region_count": np.full(1, 16, np.int32),
        "image_id": np.zeros(1, np.int32),
    }
    model = create_model(config, len(vocabulary), train=True)
    variables = jax.tree.map(np.asarray, init_variables(model, batch, seed=0))
    description = run_config.describe(config, vocabulary)
    description["digests"] = {"variables": "random"}
    return RetrievalModel(Restored(0, variables, {}, description, None, {}))


def word(number: int) -> str:
    """Returns a word of letters, which no tokenizer splits."""
    letters = [chr(ord("a") + number // 26**place % 26) for place in range(4)]
    return "".join(letters)


def write_gallery(folder: str, model, rows: int) -> None:
    from vse_jax.gallery.manifest import GalleryDescription
    from vse_jax.gallery.rows import Record
    from vse_jax.gallery.writer import GalleryWriter

    generator = np.random.default_rng(0)
    description = GalleryDescription(
        model.fingerprint, "cosine", "images", model.embed_dim, options={"source": ""}
    )
    embeddings = generator.standard_normal((rows, model.embed_dim), np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    records = [
        Record(f"{row}.jpg", captions=[f"caption {i} of {row}" for i in range(5)])
        for row in range(rows)
    ]
    with GalleryWriter(folder, description) as writer:
        writer.write(embeddings, records)


def serve(rows: int, is_tiny: bool) -> None:
    """Serves a random gallery, with all programs compiled; prints the URL."""
    from vse_jax.gallery.gallery import Gallery
    from vse_jax.search.searcher import Searcher
    from vse_jax.serving import serve as serving
    from vse_jax.serving import server
    from vse_jax.serving.app import App
    from vse_jax.serving.guard import Guard

    model = random_model(is_tiny)
    with tempfile.TemporaryDirectory() as folder:
        write_gallery(folder, model, rows)
        searcher = Searcher(model, Gallery.open(folder))
        for program in serving.programs_of(searcher):
            program.compile()
        listener = server.listen("127.0.0.1", 0)
        app = Guard(App(searcher).router, "127.0.0.1")
        url = server.url_of(listener)
        server.run(app, listener, lambda: print(url, flush=True))


class Load:
    """Clients that ask one query after the other, and what they saw."""

    def __init__(self, port: int, vocabulary_size: int):
        self._port, self._vocabulary_size = port, vocabulary_size
        self.seconds, self.answers, self.lost = [], {}, 0

    def run(self, clients: int, seconds: float) -> None:
        """Lets clients ask for some seconds."""
        self._end = time.perf_counter() + seconds
        asyncio.run(self._run(clients))

    async def _run(self, clients):
        await asyncio.gather(*map(self._client, range(clients)))

    async def _client(self, number):
        generator = np.random.default_rng([number, int(self._end)])
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        while time.perf_counter() < self._end:
            count = generator.integers(4, 13)
            numbers = generator.integers(self._vocabulary_size, size=count)
            query = " ".join(map(word, numbers))
            start = time.perf_counter()
            try:
                rows = await ask(reader, writer, query)
            except (OSError, EOFError, ValueError):
                self.lost += 1
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
                continue
            self.seconds.append(time.perf_counter() - start)
            if len(self.answers) < CHECKED:
                self.answers[query] = rows
        writer.close()

    def wrong(self) -> int:
        """Asks the first queries again, one at a time; counts other answers."""

        async def check():
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            found = {query: await ask(reader, writer, query) for query in self.answers}
            writer.close()
            return sum(found[query] != rows for query, rows in self.answers.items())

        return asyncio.run(check())


async def ask(reader, writer, query: str) -> list[int]:
    """Searches over a connection; returns the ten best rows."""
    path = f"/search?{urllib.parse.urlencode({'q': query})}"
    writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    length = int(head.partition("content-length: ")[2].partition("\r\n")[0])
    body = await reader.readexactly(length)
    if not head.startswith("http/1.1 200 "):
        raise ValueError(body)
    return [hit["row"] for hit in json.loads(body)["hits"][:10]]


@contextlib.contextmanager
def running_server(rows: int, is_tiny: bool) -> Iterator[tuple[int, int]]:
    """Starts the server in a process of its own; yields its port and its number."""
    options = ["--side=server", f"--rows={rows}", *(["--tiny"] if is_tiny else [])]
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.serve", *options],
        cwd=sides.REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        url = process.stdout.readline().strip()
        if not url:
            raise SystemExit(f"the server ended with {process.wait()}")
        yield urllib.parse.urlsplit(url).port, process.pid
    finally:
        process.terminate()
        process.wait()


def processor_seconds(process: int) -> float:
    """Returns the seconds that a process has computed, on Linux; otherwise 0."""
    status = pathlib.Path(f"/proc/{process}/stat")
    if not status.exists():
        return 0.0
    fields = status.read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help=f"{TINY_ROWS:,} rows")
    parser.add_argument("--clients", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=0)
    parser.add_argument("--rows", type=int, default=0, help="rows of the gallery")
    parser.add_argument("--side", choices=["server"], help=argparse.SUPPRESS)
    given = parser.parse_args()
    rows = given.rows or (TINY_ROWS if given.tiny else ROWS)
    if given.side:
        serve(rows, given.tiny)
        return
    clients = given.clients or (TINY_CLIENTS if given.tiny else CLIENTS)
    seconds = given.seconds or (TINY_SECONDS if given.tiny else SECONDS)
    sizes = TINY if given.tiny else Sizes()
    with running_server(rows, given.tiny) as (port, process):
        Load(port, sizes.vocabulary_size).run(clients, WARM_SECONDS * seconds)
        load = Load(port, sizes.vocabulary_size)
        computed = -processor_seconds(process)
        load.run(clients, seconds)
        computed += processor_seconds(process)
        wrong = load.wrong()
    times = 1000 * np.array(load.seconds)
    row = {
        "clients": clients,
        "rows": rows,
        "seconds": seconds,
        "answers": len(times),
        "queries/s": len(times) / seconds,
        "p50 ms": np.percentile(times, 50),
        "p99 ms": np.percentile(times, 99),
        "slowest ms": times.max(),
        "server CPU ms a query": 1000 * computed / len(times),
        "lost": load.lost,
        "wrong": wrong,
    }
    timing.print_table([row])
    print(f"\n{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
