"""Tests captions files of all supported forms, without decoding photos."""

import csv
import io
import json

import pytest
from etils import epath

from vse_jax.data.datasets import caption_files, image_folder
from vse_jax.data.datasets.caption_files import Leniency
from vse_jax.errors import InputError

ROWS = [
    ("a.jpg", 'a "dog", running; or | not', "train"),
    ("a.jpg", "ein Hünd", "train"),
    ("b.jpg", "a\tcat", "test"),
]
EXPECTED = [(image, [caption], split) for image, caption, split in ROWS]


@pytest.fixture
def read(tmp_path):
    """Returns a function that reads image, captions and split of a file's rows."""

    def read(content, name="captions.csv", **leniency):
        path = epath.Path(tmp_path) / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        rows = caption_files.read_rows(path, Leniency(**leniency))
        return [(row.image.strip(), row.captions, row.split) for row in rows]

    return read


@pytest.fixture
def refusal(read):
    """Returns a function that returns the error message for a file."""

    def refusal(*args, **options):
        with pytest.raises(InputError) as error:
            read(*args, **options)
        message = str(error.value)
        assert "\n" not in message
        assert len(message) < 600
        return message

    return refusal


def table(rows=ROWS, header=("image", "caption", "split"), **form):
    stream = io.StringIO()
    csv.writer(stream, **form).writerows([header, *rows])
    return stream.getvalue()


@pytest.mark.parametrize("delimiter", list(",;\t|"))
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
def test_delimiters_and_encodings(read, delimiter, encoding, quoting):
    text = table(delimiter=delimiter, quoting=quoting)
    assert read(text.encode(encoding), name="captions.txt") == EXPECTED


@pytest.mark.parametrize("mark", [b"\xfe\xff", b"\0\0\xfe\xff"])
def test_big_endian_text(read, mark):
    encoding = "utf-16-be" if len(mark) == 2 else "utf-32-be"
    assert read(mark + table().encode(encoding)) == EXPECTED


@pytest.mark.parametrize(
    "encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"]
)
@pytest.mark.parametrize(
    "words",
    [
        "a dog",
        "\u4e00\u53ea\u72d7\u8349\u5730" * 9,
        "\u0441\u043e\u0431\u0430\u043a\u0430" * 99,
    ],
)
def test_refuses_wide_text_without_a_mark(refusal, encoding, words):
    content = table([("a.jpg", words, "dev")]).encode(encoding)
    assert (
        f"iconv -f {encoding.replace('-le', 'le').replace('-be', 'be')} -t utf-8"
        in (refusal(content))
    )


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (table().encode("latin1"), "line 3 is not UTF-8 (byte 0xfc)"),
        ("image,caption\na.jpg,\u201eHund\u201c\n".encode("cp1252"), "iconv -f cp1252"),
        ("\ufeffimage,caption".encode("utf-16-le") + b"\0", "mark of UTF-16"),
        (b"PK\3\4xlsx", "export a CSV"),
        (b"\x1f\x8bgzip", "gzip"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF", "is a photo (JPEG); expected a text file"),
    ],
)
def test_refuses_other_encodings(refusal, content, words):
    assert words in refusal(content)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_carriage_returns_alone_end_lines(read, encoding):
    assert read(table(lineterminator="\r").encode(encoding)) == EXPECTED
    rows = [("a.jpg#0", "a dog"), ("a.jpg#1", "a cat"), ("b.jpg#0", "a bird")]
    tokens = "".join(f"{image}\t{caption}\r" for image, caption in rows)
    found = read(tokens.encode(encoding), name="Flickr8k.token.txt")
    assert found == [(image[:-2], [caption], None) for image, caption in rows]
    lines = json_lines(*({"image": i, "caption": c} for i, c in rows))
    found = read(lines.replace("\n", "\r"), name="captions.jsonl")
    assert found == [(image, [caption], None) for image, caption in rows]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@pytest.mark.parametrize("caption", ["a\0dog", "\0", "a dog\0"])
def test_zero_byte_is_named_by_its_line(refusal, encoding, caption):
    text = table([*ROWS, ("c.jpg", caption, "dev")], lineterminator="\n")
    message = refusal(text.encode(encoding))
    assert "line 5 has a zero byte" in message
    assert "UTF-16" not in message


@pytest.mark.parametrize(
    "image",
    ["image", "image_name", "file_name", "filename", "filepath", "IMG", "File Name "],
)
@pytest.mark.parametrize(
    "caption", ["caption", "comment", "text", "title", "raw", " Caption", "TEXT"]
)
def test_names_of_columns(read, image, caption):
    text = table([(1, "x", "a.jpg", "train")], ("id", caption, image, "Split"))
    assert read(text) == [("a.jpg", ["x"], "train")]


