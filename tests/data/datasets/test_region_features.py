import io
import os
import pathlib
import resource
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from tests.refusals import assert_refused
from vse_jax.data import datasets
from vse_jax.data.datasets import captioned_images, feature_array, layout_files
from vse_jax.errors import InputError, ReportedError

FLICKR8K = pathlib.Path(__file__).parents[3] / "../shared/flickr8k_regions"
REGIONS = np.random.default_rng(0).normal(size=(7, 3, 4)).astype(np.float32)


def write_split(root, split="train", features=REGIONS, captions=None, ids=None):
    root.mkdir(exist_ok=True)
    if features is not None:
        np.save(root / f"{split}_ims.npy", features)
    if captions is None:
        captions = [
            f"caption {c} of {i}" for i in range(len(features)) for c in "abcde"
        ]
    write_lines(root / f"{split}_caps.txt", captions)
    if ids is not None:
        write_lines(root / f"{split}_ids.txt", ids)


def write_lines(path, lines):
    path.write_bytes("".join(f"{line}\n" for line in lines).encode())


@pytest.fixture
def root(tmp_path):
    write_split(tmp_path / "source")
    return tmp_path / "source"


@pytest.fixture
def data(data):
    data.region_dim = 0
    return data


def read(builder, split="train"):
    return list(builder.as_data_source(split))


def files_in(folder):
    return sorted(pathlib.Path(folder).rglob("*")) if os.path.exists(folder) else []


def test_records_are_the_images_in_their_order(root, data):
    write_split(root, "dev", REGIONS[::-1], ids=[f"id{i}" for i in range(7)])
    builder = datasets.prepare(data)
    assert set(builder.info.splits) == {"train", "dev"}
    for split, source in (("train", REGIONS), ("dev", REGIONS[::-1])):
        examples = read(builder, split)
        regions = np.stack([example["regions"] for example in examples])
        assert regions.dtype == np.float16
        np.testing.assert_array_equal(regions, source.astype(np.float16))
    assert [e["image_id"] for e in read(builder)] == [b"%d" % i for i in range(7)]
    assert [e["image_id"] for e in read(builder, "dev")] == [
        b"id%d" % i for i in range(7)
    ]
    assert list(read(builder)[2]["captions"]) == [
        b"caption %c of 2" % c for c in b"abcde"
    ]


def test_names_are_sorted_by_their_numbers(tmp_path):
    # int() takes the digits of other scripts, but no superscript.
    names = ["train.tsv.2", "train.tsv.10", "train.tsv.٣٠", "²", "m²2.tsv"]
    for name in names:
        (tmp_path / name).touch()
    assert [n for n in layout_files.names_in(tmp_path) if n in names[:3]] == names[:3]


def test_order_is_kept_over_shards_and_chunks(root, data, monkeypatch):
    image_bytes = REGIONS[0].nbytes
    monkeypatch.setattr(captioned_images, "_SHARD_BYTES", 3 * image_bytes)
    monkeypatch.setattr(feature_array, "CHUNK_BYTES", 2 * image_bytes)
    builder = datasets.prepare(data)
    assert builder.info.splits["train"].num_shards == 3
    regions = np.stack([example["regions"] for example in read(builder)])
    np.testing.assert_array_equal(regions, REGIONS.astype(np.float16))


def test_raw_records_are_decoded_in_a_graph(root, data):
    builder = datasets.prepare(data)
    source = builder.as_data_source(
        "train", deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES
    )
    decode = tf.function(builder.info.features.deserialize_example)
    for number, record in zip((5, 1), source.__getitems__([5, 1]), strict=True):
        example = decode(record)
        np.testing.assert_array_equal(
            example["regions"], REGIONS[number].astype(np.float16)
        )
        assert example["captions"].shape == (5,)


def test_global_features_are_kept_as_they_are(root, data):
    write_split(root, features=REGIONS[:, 0])
    features = [example["feature"] for example in read(datasets.prepare(data))]
    assert features[0].dtype == np.float32
    np.testing.assert_array_equal(features, REGIONS[:, 0])


