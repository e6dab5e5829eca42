import json
import resource
import shutil
import threading

import numpy as np
import pytest
from etils import epath

from tests.gallery.small_galleries import (
    DIM,
    SHARD_BYTES,
    assert_same_rows,
    content,
    description,
    encode,
    source,
)
from vse_jax import parallel
from vse_jax.errors import InputError, TrainingError
from vse_jax.gallery import writer as writers
from vse_jax.gallery.gallery import Gallery
from vse_jax.gallery.rows import Record
from vse_jax.gallery.writer import GalleryWriter


def names_in(folder):
    return {path.name for path in epath.Path(folder).iterdir()}


def assert_no_other_files(folder):
    shards = Gallery.open(folder).manifest.shards
    listed = {file.name for shard in shards for file in shard.files}
    assert names_in(folder) == {"gallery.json", *listed}


def changed(rows, *ids):
    """Returns the rows with another content and time of some files."""
    other = {
        row_id: (
            -rows[row_id][0],
            rows[row_id][1]._replace(modified=rows[row_id][1].modified + 1),
        )
        for row_id in ids
    }
    return rows | other


@pytest.mark.parametrize("batch", [1, 7, 10, 64])
def test_gallery_has_what_was_written(tmp_path, batch):
    rows = source(47)
    encode(tmp_path / "g", rows, batch)
    assert_same_rows(content(tmp_path / "g"), rows)
    gallery = Gallery.open(tmp_path / "g")
    assert gallery.complete
    assert [shard.rows for shard in gallery.manifest.shards] == [10, 10, 10, 10, 7]
    assert gallery.table()["id"].to_pylist() == list(rows)  # in order
    assert_no_other_files(tmp_path / "g")


@pytest.mark.parametrize("seed", range(4))
def test_gallery_follows_a_source_that_changes(tmp_path, seed):
    rng = np.random.default_rng(seed)
    rows = {}
    for step in range(6):
        ids = list(rows)
        gone = [i for i in ids if rng.random() < 0.3]
        touched = [i for i in ids if i not in gone and rng.random() < 0.2]
        rows = {i: row for i, row in changed(rows, *touched).items() if i not in gone}
        rows |= source(int(rng.integers(0, 25)), seed=step, start=100 * step)
        changes = encode(tmp_path, rows, batch=int(rng.integers(1, 20)))
        assert set(changes.outdated.to_pylist()) == {*gone, *touched}
        assert_same_rows(content(tmp_path), rows)
        assert_no_other_files(tmp_path)


def test_unchanged_source_needs_nothing(tmp_path):
    rows = source(33)
    encode(tmp_path, rows)
    before = {name: (tmp_path / name).stat().st_mtime_ns for name in names_in(tmp_path)}
    changes = encode(tmp_path, rows)
    assert not len(changes.missing)
    assert not len(changes.outdated)
    after = {name: (tmp_path / name).stat().st_mtime_ns for name in names_in(tmp_path)}
    assert before == after


def test_files_of_unknown_size_and_time_are_the_same(tmp_path):
    rows = {
        i: (embedding, record._replace(size=None, modified=None))
        for i, (embedding, record) in source(5).items()
    }
    encode(tmp_path, rows)
    assert not len(encode(tmp_path, rows).missing)


def test_small_shards_of_many_runs_are_joined(tmp_path):
    rows = source(25)
    for number in range(1, 26):
        encode(tmp_path, dict(list(rows.items())[:number]))
    assert len(Gallery.open(tmp_path).manifest.shards) == 3
    assert_same_rows(content(tmp_path), rows)


class Snapshots:
    """Copies a folder before and after each change of a file: what a kill leaves."""

    def __init__(self, folder, target, monkeypatch):
        self.folders = []
        path_type = type(epath.Path("x"))
        for name in ("replace", "unlink"):
            original = getattr(path_type, name)

            def change(path, *arguments, original=original, **options):
                for _ in range(2):
                    copy = target / str(len(self.folders))
                    shutil.copytree(folder, copy)
                    self.folders.append(copy)
                    if len(self.folders) % 2:
                        result = original(path, *arguments, **options)
                return result

            monkeypatch.setattr(path_type, name, change)


