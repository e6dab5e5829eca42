import csv
import io
import json

import pytest

from tests.photo_files import drawn, encoded
from tests.refusals import assert_refused
from vse_jax.data import datasets, split_index
from vse_jax.data.datasets import image_folder

NAMES = ["b.jpg", "sub/a.png", "c ü.jpg"]


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "source"
    (root / "sub").mkdir(parents=True)
    for number, name in enumerate(NAMES):
        kind = "PNG" if name.endswith("png") else "JPEG"
        (root / name).write_bytes(encoded(drawn(20, 20, number), kind))
    return root


@pytest.fixture
def data(data):
    data.builder = "image_folder"
    return data


def write_csv(root, rows, columns=("image", "caption"), name="captions.csv"):
    stream = io.StringIO()
    csv.writer(stream).writerows([columns, *rows])
    (root / name).write_bytes(stream.getvalue().encode())
    return root / name


def write_jsonl(root, rows, columns=("image", "caption"), name="captions.jsonl"):
    lines = [json.dumps(dict(zip(columns, row, strict=True))) for row in rows]
    (root / name).write_text("\n".join(lines) + "\n")
    return root / name


WRITERS = pytest.mark.parametrize("write", [write_csv, write_jsonl])


def contents(builder):
    """Captions of each image, by split."""
    found = {}
    for split in builder.info.splits:
        index = split_index.split_index(builder, split)
        found[split] = {
            image_id: index.captions[slice(*index.caption_offset[i : i + 2])]
            for i, image_id in enumerate(index.image_ids)
        }
    return found


@WRITERS
def test_rows_of_an_image_need_not_be_adjacent(root, data, write):
    rows = [
        ("sub/a.png", 'one, with "quotes"', "train"),
        ("b.jpg", "two", "dev"),
        ("./sub/a.png", " three\u2028and more ", "train"),
        ("c ü.jpg", "vier", "train"),
    ]
    write(root, rows, ("image", "caption", "split"))
    assert contents(datasets.prepare(data)) == {
        "train": {
            "sub/a.png": ['one, with "quotes"', "three\u2028and more"],
            "c ü.jpg": ["vier"],
        },
        "dev": {"b.jpg": ["two"]},
    }


def test_byte_order_mark_blank_lines_and_other_columns(root, data):
    text = '\ufeffid, caption ,image\r\n1,"a\ncaption",b.jpg\r\n\r\n2,more,b.jpg\r\n'
    (root / "captions.csv").write_bytes(text.encode())
    found = contents(datasets.prepare(data))
    assert found == {
        image_folder.hashed_split("b.jpg"): {"b.jpg": ["a\ncaption", "more"]}
    }


def test_splits_by_hash():
    names = [f"photos/{number}.jpg" for number in range(4000)]
    splits = [image_folder.hashed_split(name) for name in names]
    assert abs(splits.count("train") - 3200) < 120
    assert abs(splits.count("dev") - 400) < 90
    assert splits.count("train") + splits.count("dev") + splits.count("test") == 4000
    # Pinned, as other splits in another version would leak test photos into training.
    assert [i for i in range(30) if splits[i] == "test"] == [6, 27, 29]


@WRITERS
def test_without_split_column(root, data, write):
    write(root, [(name, "words") for name in NAMES])
    found = contents(datasets.prepare(data))
    for split, images in found.items():
        assert all(image_folder.hashed_split(name) == split for name in images)
    assert sum(map(len, found.values())) == 3


def test_annotations_name_the_file(root, data, tmp_path):
    write_csv(root, [("b.jpg", "words")])
    write_jsonl(root, [("b.jpg", "other words")])
    assert_refused(
        data, root, "found captions.csv, captions.jsonl", "config.data.annotations"
    )
    data.annotations = "captions.jsonl"
    [[captions]] = [s.values() for s in contents(datasets.prepare(data)).values()]
    assert captions == ["other words"]
    data.annotations = str(write_csv(tmp_path, [("b.jpg", "third")], name="my.csv"))
    [[captions]] = [s.values() for s in contents(datasets.prepare(data)).values()]
    assert captions == ["third"]


def test_photo_with_any_damage_is_skipped(root, data, caplog):
    write_csv(
        root,
        [(name, "words", "train") for name in NAMES],
        ("image", "caption", "split"),
    )
    (root / "sub" / "a.png").unlink()
    data.allowed_missing = 0.4
    found = contents(datasets.prepare(data))
    assert list(found["train"]) == ["b.jpg", "c ü.jpg"]
    assert "sub/a.png (train): it is absent" in caplog.text