@pytest.mark.parametrize("kind", ["regions", "global"])
@pytest.mark.parametrize("ids", ["none", "per image", "per caption"])
def test_repeated_images_become_one_example(root, data, monkeypatch, kind, ids):
    monkeypatch.setattr(feature_array, "CHUNK_BYTES", 7 * REGIONS[0].nbytes)
    images = REGIONS if kind == "regions" else REGIONS[:, 0]
    captions = [f"{i} {c}" for i in range(7) for c in "abcde"]
    id_lines = {
        "none": None,
        "per image": [f"i{i}" for i in range(7)],
        "per caption": [f"i{i}" for i in range(7) for _ in range(5)],
    }[ids]
    write_split(root, "train", np.repeat(images, 5, axis=0), captions, id_lines)
    examples = read(datasets.prepare(data))
    name = "regions" if kind == "regions" else "feature"
    stored = np.stack([example[name] for example in examples])
    np.testing.assert_array_equal(stored, images.astype(stored.dtype))
    assert list(examples[6]["captions"]) == [b"6 a", b"6 b", b"6 c", b"6 d", b"6 e"]
    assert examples[6]["image_id"] == (b"6" if ids == "none" else b"i6")


def test_one_caption_an_image_is_no_repetition(root, data):
    images = np.random.default_rng(1).normal(size=(10, 2, 4))
    write_split(root, features=images, captions=[f"caption {i}" for i in range(10)])
    examples = read(datasets.prepare(data))
    assert [list(e["captions"]) for e in examples][9] == [b"caption 9"]
    assert len(examples) == 10


def test_captions_keep_unicode_line_separators(root, data):
    captions = ["\ufefffirst", "a\u2028b", "  padded  ", "é\r", *"abc"]
    write_split(root, captions=captions)
    stored = [
        example["captions"][0].decode() for example in read(datasets.prepare(data))
    ]
    assert stored == ["first", "a\u2028b", "padded", "é", *"abc"]


def test_duplicate_ids_are_told(root, data, caplog):
    write_split(root, ids=["a", "b", "a", "c", "a", "d", "e"])
    with caplog.at_level("WARNING"):
        datasets.prepare(data)
    assert "train_ids.txt: 2 images repeat an earlier image's id" in caplog.text


def test_name_of_the_prepared_data(root, data, tmp_path):
    write_split(tmp_path / "deep")
    first = datasets.prepare(data).data_dir
    data.root = str(tmp_path / "deep")
    second = datasets.prepare(data).data_dir
    (tmp_path / "nested").mkdir()
    write_split(tmp_path / "nested" / "source")
    data.root = str(tmp_path / "nested" / "source")
    third = datasets.prepare(data).data_dir
    assert len({first, second, third}) == 3
    assert pathlib.Path(first).parent.name.startswith("source-")
    data.name = "mine"
    assert pathlib.Path(datasets.prepare(data).data_dir).parent.name == "mine"


def test_prepared_data_is_not_prepared_again(root, data):
    builder = datasets.prepare(data)
    before = {path: path.stat().st_mtime_ns for path in files_in(data.data_dir)}
    assert datasets.prepare(data).data_dir == builder.data_dir
    assert before == {p: p.stat().st_mtime_ns for p in files_in(data.data_dir)}


def test_changed_source_is_prepared_again(root, data, caplog):
    first = datasets.prepare(data)
    write_split(root, features=REGIONS + 1)
    with caplog.at_level("INFO"):
        builder = datasets.prepare(data)
    assert "have changed" in caplog.text
    assert builder.data_dir != first.data_dir
    np.testing.assert_array_equal(
        read(builder)[0]["regions"], (REGIONS[0] + 1).astype(np.float16)
    )


def test_added_split_is_prepared(root, data):
    datasets.prepare(data)
    write_split(root, "test", REGIONS[:2])
    assert len(read(datasets.prepare(data), "test")) == 2


def test_changed_rank_is_prepared_again(root, data):
    datasets.prepare(data)
    write_split(root, features=REGIONS[:, 0])
    assert "feature" in read(datasets.prepare(data))[0]


def test_changed_dim_is_prepared_again(root, data):
    data.region_dim = 4
    datasets.prepare(data)
    write_split(root, features=REGIONS[..., :2])
    data.region_dim = 2
    assert read(datasets.prepare(data))[0]["regions"].shape == (3, 2)


def test_bad_change_keeps_what_is_prepared(root, data):
    datasets.prepare(data)
    before = files_in(data.data_dir)
    (root / "train_caps.txt").write_text("one\n")
    with pytest.raises(InputError):
        datasets.prepare(data)
    assert files_in(data.data_dir) == before


@pytest.mark.parametrize("left", ["", "root of a removed folder"])
def test_prepared_data_needs_no_source(root, data, left):
    data.name = "mine"
    datasets.prepare(data)
    for path in root.iterdir():
        path.unlink()
    root.rmdir()
    data.root = left and str(root)
    assert len(read(datasets.prepare(data))) == 7
    data.region_dim = 5
    with pytest.raises(InputError, match="4 dimensions; expected 5"):
        datasets.prepare(data)