def test_run_that_is_killed_anywhere_resumes(tmp_path, monkeypatch):
    before = source(23)
    after = changed(before, "photo 4", "photo 21")
    after = {i: row for i, row in after.items() if i not in ("photo 0", "photo 15")}
    after |= source(12, seed=1, start=50)
    encode(tmp_path / "g", before)
    with monkeypatch.context() as patch:
        snapshots = Snapshots(tmp_path / "g", tmp_path / "killed", patch)
        encode(tmp_path / "g", after)
    assert len(snapshots.folders) > 30
    allowed = {
        (i, embedding.tobytes()): record
        for rows in (before, after)
        for i, (embedding, record) in rows.items()
    }
    for folder in snapshots.folders:
        for row_id, (embedding, record) in content(folder).items():
            assert allowed[row_id, embedding.tobytes()] == record
        encode(folder, after)
        assert_same_rows(content(folder), after)
        assert Gallery.open(folder).complete
        assert_no_other_files(folder)


def test_first_run_that_is_killed_anywhere_resumes(tmp_path, monkeypatch):
    rows = source(23)
    with monkeypatch.context() as patch:
        (tmp_path / "g").mkdir()
        snapshots = Snapshots(tmp_path / "g", tmp_path / "killed", patch)
        encode(tmp_path / "g", rows)
    numbers = []
    for folder in snapshots.folders:
        changes = encode(folder, rows)
        numbers.append(23 - len(changes.missing))
        assert_same_rows(content(folder), rows)
        assert_no_other_files(folder)
    assert sorted(set(numbers)) == [0, 10, 20, 23]  # whole shards are kept
    assert numbers == sorted(numbers)


def test_interrupted_gallery_is_not_complete(tmp_path):
    rows = source(23)
    writer = GalleryWriter(tmp_path, description(), shard_bytes=SHARD_BYTES)

    def interrupt():
        with writer:
            embeddings, records = zip(*rows.values(), strict=True)
            writer.write(np.stack(embeddings), records)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupt()
    gallery = Gallery.open(tmp_path)
    assert not gallery.complete
    assert gallery.rows == 20
    encode(tmp_path, rows)
    assert Gallery.open(tmp_path).complete


def test_rows_are_stored_every_half_minute(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(writers.time, "monotonic", lambda: now[0])
    with GalleryWriter(tmp_path, description()) as writer:
        for i in range(6):
            now[0] += 10.0
            writer.write(np.ones((1, DIM)), [Record(str(i))])
        assert Gallery.open(tmp_path).rows == 4
    assert len(Gallery.open(tmp_path).manifest.shards) == 1  # joined


def test_other_writers_wait(tmp_path):
    ended = threading.Event()

    def wait():
        with GalleryWriter(tmp_path, description()):
            ended.set()

    with GalleryWriter(tmp_path, description()) as writer:
        thread = threading.Thread(target=wait)
        thread.start()
        assert not ended.wait(0.2)
        writer.write(np.ones((1, DIM)), [Record("a")])
    thread.join(10)
    assert ended.is_set()


def test_full_disk_keeps_what_is_complete(tmp_path):
    rows = source(40)
    embeddings, records = zip(*rows.values(), strict=True)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    as_float32, shard_bytes = description(dtype="float32"), 20 * DIM * 4

    def fill():
        with GalleryWriter(tmp_path, as_float32, shard_bytes=shard_bytes) as writer:
            writer.write(np.stack(embeddings[:20]), records[:20])
            resource.setrlimit(resource.RLIMIT_FSIZE, (500, limit[1]))
            writer.write(np.stack(embeddings[20:]), records[20:])

    try:
        with pytest.raises(TrainingError) as error:
            fill()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert str(error.value) == (
        f"cannot write to {tmp_path} ([Errno 27] File too large); free some space and "
        "start again"
    )
    assert Gallery.open(tmp_path).rows == 20
    assert_no_other_files(tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model": "other"}, "model was 'a model' and is now 'other'"),
        ({"dtype": "float32"}, "dtype was 'float16' and is now 'float32'"),
        ({"options": {"crops": 10}}, "options was {'crops': 1} and is now"),
    ],
)
def test_gallery_of_another_description_is_refused(tmp_path, change, words):
    encode(tmp_path, source(3))
    with pytest.raises(InputError) as error:
        encode(tmp_path, {}, writer=GalleryWriter(tmp_path, description(**change)))
    assert str(error.value).startswith(f"{tmp_path}: was encoded differently: {words}")
    assert len(content(tmp_path)) == 3


def test_folder_of_other_files_is_refused(tmp_path):
    (tmp_path / "photo.jpg").write_bytes(b"")
    with pytest.raises(InputError, match=r"has other files, such as photo\.jpg"):
        encode(tmp_path, source(1))
    assert names_in(tmp_path) == {"photo.jpg"}