@pytest.mark.parametrize(
    "header",
    [
        ("caption", "caption", "caption"),
        ("caption_0", "caption_1", "caption_2"),
        ("caption1", "caption2", "Caption3"),
        ("caption", "caption.1", "caption.2"),
        ("text", "text 2", "text-3"),
    ],
)
def test_every_column_of_captions_is_read(read, header):
    rows = [("a.jpg", "one", "two", "three"), ("b.jpg", "", "zwei", " ")]
    found = read(table(rows, ("image", *header)))
    assert found == [
        ("a.jpg", ["one", "two", "three"], None),
        ("b.jpg", ["zwei"], None),
    ]


@pytest.mark.parametrize("name", ["captions", "caption", "raw", "sentences"])
@pytest.mark.parametrize(
    "cell",
    [
        '["it\'s one", "two, \\u00fc", "x]"]',
        "[\"it's one\", 'two, \u00fc', 'x]']",
        "['it\\'s one',\n 'two, \u00fc', 'x]',]",
    ],
)
def test_lists_in_a_cell(read, name, cell):
    found = read(table([("a.jpg", cell)], ("image", name)))
    assert found == [("a.jpg", ["it's one", "two, \u00fc", "x]"], None)]


@pytest.mark.parametrize("cell", ["['one' 'two']", "['one', 2]", '["one', "['a', b']"])
def test_refuses_broken_lists_in_a_cell(refusal, read, cell):
    text = table([("a.jpg", cell)], ("image", "captions"))
    if not cell.endswith("]"):
        assert read(text) == [("a.jpg", [cell], None)]
        return
    assert "line 2" in refusal(text)


def test_brackets_are_part_of_a_caption(read):
    cells = ["[a man] on a horse", "[laughs]", "a [sic] dog"]
    found = read(table([("a.jpg", cell) for cell in cells], ("image", "caption")))
    assert [captions for _, captions, _ in found] == [[cell] for cell in cells]


@pytest.mark.parametrize(
    ("header", "names"),
    [
        (("image", "file_name", "caption"), ("'image'", "'file_name'")),
        (("image", "image", "caption"), ("'image' and 'image'",)),
        (("image", "caption", "text"), ("'caption'", "'text'")),
        (("image", "caption", "captions"), ("'caption'", "'captions'")),
        (("image", "Title_1", "raw"), ("'Title_1'", "'raw'")),
        (("image", "caption", "split", "SPLIT"), ("'split'", "'SPLIT'")),
    ],
)
@pytest.mark.parametrize("name", ["captions.csv", "captions.jsonl"])
def test_refuses_ambiguous_headers(refusal, header, names, name):
    if name.endswith("jsonl"):
        if len(set(header)) < len(header):
            return
        text = json.dumps(dict.fromkeys(header, "x"))
    else:
        text = table([["x"] * len(header)], header)
    message = refusal(text, name=name)
    assert "line 1 has two columns that may hold the" in message
    assert all(name in message for name in names)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a.jpg,a dog\n", "has no image column (found: a.jpg, a dog); expected"),
        ("image;words\na;b\n", "has no caption column (found: image, words)"),
        ("url\tcaption\n", "has no image column (found: url, caption)"),
        ("image,a|image|caption|b,text\n", "',' and by '|'"),
        ("x" * 100_000, "has no image column"),
        ("image,caption\na.jpg,b\na.jpg\n", "line 3 has 1 fields; expected 2"),
        ("image,caption\na.jpg,b,c\n", "line 2 has 3 fields; expected 2"),
        ('image;caption\na.jpg;"b" c\n', "line 2 is not valid CSV"),
    ],
)
def test_refuses_tables(refusal, text, words):
    assert words in refusal(text)


def test_excels_separator_line_and_empty_rows(read):
    text = "sep=;\r\nimage;caption\r\na.jpg;x\r\n;\r\n\r\n;;\r\nb.jpg;y\r\n"
    with pytest.raises(InputError, match="line 8 has 3 fields"):
        read(text + "b.jpg;y;z\r\n")
    assert read(text) == [("a.jpg", ["x"], None), ("b.jpg", ["y"], None)]


def kaggle(broken):
    rows = [f"{n // 5}.jpg| {n % 5}| A dog " + '" runs " .' for n in range(100)]
    for number in broken:
        rows[number] = "2199200615.jpg| 4   A dog runs across the grass ."
    return "\n".join(["image_name| comment_number| comment", *rows]) + "\n"


def test_kaggles_flickr30k(read, refusal, caplog):
    text = kaggle(broken=[19])
    with caplog.at_level("INFO"):
        found = read(text, name="results.csv")
    assert len(found) == 99
    assert found[0] == ("0.jpg", ['A dog " runs " .'], None)
    assert "results.csv: line 21 has 2 fields; expected 3; skipped" in caplog.text
    assert "skipped 1 of 100 rows" in caplog.text
    assert "ignored columns: comment_number" in caplog.text
    message = refusal(text, name="results.csv", strict=True)
    assert "line 21 has 2 fields" in message
    assert "config.data.strict=False" in message
    assert "6 of 100 rows" in refusal(kaggle(range(6)))
    assert len(read(kaggle(range(6)), allowed=0.06)) == 94