def test_incomplete_prepared_data_is_prepared_again(root, data, caplog):
    builder = datasets.prepare(data)
    [record_file] = pathlib.Path(builder.data_dir).glob("*train.array_record*")
    record_file.unlink()
    with caplog.at_level("INFO"):
        assert len(read(datasets.prepare(data))) == 7
    assert "removing incomplete data" in caplog.text


@pytest.mark.parametrize("name", ["dataset_info.json", "features.json"])
def test_damaged_prepared_data_is_prepared_again(root, data, name, caplog):
    path = pathlib.Path(datasets.prepare(data).data_dir) / name
    path.write_bytes(path.read_bytes()[:100])
    with caplog.at_level("INFO"):
        assert len(read(datasets.prepare(data))) == 7
    assert "removing incomplete data" in caplog.text


@pytest.mark.parametrize("is_terminal", [True, False])
def test_progress_bar_on_terminals_only(root, data, monkeypatch, capsys, is_terminal):
    stream = io.StringIO()
    stream.isatty = lambda: is_terminal
    monkeypatch.setattr(sys, "stderr", stream)
    datasets.prepare(data)
    bar = stream.getvalue()
    assert ("preparing train" in bar and "/7 [" in bar) == is_terminal
    assert is_terminal or not bar
    assert not capsys.readouterr().out


# Prepares the data, but tells when it writes and goes on when it gets a line.
PAUSED_PREPARING = """
import logging, os, sys
from configs import common
from vse_jax.data import datasets
from vse_jax.data.datasets import layout_split

images = layout_split.LayoutSplit.images

def paused(*args):
    os.write(1, b"writing\\n")
    os.read(0, 1)
    return images(*args)

layout_split.LayoutSplit.images = paused
logging.basicConfig(level=logging.INFO)
data = common.get_config().data
data.root, data.data_dir = sys.argv[1:]
data.region_dim = 0
datasets.prepare(data)
print("prepared")
"""


def start_preparing(data):
    return subprocess.Popen(
        [sys.executable, "-c", PAUSED_PREPARING, data.root, data.data_dir],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=pathlib.Path(__file__).parents[3],
    )


def test_killed_preparing_leaves_nothing_behind(root, data):
    with start_preparing(data) as process:
        assert process.stdout.readline() == b"writing\n"
        process.kill()
    assert [p for p in files_in(data.data_dir) if p.name.startswith("incomplete.")]
    assert not list(pathlib.Path(data.data_dir).rglob("dataset_info.json"))
    assert len(read(datasets.prepare(data))) == 7
    assert not [p for p in files_in(data.data_dir) if "incomplete." in p.name]


def test_second_process_waits_for_the_first(root, data):
    with start_preparing(data) as first:
        assert first.stdout.readline() == b"writing\n"
        with start_preparing(data) as second:
            assert any(b"waiting for another" in line for line in second.stderr)
            assert first.communicate(b"1", timeout=60)[0] == b"prepared\n"
            # It does not write again.
            assert second.communicate(timeout=60)[0] == b"prepared\n"


def test_refuses_unknown_builder(data):
    data.builder = "coco"
    assert_refused(data, "data.builder is 'coco'", "region_features, ", ", shapes")


def test_refuses_name_that_is_no_folder_name(root, data):
    data.name = "../other"
    assert_refused(data, "data.name is '../other'")


def test_refuses_missing_root(data):
    assert_refused(data, data.root, "no such folder", "data.root")
    data.root = ""
    assert_refused(data, "data.root is not set", "data.name")


def test_refuses_folder_without_splits(root, data):
    for path in root.iterdir():
        path.unlink()
    assert_refused(data, root, "holds no split", "train_ims.npy")


@pytest.mark.parametrize("name", ["train_ims.npy", "train_caps.txt"])
def test_refuses_missing_companion(root, data, name):
    (root / name).unlink()
    assert_refused(data, root / name, "is missing")


@pytest.mark.parametrize("name", ["train_ims.npy", "train_caps.txt", "train_ids.txt"])
def test_refuses_unreadable_file(root, data, name):
    (root / name).unlink(missing_ok=True)
    (root / name).mkdir()
    assert_refused(data, root / name, "cannot be read")


