"""Runs of main.py: --mode=encode and --mode=search, as a user does."""

import json
import os
import re
import shutil

import numpy as np
import pytest

import vse_jax
from configs import common
from tests import host_processes, photo_files, programs, saved_runs
from vse_jax.errors import InputError
from vse_jax.gallery.gallery import Gallery
from vse_jax.search import search_mode
from vse_jax.search.open_gallery import Place, open_searcher
from vse_jax.search.queries import text_query
from vse_jax.search.search_mode import Request
from vse_jax.search.searcher import Hit

QUERY = "--query=a red circle above a blue square"


@pytest.fixture(scope="module")
def workdir(scene_run):
    return scene_run[0]


def run(*options):
    return programs.finish(programs.start(*options))


@pytest.fixture(scope="module")
def place(workdir):
    options = common.get_config().gallery
    return Place(str(workdir), "best", "", "", "", {}, options)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    root = tmp_path_factory.mktemp("photos")
    for number in range(6):
        photo_files.drawn(80, 64, number).save(root / f"{number}.jpg")
    (root / "bad.jpg").write_text("no photo")
    return root


def test_the_scenes_of_the_test_split_can_be_searched_at_once(workdir):
    finished = run("--mode=search", f"--workdir={workdir}", QUERY, "--top=3")
    assert finished.returncode == 0, finished.stderr
    lines = finished.stdout.splitlines()
    assert lines[0] == "a red circle above a blue square"
    scores = [
        float(re.fullmatch(r" +\d  +(-?[\d.]+)  test.*", li)[1]) for li in lines[1:]
    ]
    assert len(scores) == 3
    assert scores == sorted(scores, reverse=True)


def test_a_folder_of_photos_from_encoding_to_results(workdir, photos, tmp_path):
    gallery = tmp_path / "gallery"
    place = [f"--workdir={workdir}", f"--gallery={gallery}"]
    finished = run("--mode=encode", *place, f"--source={photos}")
    assert finished.returncode == 0, finished.stderr
    assert "rows:     6 images" in finished.stdout
    assert "added 6, dropped 0, skipped 1" in finished.stdout
    assert f"skipping {photos / 'bad.jpg'}: " in finished.stderr

    output = tmp_path / "results.jsonl"
    # The name of a photo may be no UTF-8.
    odd = os.fsdecode(os.fsencode(photos) + b"/caf\xe9")
    shutil.copy(photos / "0.jpg", odd)
    finished = run(
        "--mode=search", *place, f"--query_image={odd}", f"--output={output}"
    )
    os.remove(odd)
    assert finished.returncode == 0, finished.stderr
    assert json.loads(output.read_text())["query"].endswith("caf\udce9")

    queries = tmp_path / "queries.txt"
    queries.write_text("a dog\na red star xyz\n")
    finished = run(
        "--mode=search", *place, f"--queries={queries}", f"--output={output}", "--top=9"
    )
    assert finished.returncode == 0, finished.stderr
    assert "the gallery has only 6 rows, fewer than --top=9" in finished.stderr
    assert "'a red star xyz': the model does not know the words xyz" in finished.stderr
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert [line["query"] for line in lines] == ["a dog", "a red star xyz"]
    assert lines[1]["unknown_words"] == ["xyz"]
    assert not lines[1]["is_truncated"]
    paths = {hit["path"] for hit in lines[0]["hits"]}
    assert paths == {str(photos / f"{number}.jpg") for number in range(6)}

    sheet = tmp_path / "results.html"
    finished = run(
        "--mode=search",
        *place,
        f"--query_image={photos / '3.jpg'}",
        "--minus=0.001:<b>qwerty</b>",
        f"--output={sheet}",
    )
    assert finished.returncode == 0, finished.stderr
    page = sheet.read_text()
    assert page.count("<img ") == page.count("data:image/jpeg;base64,") == 6
    assert "&lt;b&gt;qwerty" in page
    assert "<b>" not in page
    assert page.index('alt="3.jpg"') < min(page.index(f'alt="{i}.jpg"') for i in (0, 1))
    assert "http" not in page


def test_captions_of_a_text_file_for_a_photo(workdir, photos, tmp_path):
    texts = tmp_path / "captions.txt"
    texts.write_text("a red circle\na blue star\n")
    finished = run(
        "--mode=search",
        f"--workdir={workdir}",
        f"--source={texts}",
        f"--query_image={photos / '0.jpg'}",
    )
    assert finished.returncode == 0, finished.stderr
    assert len(finished.stdout.splitlines()) == 3
    assert "a blue star" in finished.stdout


def test_printed_paths_can_be_opened_and_control_no_terminal(capsys):
    path = "/photos/shot  10.15\u202fAM\x1b[31m\n.png"
    hits = [
        Hit(1, 0.5, 0, "a", path, []),
        Hit(2, 0.25, 1, "b\x07", None, ["a  dog\nruns \x9b"]),
    ]
    search_mode._print(text_query("a\ndog"), hits)
    assert capsys.readouterr().out.split("\n") == [
        r"a\ndog",
        "  1   0.500  /photos/shot  10.15\u202fAM\\x1b[31m\\n.png",
        r"  2   0.250  b\x07  a dog runs \x9b",
        "",
    ]


