"""Bottom-up attention's TSV files."""

import base64
import csv
import itertools
import tracemalloc

import numpy as np
import pytest
from etils import epath

from tests.refusals import assert_refused
from tests.region_files import (
    assert_stored,
    padded,
    ragged,
    read,
    tsv_line,
    write_captions,
    write_lines,
)
from vse_jax.data import datasets
from vse_jax.data.datasets import bottom_up_tsv, layout_files, zero_regions
from vse_jax.errors import InputError

COUNTS = (10, 36, 1, 100, 20, 36, 7)
IMAGES = ragged(COUNTS)
IDS = [300104, 9, 150367, 391895, 522418, 184613, 318219]
ORDER = (3, 0, 6, 2, 5, 1, 4)  # of the captions


@pytest.fixture
def data(data):
    data.region_dim = 0
    return data


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "source"
    folder.mkdir()
    write_tsv(folder / "train.tsv")
    write_captions(folder, "train", len(IMAGES))
    write_lines(folder / "train_ids.txt", [IDS[i] for i in ORDER])
    return folder


def write_tsv(path, chosen=range(7), **options):
    lines = [tsv_line(IDS[i], IMAGES[i], **options) for i in chosen]
    path.write_bytes(b"".join(lines))


def in_order():
    return [IMAGES[i] for i in ORDER]


def replace_field(path, line, field, value):
    lines = path.read_bytes().splitlines(keepends=True)
    fields = lines[line - 1].split(b"\t")
    fields[field] = value(fields[field])
    lines[line - 1] = b"\t".join(fields)
    path.write_bytes(b"".join(lines))


def test_images_are_found_by_their_ids(root, data, caplog):
    builder = datasets.prepare(data)
    assert_stored(builder, in_order())
    examples = read(builder)
    assert [e["image_id"] for e in examples] == [b"%d" % IDS[i] for i in ORDER]
    assert list(examples[2]["captions"]) == [b"caption %d of 2" % c for c in range(5)]
    assert not [r for r in caplog.records if r.levelname == "WARNING"]


def test_written_by_csv_as_the_published_scripts_do(root, data):
    names = ["image_id", "image_w", "image_h", "num_boxes", "boxes", "features"]
    with open(root / "train.tsv", "w") as file:
        writer = csv.DictWriter(file, delimiter="\t", fieldnames=names)
        for image_id, image in zip(IDS, IMAGES, strict=True):
            text = base64.b64encode(image).decode()
            row = [image_id, 640, 480, len(image), text, text]
            writer.writerow(dict(zip(names, row, strict=True)))
    assert_stored(datasets.prepare(data), in_order())


def test_fields_of_lxmert(root, data):
    write_tsv(root / "train.tsv", fields=10)
    assert_stored(datasets.prepare(data), in_order())


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_header_names_the_fields(root, data, mark):
    path = root / "train.tsv"
    lines = [line.split(b"\t") for line in path.read_bytes().splitlines()]
    lines = [[f[0], f[5], f[3], f[4]] for f in lines]
    header = [b"image_id", b"features", b"num_boxes", b"boxes"]
    content = b"\r\n".join(b"\t".join(fields) for fields in [header, *lines])
    path.write_bytes(mark + content + b"\r\n\r\n")
    assert_stored(datasets.prepare(data), in_order())


def test_bytes_that_python_3_wrote_as_text(root, data):
    for line in range(1, 8):
        replace_field(root / "train.tsv", line, 5, lambda f: b"b'" + f.strip() + b"'\n")
    assert_stored(datasets.prepare(data), in_order())


def test_parts_are_read_together(root, data):
    (root / "train.tsv").unlink()
    for part, chosen in enumerate(((0, 1), (2, 3, 4), (5, 6))):
        write_tsv(root / f"train.tsv.{part}", chosen)
    assert_stored(datasets.prepare(data), in_order())


def test_shared_files_serve_splits_without_their_own(root, data, caplog):
    caplog.set_level("INFO")
    (root / "train.tsv").rename(root / "trainval_36.tsv")
    write_lines(root / "train_ids.txt", [IDS[i] for i in ORDER[:4]])
    write_captions(root, "train", 4)
    write_captions(root, "dev", 2)
    write_lines(root / "dev_ids.txt", [IDS[4], IDS[1]])
    np.save(root / "test_ims.npy", padded(IMAGES[1:2]))
    write_captions(root, "test", 1)
    builder = datasets.prepare(data)
    assert_stored(builder, in_order()[:4])
    assert_stored(builder, [IMAGES[4], IMAGES[1]], "dev")
    assert_stored(builder, IMAGES[1:2], "test")
    assert "trainval_36.tsv: 1 of 7 images are in no SPLIT_ids.txt" in caplog.text