@pytest.mark.parametrize("name", ["train_ims.npy", "train_caps.txt", "train_ids.txt"])
def test_refuses_a_pipe(root, data, name):
    (root / name).unlink(missing_ok=True)
    os.mkfifo(root / name)
    assert_refused(data, f"{root / name}: cannot be read: it is a pipe; expected")


@pytest.mark.parametrize("name", ["train_ims.npy", "train_caps.txt", "train_ids.txt"])
def test_refuses_a_broken_link(root, data, name):
    (root / name).unlink(missing_ok=True)
    (root / name).symlink_to("elsewhere")
    assert_refused(data, f"{root / name}: is a broken link to elsewhere")


@pytest.mark.parametrize(("change", "word"), [(-8, "truncated"), (8, "too long")])
def test_refuses_size_that_differs_from_the_header(root, data, change, word):
    path = root / "train_ims.npy"
    content = path.read_bytes()
    path.write_bytes((content + bytes(8))[: len(content) + change])
    assert_refused(data, path, word, len(content), len(content) + change, [7, 3, 4])


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK\x03\x04 some zip",
        b"\x93NUMPY\x01\x00v\x00{",
        b"\x93NUMPY\x01\x00\x08\x00{'descr'",
    ],
)
def test_refuses_what_is_no_npy(root, data, content):
    (root / "train_ims.npy").write_bytes(content)
    assert_refused(data, root / "train_ims.npy", "not a .npy file")


@pytest.mark.parametrize("shape", [(-6, -3, 4), (True, 18, 4), (6, -3, 4)])
def test_refuses_lengths_that_no_array_has(root, data, shape):
    with (root / "train_ims.npy").open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        file.write(bytes(6 * 3 * 4 * 4))
    assert_refused(data, root / "train_ims.npy", "not a .npy file", "damaged")


def test_refuses_pickled_objects(root, data):
    np.save(root / "train_ims.npy", np.array([{}] * 7), allow_pickle=True)
    assert_refused(data, root / "train_ims.npy", "pickled")


@pytest.mark.parametrize(
    ("features", "words"),
    [
        (REGIONS[:, 0, 0], ["shape [7]", "[images, regions, dim]"]),
        (REGIONS[None], ["shape [1, 7, 3, 4]", "[images, dim]"]),
        (REGIONS.astype(np.int32), ["int32", "float32"]),
        (REGIONS.astype(np.complex64), ["complex64", "float32"]),
        (REGIONS[:0], ["is empty", "[0, 3, 4]"]),
        (REGIONS[:, :0], ["is empty", "[7, 0, 4]"]),
        (np.asfortranarray(REGIONS), ["column-major"]),
    ],
)
def test_refuses_other_arrays(root, data, features, words):
    np.save(root / "train_ims.npy", features)
    assert_refused(data, root / "train_ims.npy", *words)


def test_refuses_other_dim(root, data):
    data.region_dim = 2048
    assert_refused(data, root / "train_ims.npy", "4 dimensions; expected 2048")


@pytest.mark.parametrize("features", [REGIONS[..., :2], REGIONS[:, 0]])
def test_refuses_splits_that_differ(root, data, features):
    write_split(root, "dev", features)
    assert_refused(data, root / "dev_ims.npy", list(features.shape), [7, 3, 4])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_refuses_value_that_is_not_finite(root, data, value, dtype):
    features = REGIONS.astype(dtype)
    features[5, 2, 1] = value
    write_split(root, features=features, ids=[f"photo{i}.jpg" for i in range(7)])
    path = root / "train_ims.npy"
    assert_refused(data, path, "row 5", "photo5.jpg", f"holds {value}", "[2, 1]")


def test_refuses_value_beyond_float16(root, data):
    features = REGIONS.copy()
    features[5, 2, 1] = -70000
    write_split(root, features=features, ids=[f"photo{i}.jpg" for i in range(7)])
    assert_refused(
        data, root / "train_ims.npy", "row 5", "photo5.jpg", "-70000", "65504"
    )


def test_refused_row_is_that_of_the_file(root, data):
    features = np.repeat(REGIONS, 5, axis=0)
    features[20:25, 1, 1] = 1e6
    write_split(root, "train", features, [f"caption {i}" for i in range(35)])
    assert_refused(data, root / "train_ims.npy", "row 20", "image id '4'", "1e+06")


