"""Runs of main.py: --mode=serve on the drawn scenes of a run, as a user does."""

import concurrent.futures
import contextlib
import signal
import socket
import types

import numpy as np
import pytest

from configs import common
from tests import programs
from tests.serving import served
from vse_jax.errors import InputError
from vse_jax.serving import descriptions, serve, server

WORDS = ("a red circle", "blue", "a star above a big green square", "xyz", "a disc")


def test_every_length_of_captions_is_compiled(monkeypatch):
    """Also one that holds the start and the end of a caption alone."""
    config = common.get_config()
    config.data.token_lengths = (2, 16)
    searcher = types.SimpleNamespace(model=types.SimpleNamespace(config=config))
    monkeypatch.setattr(descriptions, "kinds_of_queries", lambda searcher: ["text"])
    asked = []
    monkeypatch.setattr(
        serve, "_answer", lambda searcher, queries: asked.append(queries)
    )
    for program in serve.programs_of(searcher):
        program.compile()
    words = {query.check().name.count("a") for queries in asked for query in queries}
    assert words == {1, 14}


def start(workdir, *options):
    return programs.start("--mode=serve", f"--workdir={workdir}", *options)


@pytest.fixture(scope="module")
def serving(scene_run):
    process = start(scene_run[0], "--port=0")
    with served.ending(process):
        what, _, url = served.first_line(process).partition(" at ")
        assert what == "serving 10 images"
        yield served.Served(process, url)


@pytest.fixture(scope="module")
def embedded(scene_run, scene_model):
    """The scenes of the test split, `[10, 64, 64, 3]`, and their embeddings."""
    source = scene_run[1].builder.as_data_source("test")
    scenes = np.stack([source[i]["image"] for i in range(len(source))])
    return scenes, scene_model.embed_images(scenes)


def test_scores_are_products_of_embeddings(serving, scene_model, embedded):
    with concurrent.futures.ThreadPoolExecutor(10) as threads:
        answers = list(
            threads.map(lambda text: serving.search(q=text, k=10).json, WORDS * 4)
        )
    expected = embedded[1] @ scene_model.embed_captions(WORDS * 4).T
    for answer, scores in zip(answers, expected.T, strict=True):
        found = [(hit["row"], hit["score"]) for hit in answer["hits"]]
        assert sorted(row for row, _ in found) == list(range(10))
        for row, score in found:
            assert score == pytest.approx(scores[row], abs=2e-3)  # stored in float16
    assert answers[3]["unknown_words"] == ["xyz"]
    assert not answers[3]["has_known_words"]


def test_a_scene_finds_itself(serving, embedded):
    image = serving.search(q="a star", k=1).json["hits"][0]
    picture = serving.request(image["image"]).body
    best = serving.upload(picture, "image/jpeg", k=1).json["hits"][0]
    assert best["row"] == image["row"]
    assert best["score"] > 0.99
    alike = serving.search(like=image["id"], k=1).json["hits"][0]
    assert (alike["row"], alike["score"]) == (image["row"], pytest.approx(1, abs=2e-3))


def test_port_in_use_is_one_line(serving, scene_run):
    refused = programs.finish(start(scene_run[0], f"--port={serving.port}"))
    line = programs.refusal(refused)
    assert line == (
        f"error: port {serving.port} is in use; choose another by --port, or --port=0 "
        "for any"
    )
    assert refused.stdout == ""


def test_it_ends_by_sigterm(serving):
    finished = serving.end(signal.SIGTERM)
    assert finished.returncode == 143
    assert "error" not in finished.stderr
    assert "Traceback" not in finished.stderr


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0"])
def test_port_that_is_bound_first(host):
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as other:
        port = other.getsockname()[1]
        with pytest.raises(InputError, match=f"port {port} is in use; choose another"):
            server.listen(host, port)


@pytest.mark.parametrize(
    ("host", "message"),
    [
        ("no.such.host.invalid", "--host=no.such.host.invalid is not known"),
        ("", "--host is empty"),
        ("a..b", "--host=a..b is not known"),
        ("192.0.2.1", "--host=192.0.2.1 is not an address of this machine"),
    ],
)
def test_host_that_is_not_here(host, message):
    with pytest.raises(InputError, match=message):
        server.listen(host, 0)


def test_url_of_each_kind_of_address():
    with server.listen("127.0.0.1", 0) as listener:
        assert server.url_of(listener).startswith("http://127.0.0.1:")
    if not socket.has_ipv6:
        pytest.skip("there is no IPv6")
    try:
        listener = server.listen("::1", 0)
    except InputError:
        pytest.skip("there is no IPv6")
    with listener:
        assert server.url_of(listener).startswith("http://[::1]:")