NOTHING = Request((), (), (), (), "", 5, None, "")


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({}, "the query is empty; expected words or a photo"),
        ({"texts": [" "]}, "the query is empty; expected at least one word"),
        ({"texts": ["a"], "file": "x.txt"}, "--queries is set; leave out --query"),
        ({"file": "no.txt"}, "no.txt: cannot be read"),
        ({"texts": ["a"], "threshold": np.nan}, "--threshold is nan; expected a num"),
        ({"texts": ["a"], "output": "x.csv"}, "--output is x.csv; expected a file"),
        ({"photos": ["no.jpg"]}, "no.jpg: No such file"),
    ],
)
def test_invalid_requests_are_reported(place, request_, message):
    with pytest.raises(InputError, match=message):
        search_mode.search(place, NOTHING._replace(**request_))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source": "no/such"}, "--source=no/such: there is no such folder or file"),
        ({"source": "nothing"}, "there is no split 'nothing'; expected one of train"),
        ({"gallery": "no/such"}, "no/such: is not a gallery"),
        ({"source": "tests", "content": "captions"}, "--content is captions, but"),
    ],
)
def test_invalid_places_are_reported(place, options, message):
    with pytest.raises(InputError, match=message):
        open_searcher(place._replace(**options))


def test_folder_that_is_named_like_a_split(
    place, photos, tmp_path, monkeypatch, caplog
):
    (tmp_path / "test").symlink_to(photos)
    monkeypatch.chdir(tmp_path)
    searcher = open_searcher(place._replace(source="test"))
    assert searcher.gallery.rows == 6
    assert f"--source=test is taken for {tmp_path / 'test'}, not for" in caplog.text


def test_content_of_a_gallery_is_not_another(place, tmp_path):
    open_searcher(place._replace(source="test", gallery=str(tmp_path)))
    with pytest.raises(InputError, match=r"--content is captions, but .* has images"):
        open_searcher(place._replace(gallery=str(tmp_path), content="captions"))


def test_overridden_options_have_an_effect_or_are_refused(place):
    place = place._replace(source="test")
    searcher = open_searcher(place._replace(overrides={"evaluation_batch_size": 24}))
    assert searcher.model.config.evaluation_batch_size == 24
    with pytest.raises(InputError, match="crops is 10, but photos of a gallery"):
        open_searcher(place._replace(overrides={"data.crops": 10}))


def test_each_checkpoint_has_its_own_gallery(place, scene_run, tmp_path):
    config = scene_run[1].config.copy_and_resolve_references()
    for config.seed, step in enumerate((1, 2)):
        saved_runs.save(tmp_path, config, step)
    place = place._replace(workdir=str(tmp_path))
    first, latest = (
        open_searcher(place._replace(checkpoint=name)).gallery for name in ("1", "2")
    )
    assert first.folder != latest.folder
    assert first.model != latest.model
    assert first.rows == latest.rows == 10


def test_copies_of_a_remote_gallery_are_where_the_option_says(place, bucket, tmp_path):
    copies = tmp_path / "copies"
    place = place._replace(
        gallery=str(bucket / "gallery"),
        source="test",
        overrides={"data.local_copy": str(copies)},
    )
    searcher = open_searcher(place)
    embedded = searcher.embed([text_query("a star")])
    assert len(searcher.search(embedded, 3)[0]) == 3
    suffixes = sorted(path.suffix for path in (copies / "galleries").iterdir())
    assert suffixes == [".npy", ".parquet"]


def test_invalid_input_is_reported_in_one_line(workdir):
    finished = run("--mode=search", f"--workdir={workdir}", "--query= ")
    assert finished.returncode == 2
    (line,) = [li for li in finished.stderr.splitlines() if li.startswith("error:")]
    assert line == "error: the query is empty; expected at least one word"
    assert "Traceback" not in finished.stderr


def test_two_processes_encode_the_gallery_of_one(workdir, photos, tmp_path):
    def start(*options, **popen):
        place = [f"--workdir={workdir}", f"--source={photos}"]
        return programs.start("--mode=encode", *place, *options, **popen)

    for name in ("first", "again"):
        options = [f"--gallery={tmp_path / 'two'}", "--config.gallery.dtype=float32"]
        primary, other = host_processes.Hosts(start).run(*options)
        assert (primary.returncode, other.returncode) == (0, 0), primary.stderr
        assert "rows:     6 images" in primary.stdout, name
        assert not other.stdout
    gallery = Gallery.open(tmp_path / "two")
    assert gallery.complete
    assert len(list((tmp_path / "two").glob("*.npy"))) == 1  # small shards are joined
    paths = [record.path for record in gallery.rows_at(range(gallery.rows))]
    assert sorted(paths) == sorted(str(photos / f"{i}.jpg") for i in range(6))
    expected = vse_jax.load(workdir).embed_images(paths)
    np.testing.assert_allclose(gallery.embeddings_at(range(6)), expected, atol=1e-6)