def test_kaggles_flickr8k(read):
    text = 'image,caption\na.jpg,A dog .\na.jpg,"A cat , a dog ."\n'
    assert read(text, name="captions.txt") == [
        ("a.jpg", ["A dog ."], None),
        ("a.jpg", ["A cat , a dog ."], None),
    ]


def test_flickr8ks_own_form(read, refusal):
    text = 'a.jpg#0\tA dog , "running .\r\na.jpg#1\tA dog\n\nb#1.jpg#12\t"Stop"\n'
    assert read(text, name="Flickr8k.token.txt") == [
        ("a.jpg", ['A dog , "running .'], None),
        ("a.jpg", ["A dog"], None),
        ("b#1.jpg", ['"Stop"'], None),
    ]
    assert "line 5 is 'c.jpg A'" in refusal(text + "c.jpg A\n")


def json_lines(*records):
    return "".join(json.dumps(record) + "\n" for record in records)


def test_json_lines(read):
    text = json_lines(
        {"file_name": "a.jpg", "text": "one", "width": 3},
        {"text": ["two", " ", "three "], "file_name": "b.jpg"},
    )
    expected = [("a.jpg", ["one"], None), ("b.jpg", ["two", "three"], None)]
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        assert read(text.encode(encoding), name="metadata.jsonl") == expected


def test_json_list(read):
    records = [
        {"image": "a.jpg", "caption": ["one", "two"]},
        {"image": "b", "caption": "x"},
    ]
    found = read(json.dumps(records), name="train.json")
    assert found == [("a.jpg", ["one", "two"], None), ("b", ["x"], None)]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"image": "a", "caption": "x", "caption": "y"}', "'caption' twice"),
        ('{"image": 3, "caption": "x"}', "has the image 3"),
        (
            '{"image": "a", "caption": {"a": 1}}',
            "a caption that is not a string: an object",
        ),
        ('{"image": "a", "caption": ["x", null]}', "a caption that is not a string"),
        ('{"image": "a"}', "has no caption column (found: image)"),
        ("[" * 100_000, "is not valid JSON"),
        ('"' + "x" * 100_000 + '"', "expected a JSON object"),
        ('{"' + "x" * 100_000 + '": 1}', "has no image column"),
        ('{"image": 1' + "0" * 9000 + ', "caption": "x"}', "is not valid JSON"),
        ('{"image": 1' + "0" * 4000 + ', "caption": "x"}', "a huge number"),
    ],
)
def test_refuses_json_lines_with_a_short_message(refusal, line, words):
    good = json_lines({"image": "a.jpg", "caption": "x"})
    message = refusal(good + line + "\n", name="captions.jsonl")
    assert "captions.jsonl: line 2 " in message
    assert words in message


@pytest.fixture
def captions(tmp_path):
    """Returns a function that reads image_id and captions of each split."""

    def captions(content, name="captions.csv"):
        root = epath.Path(tmp_path)
        (root / name).write_text(content)
        splits = image_folder.read_captions([root / name], root, Leniency())
        return {
            split: {photo.image_id: photo.captions for photo in listed}
            for split, listed in splits.items()
        }

    return captions


@pytest.mark.parametrize("name", ["dev", "val", "validation", "Val", "valid"])
def test_names_of_the_validation_split(captions, name):
    found = captions(f"image,caption,split\na,x,TRAIN\nb,x,{name}\nc,x,{name}\n")
    assert found == {"train": {"a": ("x",)}, "dev": {"b": ("x",), "c": ("x",)}}


def test_refuses_two_names_of_the_validation_split(captions):
    with pytest.raises(InputError, match=r"line 3 has the split 'dev'.*line 2 .*'val'"):
        captions("image,caption,split\na,x,val\nb,x,dev\n")


def test_repeated_rows_are_kept(captions):
    found = captions("image,caption,split\na,x,dev\na,x,dev\na,y,dev\n")
    assert found == {"dev": {"a": ("x", "x", "y")}}


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("a.jpg,,", "line 2 has an empty caption"),
        ("x" * 100_000 + ",,", "line 2 has an empty caption"),
        ("../" + "x" * 100_000 + ",a,b", "is outside of the folder"),
        ("/" + "x" * 100_000 + ",a,b", "is outside of the folder"),
        ('a.jpg,"[""\\ud83d""]",b', "caption with half a character"),
    ],
)
def test_refuses_rows_with_a_short_message(captions, row, words):
    with pytest.raises(InputError) as error:
        captions(f"image,caption,caption\n{row}\n")
    assert words in str(error.value)
    assert len(str(error.value)) < 500


def test_refuses_a_long_split_with_a_short_message(captions):
    with pytest.raises(InputError, match="expected one of train") as error:
        captions(f"image,caption,split\na,x,{'y' * 100_000}\n")
    assert len(str(error.value)) < 400
