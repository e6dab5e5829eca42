import os

import numpy as np
import pytest

from tests import photo_files
from vse_jax.errors import InputError
from vse_jax.gallery import sources
from vse_jax.gallery.sources import CaptionFile, PhotoFolder, Split


def write_photo(path, seed=0, kind="JPEG"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(photo_files.encoded(photo_files.drawn(70, 50, seed), kind))
    return path


def test_photos_are_found_at_any_depth_in_order(tmp_path):
    for name in ("b.jpg", "a/z.PNG", "a/b/c.jpeg", "é/日本.webp", "a b/#%20.gif"):
        write_photo(tmp_path / name)
    (tmp_path / "notes.txt").write_text("a dog")
    for name in (".hidden.jpg", ".git/x.jpg", "a/._b.jpg"):
        write_photo(tmp_path / name)
    source = PhotoFolder(tmp_path)
    assert source.ids == sorted(
        ["b.jpg", "a/z.PNG", "a/b/c.jpeg", "é/日本.webp", "a b/#%20.gif"]
    )
    record = source.record(source.ids.index("b.jpg"))
    status = (tmp_path / "b.jpg").stat()
    assert record.path == str(tmp_path / "b.jpg")
    assert record.size == status.st_size
    assert record.modified == pytest.approx(status.st_mtime)


def test_photos_are_recognized_by_content_too(tmp_path, scene_model, caplog):
    for name, kind in (("scan", "PNG"), ("a.jpg_large", "JPEG"), ("b.photo", "WEBP")):
        write_photo(tmp_path / name, kind=kind)
    (tmp_path / "notes").write_text("no photo")
    (tmp_path / "empty").touch()
    (tmp_path / "phone.HEIC").write_bytes(b"\0\0\0\x18ftypheic" + bytes(20))
    source = PhotoFolder(tmp_path)
    assert source.ids == ["a.jpg_large", "b.photo", "phone.HEIC", "scan"]
    contents = source.contents(range(4), scene_model.image_input)
    assert [row for row, _ in contents] == [0, 1, 3]
    assert "phone.HEIC: it is HEIC; expected one of the formats" in caplog.text


def test_links_are_followed_to_files_but_not_to_folders(tmp_path, caplog):
    root = tmp_path / "root"
    target = write_photo(tmp_path / "elsewhere.jpg")
    write_photo(root / "one.jpg")
    (root / "linked.jpg").symlink_to(target)
    (root / "loop").symlink_to(root)
    (root / "broken").symlink_to(tmp_path / "nothing")
    (root / ".hidden").symlink_to(root)
    (root / "inner").mkdir()
    assert PhotoFolder(root).ids == ["linked.jpg", "one.jpg"]
    assert len(caplog.records) == 1
    assert f"left out: 1, such as {root / 'loop'};" in caplog.text


def test_what_is_no_file_is_skipped_and_counted(tmp_path, scene_model, caplog):
    write_photo(tmp_path / "one.jpg")
    (tmp_path / "broken.jpg").symlink_to("nothing")
    for name in ("pipe", "pipe.jpg"):
        os.mkfifo(tmp_path / name)
    source = PhotoFolder(tmp_path)
    contents = source.contents(range(3), scene_model.image_input)
    assert [source.ids[row] for row, _ in contents] == ["one.jpg"]
    assert source.skipped == 2
    assert "broken.jpg: No such file or directory" in caplog.text
    assert "pipe.jpg: it is a pipe; expected a regular file" in caplog.text


def test_names_that_are_not_utf8_are_skipped_and_logged(tmp_path, caplog):
    write_photo(tmp_path / "one.jpg")
    os.link(tmp_path / "one.jpg", os.fsencode(tmp_path) + b"/\xff.jpg")
    os.mkdir(os.fsencode(tmp_path) + b"/\xff")
    os.link(tmp_path / "one.jpg", os.fsencode(tmp_path) + b"/\xff/two.jpg")
    assert PhotoFolder(tmp_path).ids == ["one.jpg"]
    assert "its name is not UTF-8; rename it" in caplog.text


def test_folders_without_photos_are_refused(tmp_path):
    with pytest.raises(InputError, match="has no photos; expected files that end with"):
        PhotoFolder(tmp_path)
    with pytest.raises(InputError, match="there is no such folder"):
        PhotoFolder(tmp_path / "nothing")


def test_invalid_photos_are_skipped_named_and_counted(tmp_path, scene_model, caplog):
    good = write_photo(tmp_path / "good.jpg")
    (tmp_path / "cut.jpg").write_bytes(good.read_bytes()[:300])
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.jpg").write_text("<html>")
    source = PhotoFolder(tmp_path)
    contents = list(source.contents(range(len(source.ids)), scene_model.image_input))
    assert [source.ids[row] for row, _ in contents] == ["good.jpg"]
    assert contents[0][1].shape == (64, 64, 3)
    assert source.skipped == 3
    for name in ("cut.jpg", "empty.png", "text.jpg"):
        assert f"skipping {tmp_path / name}: " in caplog.text


def test_ids_of_captions_do_not_depend_on_their_lines(tmp_path):
    path = tmp_path / "captions.txt"
    path.write_text("\ufeffa dog\n\n  a cat \r\na dog\n", encoding="utf-8")
    before = CaptionFile(path)
    assert before.captions(range(3)) == ["a dog", "a cat", "a dog"]
    assert len(set(before.ids)) == 3
    path.write_text("a bird\na cat\na dog\na dog", encoding="utf-16")
    after = CaptionFile(path)
    assert set(before.ids) < set(after.ids)
    assert after.record(1) == before.record(1)


def test_carriage_returns_alone_end_lines(tmp_path):
    path = tmp_path / "captions.txt"
    path.write_bytes(b"a dog\ra cat\r\ra bird\r")
    captions = CaptionFile(path)
    assert captions.captions(range(3)) == ["a dog", "a cat", "a bird"]


def test_invalid_files_of_captions_are_refused(tmp_path):
    path = tmp_path / "captions.txt"
    path.write_bytes(b"a dog\na caf\xe9\n")
    with pytest.raises(InputError, match=r"captions.txt: line 2 is not UTF-8"):
        CaptionFile(path)
    path.write_text(" \n\n")
    with pytest.raises(InputError, match="has no captions; expected one per line"):
        CaptionFile(path)
    with pytest.raises(InputError, match="cannot be read"):
        CaptionFile(tmp_path / "nothing.txt")


@pytest.mark.parametrize("split", ["test", "train+dev"])
def test_splits_have_their_images_or_captions(scene_run, scene_model, split):
    experiment = scene_run[1]
    images = Split(experiment, split, sources.IMAGES)
    captions = Split(experiment, split, sources.CAPTIONS)
    assert len(captions.ids) == 5 * len(images.ids) == len(set(captions.ids))
    record = images.record(3)
    assert record.captions == captions.captions(range(15, 20))
    assert captions.ids[15] == f"{record.id}#0"
    contents = list(images.contents([3, 1], scene_model.image_input))
    data = experiment.builder.as_data_source(split)
    assert [row for row, _ in contents] == [3, 1]
    for row, pixels in contents:
        np.testing.assert_array_equal(pixels, data[row]["image"])
