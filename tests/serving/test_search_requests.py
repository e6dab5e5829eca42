"""Searches over HTTP, as the page and programs make them."""

import concurrent.futures
import io
import signal
import threading
import time
import urllib.parse

import numpy as np
import pytest
from PIL import Image

from tests.serving import served
from tests.serving.color_searcher import (
    COLORS,
    FAILING,
    MARKUP,
    SECRET,
    SLOW,
    SLOW_SECONDS,
    id_of,
    photo_of,
)
from vse_jax.serving import guard, parameters


@pytest.fixture(scope="module")
def server():
    with served.colors() as running:
        yield running


def first(answer):
    """Returns the name of the color that was found first."""
    assert answer.status == 200, answer.body
    return next(c for c in COLORS if answer.json["hits"][0]["id"] == id_of(c))


@pytest.mark.parametrize("color", COLORS)
def test_words_find_their_color(server, color):
    assert first(server.search(q=f"a {color} thing")) == color


def test_answer_describes_each_result(server):
    answer = server.search(q="red dragon", k=2).json
    best, second = answer["hits"]
    assert (best["rank"], second["rank"]) == (1, 2)
    assert best["score"] == pytest.approx(1)
    assert second["score"] < best["score"]
    assert best["captions"] == ["a red thing", MARKUP]
    assert best["row"] == 0
    assert answer["unknown_words"] == ["dragon"]
    assert answer["has_known_words"]
    assert not answer["is_truncated"]
    assert answer["rows"] == len(COLORS)
    assert answer["milliseconds"] > 0


def test_query_of_unknown_words_is_answered_and_says_so(server):
    answer = server.search(q="dragon dragon").json
    assert answer["unknown_words"] == ["dragon"]
    assert not answer["has_known_words"]


def test_query_that_is_too_long_is_answered_and_says_so(server):
    assert server.search(q="red " * 101).json["is_truncated"]


@pytest.mark.parametrize(
    ("parameters", "color"),
    [
        ({"q": ["red", "green"]}, "yellow"),
        ({"q": "yellow", "minus": "red"}, "green"),
        ({"q": ["red", "0.2:green"]}, "red"),
        ({"q": ["0.2:red", "green"]}, "green"),
        ({"like": id_of("blue")}, "blue"),
        ({"like": id_of("pink"), "unlike": id_of("blue")}, "red"),
        ({"like": id_of("blue"), "q": "red"}, "pink"),
    ],
)
def test_sums_and_differences(server, parameters, color):
    assert first(server.search(**parameters)) == color


def test_photo_is_the_whole_body_or_a_field_of_a_form(server):
    photo = photo_of(COLORS["cyan"], form="JPEG")
    assert first(server.upload(photo, "image/jpeg")) == "cyan"
    assert first(server.upload(photo, "application/octet-stream")) == "cyan"
    body, media_type = served.form(("photo", photo))
    assert first(server.upload(body, media_type)) == "cyan"


def test_photo_and_words(server):
    red, cyan = photo_of(COLORS["red"]), photo_of(COLORS["cyan"])
    body, media_type = served.form(("photo", red), ("q", "blue"))
    assert first(server.upload(body, media_type)) == "pink"
    assert first(server.upload(red, "image/png", q="green")) == "yellow"
    body, media_type = served.form(
        ("photo", cyan), ("minus_photo", photo_of((0, 0, 255)))
    )
    assert first(server.upload(body, media_type)) == "green"


def test_number_and_similarity_of_results(server):
    hits = server.search(q="red", k=3).json["hits"]
    assert len(hits) == 3
    assert len(server.search(q="red", k=1000).json["hits"]) == len(COLORS)
    scores = [hit["score"] for hit in server.search(q="red", k=6).json["hits"]]
    assert scores == sorted(scores, reverse=True)
    limit = (scores[2] + scores[3]) / 2
    assert len(server.search(q="red", threshold=limit).json["hits"]) == 3
    assert server.search(q="red", threshold=1.5).json["hits"] == []


@pytest.mark.parametrize(
    "text",
    [
        "réd \u202eder\u202c red",  # from right to left
        "red \U0001f9a9 \U0001f468\u200d\U0001f469",
        "red \x00 nul",
        "red \r\n\t \x7f",
        "红色 red ไทย 赤い",
        "red " + 200 * "a",
        "re\u0301d red",
    ],
)
def test_odd_unicode_is_answered(server, text):
    assert first(server.search(q=text)) == "red"