def test_an_id_for_each_caption(root, data):
    """Images may have different numbers of captions then."""
    counts = (1, 5, 2, 3, 1, 1, 6)
    images = zip(ORDER, counts, strict=True)
    ids = [IDS[i] for i, count in images for _ in range(count)]
    write_lines(root / "train_ids.txt", ids)
    captions = [f"caption {n}" for n in range(sum(counts))]
    write_lines(root / "train_caps.txt", captions)
    builder = datasets.prepare(data)
    assert_stored(builder, in_order())
    stored = [[c.decode() for c in e["captions"]] for e in read(builder)]
    assert [len(some) for some in stored] == list(counts)
    assert list(itertools.chain.from_iterable(stored)) == captions


def test_zero_regions_are_kept_and_reported(root, data, caplog):
    images = [image.copy() for image in IMAGES]
    images[1][-3:] = 0
    lines = [tsv_line(i, image) for i, image in zip(IDS, images, strict=True)]
    (root / "train.tsv").write_bytes(b"".join(lines))
    assert_stored(datasets.prepare(data), [images[i] for i in ORDER])
    assert "1 of 7 images have regions of zeros (3 regions, such as 3" in caplog.text


def test_changed_file_is_prepared_again(root, data):
    datasets.prepare(data)
    before = layout_files.fingerprint(epath.Path(root))
    assert "train.tsv" in before
    lines = (root / "train.tsv").read_bytes().splitlines(keepends=True)
    changed = IMAGES[0] + 1
    (root / "train.tsv").write_bytes(
        tsv_line(IDS[0], changed) + b"".join(lines[1:]) + b"\n"
    )
    assert layout_files.fingerprint(epath.Path(root)) != before
    assert_stored(
        datasets.prepare(data), [changed if i == 0 else IMAGES[i] for i in ORDER]
    )


def test_features_are_not_held_in_memory(tmp_path):
    """Neither those of the file, nor those of a split."""
    images = ragged([36] * 300, dim=256)  # 11 MB
    path = epath.Path(tmp_path / "train.tsv")
    lines = [tsv_line(i, image) for i, image in enumerate(images)]
    path.write_bytes(b"".join(lines))
    del lines
    tracemalloc.start()
    index = bottom_up_tsv.index_files([path])
    features = bottom_up_tsv.TsvFeatures(index, [str(i) for i in range(299, -1, -1)])
    stored = features.images(0, 300, zero_regions.ZeroReport())
    for number, (_, values) in enumerate(stored):
        assert values.tobytes() == images[299 - number].tobytes()
    assert tracemalloc.get_traced_memory()[1] < 1.5e6
    tracemalloc.stop()


# What is refused.


def test_missing_ids_are_refused(root, data):
    (root / "train_ids.txt").unlink()
    assert_refused(data, root / "train_ids.txt", "is missing", "train.tsv")


def test_number_of_ids_is_refused(root, data):
    write_lines(root / "train_ids.txt", IDS[:6])
    assert_refused(data, root / "train_ids.txt", "6 ids", "35 captions")


def test_messages_stay_short(root, data):
    write_lines(root / "train_ids.txt", ["x" * 10**6, *IDS[1:]])
    with pytest.raises(InputError) as info:
        datasets.prepare(data)
    assert "line 1: image id 'xxx" in str(info.value)
    assert len(str(info.value)) < 600


@pytest.mark.parametrize("per_caption", [False, True])
def test_absent_image_is_refused(root, data, per_caption):
    ids = [*IDS[:4], "COCO_val2014_000000522418.jpg", 0, IDS[6]]
    if per_caption:
        ids = np.repeat(ids, 5).tolist()
    write_lines(root / "train_ids.txt", ids)
    words = (f"line {21 if per_caption else 5}", "'COCO_val2014_000000522418.jpg'")
    words += ("train.tsv", "'300104'", "2 of 7")
    assert_refused(data, root / "train_ids.txt", *words)


