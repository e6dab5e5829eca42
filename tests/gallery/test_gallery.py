import json
import mmap

import numpy as np
import pytest

from tests.gallery.small_galleries import (
    DIM,
    SHARD_BYTES,
    content,
    description,
    encode,
    source,
)
from vse_jax.errors import InputError
from vse_jax.gallery import gallery as galleries
from vse_jax.gallery import local_files
from vse_jax.gallery.gallery import Gallery
from vse_jax.gallery.manifest import GalleryDescription
from vse_jax.gallery.writer import GalleryWriter

ROWS = source(33)


@pytest.fixture
def folder(tmp_path):
    encode(tmp_path, ROWS)
    return tmp_path


def refused(folder):
    with pytest.raises(InputError) as error:
        Gallery.open(folder)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_properties_are_those_of_the_description(folder):
    gallery = Gallery.open(str(folder))
    assert (gallery.rows, gallery.dim, gallery.dtype) == (33, DIM, np.float16)
    assert (gallery.similarity, gallery.content) == ("cosine", "images")
    assert (gallery.model, gallery.options) == ("a model", {"crops": 1})


@pytest.mark.parametrize("rows", [1, 4, 10, 1000])
def test_blocks_are_all_rows_in_order(folder, rows):
    blocks = list(Gallery.open(folder).blocks(rows))
    assert max(map(len, blocks)) <= rows
    expected = np.stack([embedding for embedding, _ in ROWS.values()])
    np.testing.assert_array_equal(np.concatenate(blocks), expected)


def test_blocks_are_memory_maps(folder):
    blocks = list(Gallery.open(folder).blocks())
    assert sum(map(len, blocks)) == len(ROWS)
    for block in blocks:
        base = block
        while isinstance(base, np.ndarray):
            base = base.base
        assert isinstance(base, mmap.mmap)
        assert not block.flags.writeable


def test_single_rows(folder, monkeypatch):
    monkeypatch.setattr(galleries, "GROUP_ROWS", 8192)
    gallery, records = Gallery.open(folder), [record for _, record in ROWS.values()]
    wanted = [32, 0, 10, 9, 0]
    assert gallery.rows_at(wanted) == [records[i] for i in wanted]
    assert gallery.row(17) == records[17]
    expected = np.stack([list(ROWS.values())[i][0] for i in wanted])
    np.testing.assert_array_equal(gallery.embeddings_at(wanted), expected)
    assert gallery.position_of("photo 31") == 31
    assert gallery.position_of("photo 33") is None
    for row in (-1, 33):
        with pytest.raises(IndexError):
            gallery.row(row)


def test_rows_of_many_groups(tmp_path):
    number = galleries.GROUP_ROWS + 100
    records = [record for _, record in source(number).values()]
    with GalleryWriter(tmp_path, description()) as writer:
        writer.write(np.ones((number, DIM)), records)
    wanted = [0, galleries.GROUP_ROWS - 1, galleries.GROUP_ROWS, number - 1]
    assert Gallery.open(tmp_path).rows_at(wanted) == [records[i] for i in wanted]


def test_empty_gallery(tmp_path):
    encode(tmp_path, {})
    gallery = Gallery.open(tmp_path)
    assert (gallery.rows, list(gallery.blocks())) == (0, [])
    assert gallery.position_of("a") is None
    assert gallery.table().num_rows == 0


def test_open_gallery_does_not_change(folder):
    gallery = Gallery.open(folder)
    before = [gallery.rows_at(range(33)), np.concatenate(list(gallery.blocks()))]
    encode(folder, source(5, start=200))
    gallery._group.cache_clear()
    assert gallery.rows_at(range(33)) == before[0]
    np.testing.assert_array_equal(np.concatenate(list(gallery.blocks())), before[1])
    assert len(content(folder)) == 5


def test_gallery_that_changes_while_it_is_opened(folder, monkeypatch):
    read, changed = galleries.manifests.read, []

    def read_before_a_change(path):
        manifest = read(path)
        if not changed:
            changed.append(True)
            encode(folder, source(5, start=200))
        return manifest

    monkeypatch.setattr(galleries.manifests, "read", read_before_a_change)
    assert len(content(folder)) == 5


def test_fingerprint_is_of_embeddings_and_order(tmp_path):
    encode(tmp_path / "a", ROWS)
    encode(tmp_path / "b", ROWS)
    encode(tmp_path / "c", dict(reversed(ROWS.items())))
    prints = [Gallery.open(tmp_path / name).fingerprint for name in "abc"]
    assert prints[0] == prints[1] != prints[2]


@pytest.mark.parametrize("name", ["embeddings-00001.npy", "rows-00001.parquet"])
@pytest.mark.parametrize("damage", ["short", "long", "flipped"])
def test_damaged_shard_is_named(folder, name, damage):
    path = folder / name
    file = bytearray(path.read_bytes())
    if damage == "flipped":
        file[len(file) // 2] ^= 1
    path.write_bytes({"short": file[:-1], "long": file + b"x"}.get(damage, file))
    assert refused(folder) == (
        f"{path}: is damaged; delete this file and run --mode=encode again"
    )
    writer = GalleryWriter(folder, description(), shard_bytes=SHARD_BYTES)
    with pytest.raises(InputError, match=f"{name}: is damaged"):
        encode(folder, ROWS, writer=writer)
    path.unlink()
    encode(folder, ROWS)
    assert len(content(folder)) == 33


def test_large_gallery_is_checked_by_size_and_header(folder, monkeypatch):
    monkeypatch.setattr(local_files, "_FEW_BYTES", 0)
    path = folder / "embeddings-00000.npy"
    file = path.read_bytes()
    path.write_bytes(file[:-1] + bytes([file[-1] ^ 1]))
    gallery = Gallery.open(folder)
    with pytest.raises(InputError, match=r"embeddings-00000\.npy: is damaged"):
        gallery.verify()
    changed = [
        file.replace(b"(10, 8)", shape)
        for shape in (b"(8, 10)", b"(1, -8)", b"(True,)", b"(10, 8(")
    ]
    for damaged in (b"x" + file[1:], *changed):
        path.write_bytes(damaged)
        assert "embeddings-00000.npy: is damaged" in refused(folder)


def test_folder_without_gallery(tmp_path):
    message = refused(tmp_path / "absent")
    assert message.startswith(f"{tmp_path / 'absent'}: is not a gallery")
    assert "--mode=encode --gallery=" in message


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text[:-20],
        lambda text: "[]",
        lambda text: text.replace('"dim"', '"dims"'),
        lambda text: text.replace("rows-00000", "../rows-00000"),
        lambda text: text.replace('"cosine"', '"euclid"'),
    ],
)
def test_damaged_manifest(folder, change):
    path = folder / "gallery.json"
    path.write_text(change(path.read_text()))
    assert refused(folder) == (
        f"{path}: is damaged; delete the folder {folder} and run --mode=encode again"
    )


def test_gallery_of_a_newer_version(folder):
    path = folder / "gallery.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 2}))
    assert "has the format 2" in refused(folder)
    assert "update vse_jax" in refused(folder)


def test_invalid_description():
    with pytest.raises(ValueError, match="dtype is 'int8'; expected float16 or float"):
        GalleryDescription("m", "cosine", "images", 8, "int8")
