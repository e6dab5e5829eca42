"""Region features in HDF5 files: one array of all images, or one array per image.

One array: a dataset `features` (or `image_features`) `[images, regions, dim]` or
`[images, dim]`; optionally `num_boxes` (or `counts`), integers `[images]`, and
`image_ids` (or `image_id`, `img_ids`, `ids`) `[images]`. One per image: a dataset
`<image id>`, `<image id>/features` or `<image id>_features`, `[regions, dim]` or
`[dim]`, at the root or in a group `features`.
"""

import contextlib
import dataclasses
import itertools
import math
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from etils import epath

from vse_jax import files
from vse_jax.data.datasets import feature_array, layout_captions
from vse_jax.data.datasets.padded_features import StoredImage
from vse_jax.data.datasets.zero_regions import ZeroReport
from vse_jax.errors import InputError, one_line
from vse_jax.excerpts import excerpt

_FEATURES = ("features", "image_features")
_COUNTS = ("num_boxes", "counts")
_IDS = ("image_ids", "image_id", "img_ids", "ids")
_MOST_BYTES = 256 * 2**20  # read at once to decompress each of HDF5's chunks once


@dataclasses.dataclass(frozen=True, eq=False)
class Hdf5Array(feature_array.RowArray):
    """A dataset `[images, regions, dim]` or `[images, dim]`, or some of its rows.

    Attributes:
      path: of the file.
      name: of the dataset.
      shape: with the number of selected rows.
      dtype: of the dataset.
      stored_rows: that HDF5 stores in one chunk.
      selection: int64 `[images]`, rows in the file; None selects all.
    """

    path: epath.Path
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    stored_rows: int = 1
    selection: np.ndarray | None = None

    def row_name(self, row: int) -> str:
        """Returns how messages name a row."""
        if self.selection is not None:
            row = self.selection[row]
        return f"{self.path}: {self.name!r} row {row}"

    def select(self, rows: np.ndarray) -> "Hdf5Array":
        """Returns some of the rows, in another order."""
        shape = (len(rows), *self.shape[1:])
        return dataclasses.replace(self, shape=shape, selection=rows)

    def chunks(
        self, start: int, stop: int, multiple_of: int = 1
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Yields chunks of rows; see `RowArray.chunks`."""
        step = self._rows_at_once(multiple_of)
        with _open(self.path) as file:
            for first in range(start, stop, step):
                yield first, self._read(file, first, min(first + step, stop))

    def _rows_at_once(self, multiple_of: int) -> int:
        step = max(1, feature_array.CHUNK_BYTES // self.row_bytes)
        if self.stored_rows * self.row_bytes <= _MOST_BYTES:
            step = -(-step // self.stored_rows) * self.stored_rows
        return -(-step // multiple_of) * multiple_of

    def _read(self, file: Any, start: int, stop: int) -> np.ndarray:
        dataset = file[self.name]
        if dataset.shape[1:] != self.shape[1:] or dataset.dtype != self.dtype:
            raise InputError(f"{self.path}: has changed while it was read; try again")
        if self.selection is None:
            return dataset[start:stop]
        rows = self.selection[start:stop]
        if (np.diff(rows) == 1).all():
            return dataset[rows[0] : rows[-1] + 1]
        return np.stack([dataset[row] for row in rows])


@dataclasses.dataclass(frozen=True, eq=False)
class ArrayContent:
    """An array of all images, and what the file says of its rows.

    Attributes:
      array: of the features.
      counts_name: name of `counts` in messages.
      counts: int64 `[images]`, regions of each image; None if the file has none.
      image_ids: of each image; None if the file has none.
    """

    array: Hdf5Array
    counts_name: str
    counts: np.ndarray | None
    image_ids: list[str] | None

    def rows_of(
        self, split: layout_captions.SplitCaptions, ids_path: epath.Path
    ) -> np.ndarray:
        """Returns the rows of the images of a split: int64 `[images]`.

        Raises:
          InputError: if an image is missing, or the file repeats an id.
        """
        rows: dict[str, int] = {}
        for row, image_id in enumerate(self.image_ids):
            if rows.setdefault(image_id, row) != row:
                raise InputError(
                    f"{self.array.path}: image id {excerpt(image_id)} is that of rows "
                    f"{rows[image_id]} and {row} (from 0); expected one row for each "
                    "image: remove one of the two"
                )
        layout_captions.check_ids_are_known(split, ids_path, rows, self.array.path.name)
        return np.array([rows[image_id] for image_id in split.image_ids], np.int64)


@dataclasses.dataclass(frozen=True, eq=False)
class Hdf5Images:
    """An array per image, in the order of `image_ids`.

    Attributes:
      path: of the file.
      image_ids: of each image.
      has_regions: whether the arrays are `[regions, dim]` rather than `[dim]`.
      dim: dimensions of a feature.
      dtype: that holds the values of all arrays.
      image_bytes: of the largest image.
    """

    path: epath.Path
    image_ids: Sequence[str]
    has_regions: bool
    dim: int
    dtype: np.dtype
    image_bytes: int

    @property
    def shape_text(self) -> str:
        """The shape, for messages."""
        regions = "regions, " if self.has_regions else ""
        return f"[{len(self.image_ids)}, {regions}{self.dim}]"

    def images(
        self, start: int, stop: int, report: ZeroReport
    ) -> Iterator[StoredImage]:
        """Yields images `start` to `stop - 1`, each `[regions, dim]` or `[dim]`.

        Raises:
          InputError: if the file cannot be read, or has changed.
        """
        del report  # each array says how many regions there are
        with _open(self.path) as file:
            root = _root(self.path, file)
            for image_id in self.image_ids[start:stop]:
                dataset = _find(self.path, root, image_id)
                if dataset is None or (dataset.ndim == 2) != self.has_regions:
                    raise InputError(
                        f"{self.path}: has changed while it was read; try again"
                    )
                place = f"{self.path}: {dataset.name!r} (image id {excerpt(image_id)})"
                yield StoredImage(place, dataset[()])


def open_array(path: epath.Path) -> ArrayContent | None:
    """Returns the array of all images; None if the file has an array per image.

    Raises:
      InputError: if the file cannot be read, or an array is invalid.
    """
    with _open(path) as file:
        dataset = _named(path, file, _FEATURES)
        if dataset is None or not hasattr(dataset, "shape"):
            return None
        if "pos_boxes" in file:
            raise InputError(
                f"{path}: holds regions of all images in one axis (pos_boxes); "
                "expected features [images, regions, dim] with num_boxes, or one "
                "dataset for each image id"
            )
        name = f"{path}: {dataset.name!r}"
        _check_is_inside(path, file, dataset)
        shape, dtype = dataset.shape, dataset.dtype
        feature_array.check_layout(name, shape or (), dtype)
        stored_rows = dataset.chunks[0] if dataset.chunks else 1
        array = Hdf5Array(path, dataset.name, shape, dtype, stored_rows)
        counts = _column(path, file, _COUNTS, shape[0])
        ids = _column(path, file, _IDS, shape[0])
        return ArrayContent(
            array,
            f"{path}: {counts[0]!r}",
            None if counts[1] is None else _as_integers(path, *counts),
            None if ids[1] is None else _as_text(path, *ids),
        )


def open_images(
    path: epath.Path, split: layout_captions.SplitCaptions, ids_path: epath.Path
) -> Hdf5Images:
    """Checks the array of each image, without reading its values.

    Raises:
      InputError: if an image has no array, or an array is invalid.
    """
    missing, shapes, first = [], {}, None
    with _open(path) as file:
        root = _root(path, file)
        for image, image_id in enumerate(split.image_ids):
            dataset = _find(path, root, image_id)
            if dataset is None:
                missing.append(image)
                continue
            first = first or (dataset.name, dataset.shape)
            _check_image(path, dataset, *first)
            shapes[dataset.shape, dataset.dtype] = None
        if missing:
            names = list(itertools.islice(root, 2)) or ["nothing"]
            raise layout_captions.missing_id(split, ids_path, missing, path.name, names)
    return Hdf5Images(
        path,
        split.image_ids,
        has_regions=len(first[1]) == 2,
        dim=first[1][-1],
        dtype=np.result_type(*(dtype for _, dtype in shapes)),
        image_bytes=max(math.prod(shape) * dtype.itemsize for shape, dtype in shapes),
    )


def _check_image(
    path: epath.Path, dataset: Any, first_name: str, first_shape: tuple[int, ...]
) -> None:
    name = f"{path}: {dataset.name!r}"
    feature_array.check_float(name, dataset.dtype)
    shape = dataset.shape or ()
    if len(shape) not in (1, 2) or 0 in shape:
        raise InputError(
            f"{name}: has the shape {list(shape)}; expected [regions, dim] with at "
            "least one region, or [dim]"
        )
    if (len(shape), shape[-1]) != (len(first_shape), first_shape[-1]):
        raise InputError(
            f"{name}: has the shape {list(shape)}, but {first_name!r} has "
            f"{list(first_shape)}; expected the same rank and dim of every image"
        )


@contextlib.contextmanager
def _open(path: epath.Path) -> Iterator[Any]:
    """Opens a file, and reports what HDF5 cannot read."""
    try:
        import h5py  # optional
    except ImportError:
        raise InputError(
            f"{path}: HDF5 files are read with h5py, which is not installed: pip "
            "install h5py"
        ) from None
    try:
        with contextlib.ExitStack() as stack:
            if files.is_local(path):
                source = os.fspath(path)
            else:
                source = stack.enter_context(path.open("rb"))
            yield stack.enter_context(h5py.File(source, "r"))
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"{path}: cannot be read as HDF5: {one_line(error)}; copy or extract it "
            "again"
        ) from None


def _named(path: epath.Path, file: Any, names: Sequence[str]) -> Any:
    """Returns the object of one of some names; None if there is none."""
    present = [name for name in names if name in file]
    if len(present) > 1:
        raise InputError(
            f"{path}: holds both {present[0]!r} and {present[1]!r}; expected one of "
            "them: remove the other"
        )
    return _get(path, file, present[0]) if present else None


def _get(path: epath.Path, group: Any, name: str) -> Any:
    """Returns an object of the file itself; None if there is none."""
    import h5py

    try:
        link = group.get(name, getlink=True)
    except ValueError:  # no name that HDF5 could have
        return None
    if isinstance(link, h5py.ExternalLink):
        raise _is_outside(path, name)
    found = group.get(name)
    if found is not None:
        _check_is_inside(path, group, found)
    return found


def _check_is_inside(path: epath.Path, group: Any, found: Any) -> None:
    """Refuses links to other files, which may be any file of this machine."""
    is_dataset = hasattr(found, "shape")
    if found.file.filename != group.file.filename or (
        is_dataset and (found.is_virtual or found.external)
    ):
        raise _is_outside(path, found.name)


def _is_outside(path: epath.Path, name: str) -> InputError:
    return InputError(
        f"{path}: {name!r} is stored in another file; expected all features in this "
        "one: copy them into it"
    )


def _root(path: epath.Path, file: Any) -> Any:
    """Returns the group of the arrays per image."""
    group = _named(path, file, _FEATURES)
    return file if group is None else group


def _find(path: epath.Path, root: Any, image_id: str) -> Any:
    """Returns the dataset of an image; None if there is none."""
    for name in (image_id, f"{image_id}_features"):
        found = _get(path, root, name)
        if found is not None and not hasattr(found, "shape"):  # a group
            found = _get(path, found, "features")
        if found is not None and hasattr(found, "shape"):
            return found
    return None


def _column(
    path: epath.Path, file: Any, names: Sequence[str], rows: int
) -> tuple[str, np.ndarray | None]:
    """Returns name and values `[rows]` of a dataset; None if there is none."""
    dataset = _named(path, file, names)
    if dataset is None:
        return "", None
    shape = getattr(dataset, "shape", None)
    if shape not in ((rows,), (rows, 1)):
        raise InputError(
            f"{path}: {dataset.name!r} has the shape {list(shape or ())}; expected "
            f"[{rows}], one value for each row of the features"
        )
    return dataset.name, dataset[()].reshape(rows)


def _as_integers(path: epath.Path, name: str, values: np.ndarray) -> np.ndarray:
    if values.dtype.kind not in "iu":
        raise InputError(
            f"{path}: {name!r} holds values of type {values.dtype}; expected integers"
        )
    return feature_array.as_int64(values)


def _as_text(path: epath.Path, name: str, values: np.ndarray) -> list[str]:
    if values.dtype.kind not in "iuSO":
        raise InputError(
            f"{path}: {name!r} holds values of type {values.dtype}; expected strings "
            "or integers"
        )
    try:
        return [
            value.decode() if isinstance(value, bytes) else str(value)
            for value in values.tolist()
        ]
    except UnicodeDecodeError:
        raise InputError(
            f"{path}: {name!r} holds strings that are not UTF-8; expected image ids"
        ) from None