def test_refuses_a_folder_without_captions(root, data):
    assert_refused(data, root, "captions.csv or captions.jsonl", "found none")


@WRITERS
@pytest.mark.parametrize(
    ("rows", "line", "words"),
    [
        ([("b.jpg", "a", "train"), ("b.jpg", " ", "train")], 2, ["empty caption"]),
        ([("b.jpg", "a", "train"), ("", "a", "train")], 2, ["empty image"]),
        ([("b.jpg", "a", "")], 1, ["empty split"]),
        ([("b.jpg", "a", "training")], 1, ["'training'", "train, restval, dev"]),
        (
            [("b.jpg", "a", "dev"), ("c", "a", "dev"), ("b.jpg", "a", "test")],
            3,
            ["b.jpg", "'test'", "'dev'", "one split"],
        ),
        ([("../b.jpg", "a", "dev")], 1, ["'../b.jpg'", "is outside"]),
        ([("/b.jpg", "a", "dev")], 1, ["'/b.jpg'", "is outside"]),
        ([("sub/../../b.jpg", "a", "dev")], 1, ["is outside"]),
    ],
)
def test_refuses_rows(root, data, write, rows, line, words):
    path = write(root, rows, ("image", "caption", "split"))
    number = line + (write is write_csv)  # the header
    assert_refused(data, f"{path}: line {number} ", *words)


@WRITERS
@pytest.mark.parametrize("column", ["image", "caption"])
def test_refuses_a_missing_column(root, data, write, column):
    left = "caption" if column == "image" else "image"
    path = write(root, [("b.jpg",)], (left,))
    assert_refused(data, f"{path}: line 1 has no {column} column (found: {left})")


@pytest.mark.parametrize("content", ["", "image,caption\n", "\n\n"])
@pytest.mark.parametrize("name", ["captions.csv", "captions.jsonl"])
def test_refuses_no_rows(root, data, content, name):
    if name.endswith("jsonl"):
        content = "\n"
    (root / name).write_text(content)
    assert_refused(data, root / name, "has no rows")


def test_refuses_wrong_number_of_fields(root, data):
    path = root / "captions.csv"
    path.write_text("image,caption\nb.jpg,a dog, running\n")
    assert_refused(data, f"{path}: line 2 has 3 fields; expected 2", "quotes")


def test_refuses_an_open_quote(root, data):
    path = root / "captions.csv"
    path.write_text('image,caption\nb.jpg,a\nb.jpg,"open\n')
    assert_refused(data, f"{path}: line 3 is not valid CSV")


@pytest.mark.parametrize("name", ["captions.csv", "captions.jsonl"])
def test_refuses_text_that_is_not_utf8(root, data, name):
    (root / name).write_bytes("image,caption\nb.jpg,Café\n".encode("latin1"))
    assert_refused(data, f"{root / name}: line 2 is not UTF-8 (byte 0xe9)", "iconv")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", ["is not valid JSON"]),
        ("[" * 100_000, ["is not valid JSON"]),
        ("[1]", ["a JSON object"]),
        ('{"image": "b.jpg", "caption": ["a", 1]}', ["caption that is not a string"]),
        (r'{"image": "b.jpg", "caption": "a \ud83d"}', ["caption with half a char"]),
        (r'{"image": "b.jpg", "caption": "a \u0000"}', ["NUL in its caption"]),
        (r'{"image": "b\u0000.jpg", "caption": "a"}', ["NUL in its image"]),
        (r'{"image": "\udc00.jpg", "caption": "a"}', ["image with half a character"]),
        ('{"image": "b.jpg", "caption": "a", "split": "dev"}', ["split", "in none"]),
    ],
)
def test_refuses_json_lines(root, data, line, words):
    path = root / "captions.jsonl"
    path.write_text('{"image": "b.jpg", "caption": "a"}\n\n' + line + "\n")
    assert_refused(data, f"{path}: line 3 ", *words)


def test_refuses_a_row_without_the_split_that_others_have(root, data):
    path = root / "captions.jsonl"
    first = {"image": "b.jpg", "caption": "a", "split": "dev"}
    path.write_text(f'{json.dumps(first)}\n{{"image": "b.jpg", "caption": "a"}}\n')
    assert_refused(data, f"{path}: line 2 has no split, but the rows above have one")


def test_refuses_captions_of_other_photos(root, data):
    write_csv(root, [("x.jpg", "a"), ("y.jpg", "a")])
    assert_refused(data, root, "none of the photos that captions.csv lists")