def test_repeated_image_is_refused(root, data):
    write_tsv(root / "train.tsv", [*range(7), 2])
    assert_refused(data, "train.tsv: line 8", "'150367'", "of line 3;")
    write_tsv(root / "train.tsv", range(5))
    write_tsv(root / "train.tsv.0", [5, 6, 2])
    assert_refused(data, "train.tsv.0: line 3", "'150367'", "of line 3 of train.tsv;")


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        (5, lambda f: f[:500] + b"\n", ["bytes of features, not the", "36 boxes"]),
        (5, lambda f: f[:501] + b"\n", ["truncated", "multiple of four"]),
        (5, lambda f: b"\n", ["truncated"]),
        (5, lambda f: f[:100] + b"!" + f[101:], ["damaged base64", "'9'"]),
        (3, lambda f: b"35", ["576 bytes", "560 of 35 boxes of 4 float32"]),
        (3, lambda f: b"0", ["num_boxes '0'"]),
        (3, lambda f: b"-1", ["num_boxes '-1'"]),
        (3, lambda f: b"9" * 5000, ["num_boxes '9999"]),
        (3, lambda f: b"3\t6", ["7 fields", "not 6"]),
        (4, lambda f: f + b"\n", ["5 fields", "not 6"]),
        (0, lambda f: b"\xff", ["not UTF-8"]),
    ],
)
def test_wrong_line_is_named(root, data, field, value, words):
    replace_field(root / "train.tsv", 2, field, value)
    assert_refused(data, "train.tsv: line 2 ", *words)


@pytest.mark.parametrize("left", [3, 30, 200, 1000])
def test_truncated_file_is_refused(root, data, left):
    path = root / "train.tsv"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:3]) + lines[3][:left])
    assert_refused(data, "train.tsv: line 4 ")


def test_line_without_end_is_refused(root, data, monkeypatch):
    monkeypatch.setattr(bottom_up_tsv, "_LINE_BYTES", 2000)
    assert_refused(data, "train.tsv: line 4 has more than 2000 bytes")


@pytest.mark.parametrize("value", [np.nan, np.inf, 7e4])
def test_value_is_named_with_its_line(root, data, value):
    image = IMAGES[2].copy()
    image[0, 1] = value
    encoded = base64.b64encode(image.tobytes())
    replace_field(root / "train.tsv", 3, 5, lambda f: encoded + b"\n")
    assert_refused(data, "train.tsv: line 3 (image id '150367') holds")


@pytest.mark.parametrize("content", [b"", b"\n\n", b"image_id\tnum_boxes\tfeatures\n"])
def test_empty_file_is_refused(root, data, content):
    (root / "train.tsv").write_bytes(content)
    assert_refused(data, root / "train.tsv", "is empty")


def test_other_tables_are_refused(root, data):
    (root / "train.tsv").write_bytes(b"image_id\tcaption\n1\ta dog\n")
    assert_refused(data, "train.tsv: line 1 names", "num_boxes, boxes, features")
    (root / "train.tsv").write_bytes(b"1\ta dog\n")
    assert_refused(data, "train.tsv: line 1 has 2 fields")


def test_first_line_of_another_type_is_refused(root, data):
    replace_field(root / "train.tsv", 1, 3, lambda f: b"7")
    assert_refused(data, "train.tsv: line 1 ", "not float32 of 7 boxes")


def test_other_dim_is_refused(root, data):
    data.region_dim = 2048
    words = ("4 dimensions; expected 2048", "config.data.region_dim")
    assert_refused(data, root / "train.tsv", *words)


def test_second_counts_are_refused(root, data):
    np.save(root / "train_counts.npy", np.array(COUNTS))
    assert_refused(data, root / "train_counts.npy", "train.tsv", "remove the file")


@pytest.mark.parametrize("other", ["train_ims.npy", "train.h5", "train.hdf5"])
def test_two_forms_are_refused(root, data, other):
    (root / other).write_bytes(b"")
    assert_refused(data, root, "'train'", "train.tsv", other)


def test_split_without_features_is_refused(root, data):
    write_captions(root, "dev", 1)
    words = ("is missing", "dev_caps.txt", "dev.tsv", "dev.h5")
    assert_refused(data, root / "dev_ims.npy", *words)


def test_files_of_other_splits_are_reported(root, data, caplog):
    write_captions(root, "val", 1)
    datasets.prepare(data)
    assert "val_caps.txt: is not read; splits are named train, dev" in caplog.text
