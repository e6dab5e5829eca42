"""The correction of hubness of a gallery, which is kept in its folder."""

import hashlib
from typing import NamedTuple

import numpy as np

from vse_jax import files
from vse_jax.array_files import read_npz
from vse_jax.errors import InputError, reporting_writes, unreadable
from vse_jax.evaluation.hubness import bias, digest_of
from vse_jax.gallery.gallery import Gallery

ALPHA = 0.75  # weight of the bias
K = 128  # largest similarities that are averaged
_FILE = "hubness.npz"


class Hubness(NamedTuple):
    """The correction of a gallery.

    Attributes:
      bias: `[rows]` float32, which is subtracted from the scores of each row.
      gallery: fingerprint of the gallery's embeddings.
      bank: digest of the bank, see `digest_of`.
    """

    bias: np.ndarray
    gallery: str
    bank: str

    @property
    def fingerprint(self) -> str:
        """Digest of the bias."""
        return hashlib.sha256(self.bias.tobytes()).hexdigest()


def store(gallery: Gallery, bank: np.ndarray) -> Hubness:
    """Computes the correction of a gallery and writes it to the gallery's folder.

    A correction that the folder already has is kept if it is of the same rows and bank.

    Args:
      gallery: a gallery that no `GalleryWriter` has open.
      bank: embeddings of queries of the other side, `[queries, embed]`.

    Raises:
      InputError: if the bank is empty.
      TrainingError: if the file cannot be written.
    """
    key = {"gallery": gallery.fingerprint, "bank": digest_of(bank)}
    found = _read(gallery)
    if found and found._asdict() | key == found._asdict():
        return found
    values = bias(
        gallery.blocks(),
        bank,
        alpha=ALPHA,
        k=K,
        similarity=gallery.similarity,
        content=gallery.content,
    )
    path = gallery.folder / _FILE
    with (
        reporting_writes(gallery.folder),
        files.sole_writer(gallery.folder),
        files.unfinished(path) as unfinished,
        unfinished.open("wb") as file,
    ):
        np.savez(file, bias=values, **key)
    return Hubness(values, **key)


def load(gallery: Gallery) -> Hubness:
    """Reads the correction of a gallery.

    Raises:
      InputError: if there is none, or if the gallery has changed since.
    """
    found = _read(gallery)
    if found is None:
        raise InputError(
            f"{gallery.folder}: has no correction of hubness; run --mode=encode with "
            "config.gallery.hubness=True"
        )
    if found.gallery != gallery.fingerprint or len(found.bias) != gallery.rows:
        raise InputError(
            f"{gallery.folder / _FILE}: was computed before the gallery changed; run "
            "--mode=encode with config.gallery.hubness=True again"
        )
    return found


def _read(gallery: Gallery) -> Hubness | None:
    path = gallery.folder / _FILE
    try:
        arrays = read_npz(path.read_bytes())
        return Hubness(
            arrays["bias"].astype(np.float32, copy=False),
            *(arrays[name].item() for name in Hubness._fields[1:]),
        )
    except FileNotFoundError:
        return None
    except OSError as error:
        raise unreadable(path, error) from None
    except (ValueError, KeyError):
        raise InputError(
            f"{path}: is damaged; delete this file and run --mode=encode with "
            "config.gallery.hubness=True again"
        ) from None