def test_equal_ids_are_refused(tmp_path):
    with (
        GalleryWriter(tmp_path, description()) as writer,
        pytest.raises(InputError, match="two rows of the source have the ID 'b'"),
    ):
        writer.changes(["a", "b", "c", "b"])


@pytest.mark.parametrize("value", [np.nan, 1e5])
def test_embedding_beyond_float16_is_refused(tmp_path, value):
    embeddings = np.ones((3, DIM))
    embeddings[1, 2] = value
    with (
        GalleryWriter(tmp_path, description()) as writer,
        pytest.raises(TrainingError, match="embedding of 'b' is NaN or beyond"),
    ):
        writer.write(embeddings, [Record("a"), Record("b"), Record("c")])


def test_name_that_is_not_unicode_is_refused(tmp_path):
    with (
        pytest.raises(InputError, match=r"'\\udcff' cannot be written as UTF-8"),
        GalleryWriter(tmp_path, description()) as writer,
    ):
        writer.write(np.ones((1, DIM)), [Record("\udcff")])


def test_deleted_shard_is_encoded_again(tmp_path, caplog):
    rows = source(23)
    encode(tmp_path, rows)
    (tmp_path / "rows-00001.parquet").unlink()
    with pytest.raises(InputError, match=r"rows-00001\.parquet: is missing"):
        Gallery.open(tmp_path)
    assert len(encode(tmp_path, rows).missing) == 10
    assert "rows-00001.parquet is missing, so its 10 rows" in caplog.text
    assert_same_rows(content(tmp_path), rows)
    assert_no_other_files(tmp_path)


def test_hosts_write_their_own_rows(tmp_path, monkeypatch):
    """Two hosts, which are threads here, change a gallery together."""
    before, after = source(23), source(60)
    del after["photo 3"]
    encode(tmp_path, before)
    host, barrier = threading.local(), threading.Barrier(2, timeout=20)
    monkeypatch.setattr(parallel, "wait_for_hosts", lambda name: barrier.wait())
    monkeypatch.setattr(
        parallel,
        "this_host",
        lambda: {"process_index": host.index, "process_count": 2},
    )
    embeddings, records = zip(*after.values(), strict=True)

    def run(index):
        host.index = index
        with GalleryWriter(tmp_path, description(), shard_bytes=SHARD_BYTES) as writer:
            changes = writer.changes(
                [r.id for r in records],
                [r.size for r in records],
                [r.modified for r in records],
            )
            writer.drop(changes.outdated)
            for i in changes.missing[index::2]:
                writer.write(embeddings[i][None], [records[i]])

    threads = [threading.Thread(target=run, args=[index]) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert_same_rows(content(tmp_path), after)
    assert_no_other_files(tmp_path)


def test_rows_of_other_hosts_survive_a_kill(tmp_path):
    """A host that died leaves its own manifest, which the next run takes over."""
    rows = source(40)
    first, second = (dict(list(rows.items())[i::2]) for i in range(2))
    encode(tmp_path / "g", first)
    encode(tmp_path / "other", second)
    left = json.loads((tmp_path / "other" / "gallery.json").read_text())
    for shard in left["shards"]:
        for file in (shard["embeddings"], shard["table"]):
            name = file["name"].replace("-", "-1-", 1)
            shutil.copy(tmp_path / "other" / file["name"], tmp_path / "g" / name)
            file["name"] = name
    (tmp_path / "g" / "gallery.host-1.json").write_text(json.dumps(left))
    assert not len(encode(tmp_path / "g", rows).missing)
    assert_same_rows(content(tmp_path / "g"), rows)
    assert_no_other_files(tmp_path / "g")


def encode_remotely(folder, rows, copies):
    writer = GalleryWriter(
        folder, description(), shard_bytes=SHARD_BYTES, copies=str(copies)
    )
    return encode(folder, rows, writer=writer)


def test_remote_gallery(bucket, tmp_path):
    rows = source(23)
    encode_remotely(bucket, rows, tmp_path)
    del rows["photo 11"]
    encode_remotely(bucket, rows, tmp_path)
    assert_same_rows(content(bucket, str(tmp_path)), rows)
    assert_no_other_files(bucket)
    # What was copied is read again only if it changed.
    for path in (bucket / file for file in names_in(bucket) - {"gallery.json"}):
        path.write_bytes(b"x" * path.stat().length)
    assert_same_rows(content(bucket, str(tmp_path)), rows)
    with pytest.raises(InputError, match=r"gs://bucket/.*\.npy: is damaged"):
        content(bucket, str(tmp_path / "other"))