def test_halves_of_surrogate_pairs_are_answered(server):
    answer = server.request("/search?q=red+%ED%A0%80%FF")  # UTF-8 that is none
    assert first(answer) == "red"
    body, media_type = served.form(("q", "red \\ud800"), ("photo", photo_of((9, 9, 9))))
    odd = (
        body.replace(b'name="q"', b'name="q"'),
        media_type + "; charset=unicode_escape",
    )
    answer = server.upload(*odd)
    assert answer.status == 200
    assert len(answer.json["unknown_words"]) == 1


def test_pictures_are_small_jpegs_without_metadata(server):
    image = server.search(q="red", k=1).json["hits"][0]["image"]
    small, large = server.request(image), server.request(f"{image}?size=large")
    for answer, width in ((small, 480), (large, 1600)):
        assert answer.headers["content-type"] == "image/jpeg"
        with Image.open(io.BytesIO(answer.body)) as picture:
            assert picture.format == "JPEG"
            assert picture.width == width
            assert not picture.getexif()
            mean = np.asarray(picture).mean((0, 1))
        np.testing.assert_allclose(mean, COLORS["red"], atol=6)
        assert SECRET.encode() not in answer.body


def test_browsers_keep_pictures_until_they_change(server):
    image = f"/image/{urllib.parse.quote(id_of('red'), safe='')}"
    tag = server.request(image).headers["etag"]
    again = server.request(image, headers={"if-none-match": tag})
    assert (again.status, again.body) == (304, b"")
    other = f"/image/{urllib.parse.quote(id_of('blue'))}"
    assert server.request(other, headers={"if-none-match": tag}).status == 200


def test_gallery_is_described(server):
    described = server.request("/gallery").json
    assert described["rows"] == len(COLORS)
    assert described["content"] == "images"
    assert described["pictures"]
    assert described["queries"] == ["text", "photo", "like", "sum"]
    assert {sample["id"] for sample in described["samples"]} == set(map(id_of, COLORS))
    assert first(server.search(q=described["examples"][0])) in COLORS


def test_pages_load_nothing_from_elsewhere(server):
    for path in ("/", "/api", "/page.css", "/page.js", "/query.js", "/results.js"):
        answer = server.request(path)
        assert answer.status == 200
        assert b"//" not in answer.body.replace(b"http://127.0.0.1:8000", b"").replace(
            b"http://www.w3.org", b""
        ).replace(b"// ", b"")
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; ")
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"


def test_the_page_of_the_api_names_all_limits(server):
    page = " ".join(server.request("/api").body.decode().split())
    for limit in (
        f"{parameters.MAXIMUM_TEXT:,} characters",
        f"{parameters.MAXIMUM_PARTS} parts",
        f"1 to {parameters.MAXIMUM_RESULTS:,}",
        f"Default {parameters.DEFAULT_RESULTS}",
        f"{guard.MAXIMUM_BODY // 2**20} MiB",
        f"{guard.MAXIMUM_TARGET // 2**10} KiB",
    ):
        assert limit in page, limit


def test_head_has_no_body(server):
    answer = server.request("/health", "HEAD")
    assert (answer.status, answer.body) == (200, b"")
    assert answer.headers["content-length"] == str(len(server.request("/health").body))


def test_concurrent_clients_get_their_own_answers(server):
    colors = list(COLORS) * 30

    def search(color):
        return first(server.search(q=color))

    with concurrent.futures.ThreadPoolExecutor(40) as threads:
        assert list(threads.map(search, colors)) == colors


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)]
)
def test_end_after_the_answers_with_a_log_that_quotes_nothing(number, code):
    with served.colors() as running:
        assert running.search(q=f"{FAILING} private words").status == 500
        for media_type in ("image/jpeg", "multipart/form-data; boundary=limit"):
            assert running.upload(b"private words", media_type).status == 400
        running.request("/private%20words")
        answers = []

        def search():
            answers.append(running.search(q=f"{SLOW} blue"))

        threads = [threading.Thread(target=search) for _ in range(3)]
        for thread in threads:
            thread.start()
        time.sleep(SLOW_SECONDS / 2)
        finished = running.end(number)
        for thread in threads:
            thread.join()
    assert finished.returncode == code
    assert [first(answer) for answer in answers] == 3 * ["blue"]
    (line,) = finished.stderr.splitlines()
    assert "a request failed: RuntimeError at " in line
    assert "color_searcher.py" in line
    assert "private" not in line
    assert SECRET not in line
