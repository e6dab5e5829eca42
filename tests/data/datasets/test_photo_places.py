"""Tests photos whose names differ from the listed names."""

import json
import os
import subprocess
import sys
import unicodedata

import pytest
from etils import epath

from vse_jax.data.datasets import image_folder, photo_places
from vse_jax.data.datasets.caption_files import Leniency
from vse_jax.errors import InputError


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "photos"
    root.mkdir()
    return epath.Path(root)


@pytest.fixture
def find(root):
    """Returns a function that writes files and returns where listed names are found."""

    def find(stored, listed, annotations="captions.jsonl"):
        for name in stored:
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(name)
        lines = [
            json.dumps({"image": n, "caption": "a", "split": "dev"}) for n in listed
        ]
        path = root / annotations
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join(lines))
        splits = image_folder.read_captions([path], root, Leniency())
        located = photo_places.locate(splits, root)["dev"]
        return [photo.reason or photo.path for photo in located]

    return find


def nfd(text):
    return unicodedata.normalize("NFD", text)


@pytest.mark.parametrize(
    ("stored", "listed"),
    [
        ("a.jpg", "a.jpg"),
        ("images/a.jpg", "a.jpg"),
        ("Images/a.jpg", "a.jpg"),
        ("train2017/a.jpg", "a.jpg"),
        ("images/val2014/a.jpg", "a.jpg"),
        ("Flicker8k_Dataset/a.jpg", "a.jpg"),
        ("flickr30k_images/flickr30k_images/a.jpg", "a.jpg"),
        ("images/sub/a.jpg", "sub/a.jpg"),
        ("sub/a.jpg", r"sub\a.jpg"),
        (r"sub\a.jpg", r"sub\a.jpg"),
        ("images/sub/a.jpg", r".\sub\a.jpg"),
        (nfd("café.jpg"), "café.jpg"),
        ("café.jpg", nfd("café.jpg")),
        (nfd("Fotos é/café.jpg"), "Fotos é/café.jpg"),
        (nfd("images/café.jpg"), "café.jpg"),
        ("a.JPG", "a.jpg"),
        ("A.jpg", "a.jpg"),
        ("Sub/A.JPG", "sub/a.jpg"),
        (nfd("CAFÉ.jpg"), "café.JPG"),
        ("STRASSE.jpg", "straße.jpg"),
        ("Images/A.jpg", "a.jpg"),
    ],
)
def test_unique_match_is_found(find, stored, listed):
    assert find([stored], [listed]) == [stored]


@pytest.mark.parametrize(
    ("stored", "listed", "found"),
    [
        (["a.jpg", "images/a.jpg", "A.jpg"], "a.jpg", "a.jpg"),
        (["é.jpg", nfd("é.jpg")], nfd("é.jpg"), nfd("é.jpg")),
        ([nfd("é.jpg"), nfd("É.jpg")], "é.jpg", nfd("é.jpg")),
        (["images/a.jpg", "A.jpg"], "a.jpg", "images/a.jpg"),
    ],
)
def test_the_closest_match_is_taken(find, stored, listed, found):
    assert find(stored, [listed]) == [found]


@pytest.mark.parametrize(
    ("stored", "listed"),
    [
        (["a.JPG", "A.jpg"], "a.jpg"),
        (["images/a.jpg", "train2017/a.jpg"], "a.jpg"),
        ([r"sub\a.jpg", "sub/a.jpg"], r"sub\a.jpg"),
        (["Sub/a.jpg", "SUB/a.jpg"], "sub/a.jpg"),
    ],
)
def test_several_matches_are_rejected(find, stored, listed):
    [reason] = find(stored, [listed])
    assert reason.startswith("2 files match it: ")
    assert all(name in reason for name in stored)


@pytest.mark.parametrize(
    "name", ["a.jpg", "sub/a.jpg", "x" * 300, "x" * 300 + "/a.jpg"]
)
def test_is_absent(find, name):
    assert find(["b.jpg", "other/a.jpg"], [name]) == ["it is absent"]


def test_a_folder_is_not_a_photo(find, root):
    (root / "a.jpg").mkdir()
    assert find(["images/a.jpg"], ["a.jpg"]) == ["images/a.jpg"]


def test_absolute_paths(find, root, tmp_path):
    os.symlink(root, tmp_path / "link")
    names = [root / "a.jpg", root / "sub" / ".." / "b.jpg", tmp_path / "link/c.jpg"]
    assert find(["a.jpg", "b.jpg", "c.jpg"], list(map(str, names))) == [
        "a.jpg",
        "b.jpg",
        "c.jpg",
    ]


def test_root_is_a_link(root, tmp_path):
    os.symlink(root, tmp_path / "link")
    link = tmp_path / "link"
    for name in (root / "a.jpg", link / "a.jpg"):
        assert photo_places.path_below_root(str(name), str(link)) == "a.jpg"


@pytest.mark.parametrize("root", ["gs://bucket/photos", "gs://bucket/photos/"])
def test_remote_root(root):
    assert photo_places.path_below_root("gs://bucket/photos/a.jpg", root) == "a.jpg"
    assert photo_places.path_below_root("gs://bucket/a.jpg", root) is None
    assert photo_places.path_below_root("/photos/a.jpg", root) is None


@pytest.mark.parametrize(
    "name",
    [
        "../a.jpg",
        "sub/../../a.jpg",
        r"..\a.jpg",
        r"sub\..\..\a.jpg",
        "/etc/passwd",
        "{root}/../a.jpg",
        "{root}2/a.jpg",
        "{root}",
        "http://host/a.jpg",
        ".",
    ],
)
def test_refuses_paths_outside_of_the_root(find, root, name):
    with pytest.raises(InputError, match="is outside of the folder"):
        find([], [name.format(root=root)])


def test_refuses_a_path_with_a_zero_byte(find):
    with pytest.raises(InputError, match="has the character NUL in its image"):
        find([], ["a\0.jpg"])


def test_beside_the_file_in_a_folder_of_its_own(find):
    found = find(["train/a.jpg", "b.jpg"], ["a.jpg", "b.jpg"], "train/metadata.jsonl")
    assert found == ["train/a.jpg", "b.jpg"]


@pytest.mark.parametrize(
    ("stored", "listed"),
    [
        ("a.jpg", ["a.jpg", "A.jpg"]),
        ("é.jpg", ["é.jpg", nfd("é.jpg")]),
        ("images/a.jpg", ["images/a.jpg", "a.jpg"]),
    ],
)
def test_refuses_two_names_of_one_file(find, stored, listed):
    with pytest.raises(InputError, match="expected one name per photo"):
        find([stored], listed)


def test_both_slashes_are_one_photo(find):
    assert find(["sub/a.jpg"], [r"sub\a.jpg", "sub/a.jpg"]) == ["sub/a.jpg"]


def test_names_are_utf8_in_any_locale(root):
    (root / "caf\u00e9").mkdir()
    (root / "caf\u00e9" / "\u00fc.jpg").write_text("x")
    program = f"""
import os
from etils import epath
from vse_jax.data.datasets import source_folder
root = epath.Path(os.fsdecode({os.fsencode(root)!r}))
assert os.fsencode(os.listdir(root)[0]) == "caf\\u00e9".encode()
path = "caf\\u00e9/\\u00fc.jpg"
assert source_folder.Listing(root).find(path)[0] == 1
assert source_folder.below(root, path).read_bytes() == b"x"
"""
    ascii_alone = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    subprocess.run(
        [sys.executable, "-c", program], check=True, env=os.environ | ascii_alone
    )