@pytest.mark.parametrize(("row", "image_count"), [(23, 7), (500, 200)])
def test_refuses_repetition_with_exceptions(root, data, row, image_count):
    images = np.random.default_rng(2).normal(size=(image_count, 2, 4))
    features = np.repeat(images, 5, axis=0)
    features[row] += 1
    write_split(root, "train", features, [f"caption {i}" for i in range(len(features))])
    first = row // 5 * 5
    assert_refused(
        data, root / "train_ims.npy", f"rows {first} to {first + 4}", "differ"
    )


@pytest.mark.parametrize("count", [0, 6, 34, 36])
def test_refuses_caption_count(root, data, count):
    write_lines(root / "train_caps.txt", [f"caption {i}" for i in range(count)])
    assert_refused(data, root / "train_caps.txt", f"{count} captions", "7 images")


def test_refuses_captions_that_are_not_utf8(root, data):
    lines = [b"caption"] * 35
    lines[11] = "Café".encode("latin1")
    (root / "train_caps.txt").write_bytes(b"\n".join(lines) + b"\n")
    assert_refused(data, root / "train_caps.txt", "line 12", "UTF-8", "0xe9")


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("name", ["train_caps.txt", "train_ids.txt"])
def test_refuses_wide_text_without_a_mark(root, data, name, encoding):
    text = "".join(f"a dog {i}\n" for i in range(35))
    (root / name).write_bytes(text.encode(encoding))
    iconv = f"iconv -f {encoding.replace('6-', '6')} -t utf-8"
    assert_refused(data, root / name, "no byte order mark", iconv)


def test_wide_text_with_a_mark_is_read(root, data):
    lines = [f"caption {i}" for i in range(35)]
    (root / "train_caps.txt").write_text("\n".join(lines), encoding="utf-16")
    found = [c.decode() for e in read(datasets.prepare(data)) for c in e["captions"]]
    assert found == lines


def test_carriage_returns_alone_end_lines(root, data):
    path = root / "train_caps.txt"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r"))
    assert len(read(datasets.prepare(data))[0]["captions"]) == 5


@pytest.mark.parametrize("name", ["train_caps.txt", "train_ids.txt"])
def test_refuses_a_zero_byte(root, data, name):
    lines = ["dog"] * 35
    lines[11] = "\0"
    write_lines(root / name, lines)
    assert_refused(data, root / name, "line 12", "zero byte")


@pytest.mark.parametrize("line", ["", "  \t"])
def test_refuses_empty_caption(root, data, line):
    captions = ["caption"] * 35
    captions[11] = line
    write_lines(root / "train_caps.txt", captions)
    assert_refused(data, root / "train_caps.txt", "line 12 is empty")


@pytest.mark.parametrize("count", [6, 8, 34])
def test_refuses_number_of_ids(root, data, count):
    write_lines(root / "train_ids.txt", [f"id{i}" for i in range(count)])
    assert_refused(data, root / "train_ids.txt", f"{count} ids", "expected 7", "35")


def test_refuses_ids_that_differ_within_an_image(root, data):
    ids = [f"id{i}" for i in range(7) for _ in range(5)]
    ids[13] = "other"
    write_lines(root / "train_ids.txt", ids)
    assert_refused(data, root / "train_ids.txt", "line 14", "'other'", "'id2'")


def test_reports_where_it_cannot_write(root, data, tmp_path):
    (tmp_path / "file").write_text("")
    data.data_dir = str(tmp_path / "file")
    with pytest.raises(ReportedError, match="cannot be written"):
        datasets.prepare(data)


@pytest.mark.parametrize("limit", [4096, 12000])
def test_reports_a_full_disk(root, data, limit):
    features = np.random.default_rng(3).normal(size=(7, 3, 400))
    write_split(root, features=features)
    old_limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, old_limits[1]))
    try:
        with pytest.raises(ReportedError, match="cannot be written there") as info:
            datasets.prepare(data)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old_limits)
    assert "\n" not in str(info.value)
    assert not files_in(data.data_dir)


def test_flickr8k_is_stored_bit_for_bit(data):
    if not FLICKR8K.exists():
        pytest.skip(f"{FLICKR8K} is absent")
    data.root, data.region_dim = str(FLICKR8K), 256
    started = time.monotonic()
    source = datasets.prepare(data).as_data_source("dev")
    assert time.monotonic() - started < 60
    features = np.load(FLICKR8K / "dev_ims.npy")
    captions = (FLICKR8K / "dev_caps.txt").read_bytes().split(b"\n")
    assert len(source) == len(features)
    for i in (0, 1, 500, 999):
        np.testing.assert_array_equal(source[i]["regions"], features[i])
        assert list(source[i]["captions"]) == captions[5 * i : 5 * i + 5]
