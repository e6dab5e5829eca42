import numpy as np
import pytest

from tests.evaluation.coco_stand_in import CocoStandIn
from vse_jax.errors import InputError
from vse_jax.evaluation import cxc_judgements

NAMES = "sts_test.csv", "sis_test.csv", "sits_test.csv"


@pytest.fixture
def stand_in(tmp_path):
    return CocoStandIn(tmp_path, images=9)


@pytest.mark.parametrize("name", NAMES)
def test_rows_are_those_of_the_file(stand_in, name):
    found = cxc_judgements.read(str(stand_in.folder), name, stand_in.coco)
    for array, expected in zip(found, stand_in.pairs[name], strict=True):
        np.testing.assert_array_equal(array, expected)


def refusal(stand_in, name, line=None, text=None):
    """Replaces a line, numbered from 1, and returns the message."""
    path = stand_in.folder / name
    if line:
        lines = path.read_text().splitlines()
        lines[line - 1] = text
        path.write_text("\n".join(lines))
    with pytest.raises(InputError) as info:
        cxc_judgements.read(str(stand_in.folder), name, stand_in.coco)
    message = str(info.value)
    assert "\n" not in message
    assert message.startswith(str(path))
    return message


CAPTION, IMAGE = "COCO_val2014:sentid:101", "COCO_val2014_000000000001.jpg"


@pytest.mark.parametrize(
    ("name", "line", "words"),
    [
        ("sts_test.csv", f"COCO_val2014:sentid:7,{CAPTION},1.0,x", "caption1 'COCO_va"),
        ("sts_test.csv", f"{CAPTION},7,1.0,x", "caption2 '7', which is no caption"),
        (
            "sis_test.csv",
            f"COCO_val2014_000000000099.jpg,{IMAGE},1.0,x",
            "has the image1",
        ),
        ("sits_test.csv", f"{CAPTION},{CAPTION},1.0,x", "which is no image of COCO's"),
        (
            "sits_test.csv",
            f"{CAPTION},{IMAGE},5.5,x",
            "agg_score '5.5'; expected a num",
        ),
        ("sits_test.csv", f"{CAPTION},{IMAGE},nan,x", "agg_score 'nan'"),
        ("sits_test.csv", f"{CAPTION},{IMAGE},high,x", "agg_score 'high'"),
        ("sits_test.csv", f"{CAPTION},{IMAGE},0_4,x", "agg_score '0_4'"),
        ("sits_test.csv", f"{CAPTION},{IMAGE},\u0664,x", "agg_score '\u0664'"),
        ("sits_test.csv", f"{CAPTION},{IMAGE},1.0", "has 3 fields; expected 4"),
        ("sits_test.csv", "no comma", "has 1 fields; expected 4"),
    ],
)
def test_invalid_rows_are_named(stand_in, name, line, words):
    message = refusal(stand_in, name, 4, line)
    assert "line 4 has" in message
    assert words in message


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("blank", ["", "  ", "\t", ",,,"])
def test_line_ends_and_blank_lines_change_nothing(stand_in, end, blank, caplog):
    path = stand_in.folder / "sts_test.csv"
    lines = path.read_text().splitlines()
    path.write_bytes(b"\xef\xbb\xbf" + end.join([*lines, blank, ""]).encode())
    found = cxc_judgements.read(str(stand_in.folder), path.name, stand_in.coco)
    for array, expected in zip(found, stand_in.pairs[path.name], strict=True):
        np.testing.assert_array_equal(array, expected)
    # An interrupted download may end at the end of a line.
    count = len(lines) - 1
    assert f"has {count} judgements, but CxC's file has 44045" in caplog.text


def test_invalid_csv_is_named(stand_in):
    message = refusal(stand_in, "sts_test.csv", 4, "a" * 140_000)
    assert "line 4 is not valid CSV (field larger than" in message


def test_other_files_are_refused(stand_in):
    message = refusal(stand_in, "sts_test.csv", 1, "image1,image2,agg_score,x")
    assert "line 1 is 'image1,image2,agg_score,x'; expected a header" in message
    (stand_in.folder / "sis_test.csv").write_text("image1,image2,agg_score\n")
    assert "has no judgements" in refusal(stand_in, "sis_test.csv")
    (stand_in.folder / "sts_test.csv").write_text("")
    assert "line 1 is ''" in refusal(stand_in, "sts_test.csv")
    (stand_in.folder / "sits_test.csv").unlink()
    assert "set config.evaluation.cxc to the folder" in refusal(
        stand_in, "sits_test.csv"
    )
