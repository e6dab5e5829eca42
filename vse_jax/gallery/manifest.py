"""The list of a gallery's shards, `gallery.json`.

A gallery is a folder. Each shard has two files: embeddings in `embeddings-00000.npy`
and a table of the same rows in `rows-00000.parquet`. Only shards that `gallery.json`
lists belong to the gallery, and it is replaced atomically, so that readers never see a
part of a change.
"""

import dataclasses
import hashlib
import json
import re
from typing import Any

from etils import epath

from vse_jax import files
from vse_jax.errors import InputError, differences, unreadable
from vse_jax.similarity import SIMILARITIES

FORMAT = 1  # number of the format of a gallery
IMAGES, CAPTIONS = CONTENTS = ("images", "captions")
DTYPES = ("float16", "float32")
ENCODE_AGAIN = "run --mode=encode again"
_NAME = "gallery.json"
_NAME_OF_HOST = "gallery.host-{}.json"
_IS_NAME_OF_HOST = re.compile(r"gallery\.host-\d+\.json")
_IS_SHARD_FILE = re.compile(r"(embeddings-[\d-]+\.npy|rows-[\d-]+\.parquet)")


@dataclasses.dataclass(frozen=True)
class GalleryDescription:
    """What the embeddings of a gallery are.

    Attributes:
      model: fingerprint of the model that computed them.
      similarity: one of `similarity.SIMILARITIES`.
      content: what was embedded, one of `CONTENTS`.
      dim: dimensions of an embedding.
      dtype: one of `DTYPES`.
      options: options of the encoding, as JSON.
    """

    model: str
    similarity: str
    content: str
    dim: int
    dtype: str = "float16"
    options: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        for name, value, allowed in (
            ("similarity", self.similarity, tuple(SIMILARITIES)),
            ("content", self.content, CONTENTS),
            ("dtype", self.dtype, DTYPES),
        ):
            if value not in allowed:
                expected = " or ".join(allowed)
                raise ValueError(f"{name} is {value!r}; expected {expected}")

    @property
    def row_bytes(self) -> int:
        """Bytes of an embedding."""
        return self.dim * (2 if self.dtype == "float16" else 4)


@dataclasses.dataclass(frozen=True)
class File:
    """Name, size in bytes and SHA-256 of a complete file."""

    name: str
    bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class Shard:
    """Some consecutive rows of a gallery: their number and their two files."""

    rows: int
    embeddings: File
    table: File

    @property
    def files(self) -> tuple[File, File]:
        """Both files."""
        return self.embeddings, self.table


@dataclasses.dataclass(frozen=True)
class Manifest:
    """The content of `gallery.json`.

    Attributes:
      description: what the embeddings are.
      shards: in the order of the rows.
      complete: False while the gallery is written, and after an interrupted encoding.
    """

    description: GalleryDescription
    shards: tuple[Shard, ...] = ()
    complete: bool = True

    @property
    def rows(self) -> int:
        """Number of rows."""
        return sum(shard.rows for shard in self.shards)

    @property
    def fingerprint(self) -> str:
        """Digest of the embeddings and of their order, as hexadecimal digits."""
        shards = [(shard.rows, shard.embeddings.sha256) for shard in self.shards]
        content = [self.description.dim, self.description.dtype, shards]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def path_of(folder: epath.Path, host: int = 0) -> epath.Path:
    """Returns the path of a host's manifest; readers read that of host 0."""
    return folder / (_NAME_OF_HOST.format(host) if host else _NAME)


def paths_of_other_hosts(folder: epath.Path) -> list[epath.Path]:
    """Returns the paths of the manifests of hosts other than the primary one."""
    names = filter(_IS_NAME_OF_HOST.fullmatch, names_in(folder))
    return [folder / name for name in sorted(names)]


def names_in(folder: epath.Path) -> set[str]:
    """Returns the names of the files in a folder, which may not exist."""
    try:
        return {path.name for path in folder.iterdir()}
    except FileNotFoundError:  # an object store has no empty folders
        return set()


def is_shard_file(name: str) -> bool:
    """Returns whether a file may be of a shard, perhaps one that nothing lists."""
    return bool(_IS_SHARD_FILE.fullmatch(name))


def write(manifest: Manifest, path: epath.Path) -> None:
    """Writes a manifest atomically.

    Raises:
      OSError: if it cannot be written.
    """
    content = {
        "format": FORMAT,
        **dataclasses.asdict(manifest.description),
        "rows": manifest.rows,
        "complete": manifest.complete,
        "shards": [dataclasses.asdict(shard) for shard in manifest.shards],
    }
    with files.unfinished(path) as unfinished:
        unfinished.write_text(json.dumps(content, indent=1) + "\n")


def read(path: epath.Path) -> Manifest:
    """Reads a manifest.

    Raises:
      InputError: if it is absent, damaged or of a newer format.
    """
    try:
        content = json.loads(files.read_bytes(path))
    except FileNotFoundError:
        raise InputError(
            f"{path.parent}: is not a gallery, since it has no {path.name}; create one "
            f"with --mode=encode --gallery={path.parent}"
        ) from None
    except OSError as error:
        raise unreadable(path, error) from None
    except ValueError:
        raise _damaged(path) from None
    return _parse(content, path)


def _parse(content, path):
    try:
        _check_format(int(content["format"]), path)
        fields = [field.name for field in dataclasses.fields(GalleryDescription)]
        description = GalleryDescription(**{name: content[name] for name in fields})
        shards = tuple(_parse_shard(shard) for shard in content["shards"])
        return Manifest(description, shards, bool(content["complete"]))
    except (KeyError, TypeError, ValueError, AttributeError):
        raise _damaged(path) from None


def _check_format(version, path):
    if version > FORMAT:
        raise InputError(
            f"{path}: has the format {version}, but this version of vse_jax reads up "
            f"to {FORMAT}; update vse_jax"
        )


def _parse_shard(content):
    parsed = [File(**content[name]) for name in ("embeddings", "table")]
    if not all(is_shard_file(file.name) for file in parsed):
        raise ValueError
    return Shard(int(content["rows"]), *parsed)


def _damaged(path):
    return InputError(
        f"{path}: is damaged; delete the folder {path.parent} and {ENCODE_AGAIN}"
    )


def check_same(
    found: GalleryDescription, wanted: GalleryDescription, folder: epath.Path
) -> None:
    """Checks that a gallery has the description that is wanted.

    Args:
      found: description of the gallery.
      wanted: what it should be.
      folder: folder of the gallery, for the message.

    Raises:
      InputError: if they differ; names the differences.
    """
    found, wanted = (
        json.loads(json.dumps(dataclasses.asdict(d))) for d in (found, wanted)
    )
    differing = differences(found, wanted)
    if differing:
        raise InputError(
            f"{folder}: was encoded differently: {', '.join(differing)}; delete the "
            "folder to encode again, or choose another --gallery"
        )
