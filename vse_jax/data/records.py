"""Reads and parses the examples of a prepared dataset."""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from etils import epath

from vse_jax import files
from vse_jax.errors import InputError, one_line

CONTENTS = ("regions", "image", "feature")


@dataclasses.dataclass(frozen=True)
class Fields:
    """Names of the fields that every example has."""

    image_id: str
    captions: str


# Our datasets' names, and those of TFDS's coco_captions.
_ALL_FIELDS = (
    Fields(image_id="image_id", captions="captions"),
    Fields(image_id="image/filename", captions="captions/text"),
)


@dataclasses.dataclass(frozen=True)
class Content:
    """The image content of an example and how it is stored.

    Attributes:
      key: `regions`, `image` or `feature`.
      shape: shape of the content of one example. The number of regions is None if it
        varies, and so are the height and width of images.
      dtype: dtype of the stored values.
      encoding: encoding of TFDS's tensor: `none`, `bytes` or `zlib`; "" for images.
      fields: names of the other fields.
    """

    key: str
    shape: tuple[int | None, ...]
    dtype: tf.DType
    encoding: str
    fields: Fields

    @property
    def dim(self) -> int:
        """Number of dimensions of a region or a feature."""
        return self.shape[-1]


def content_of(builder: tfds.core.DatasetBuilder) -> Content:
    """Returns the image content of the dataset's examples.

    Raises:
      InputError: if the examples have none of `CONTENTS`, or one without a fixed size.
    """
    features = builder.info.features
    key = next((key for key in CONTENTS if key in features), None)
    if key is None:
        raise InputError(
            f"{builder.data_dir}: examples hold {', '.join(features)}; expected one of "
            f"{', '.join(CONTENTS)}; prepare the data again"
        )
    feature = features[key]
    fixed = {"regions": feature.shape[1:], "image": feature.shape[2:]}
    if None in fixed.get(key, feature.shape):
        raise InputError(
            f"{builder.data_dir}: {key} have the shape {feature.shape}; expected a "
            "fixed size; prepare the data again with a single size"
        )
    encoding = "" if key == "image" else feature.to_json_content().encoding
    fields = _fields_of(builder)
    return Content(key, feature.shape, feature.tf_dtype, encoding, fields)


def _fields_of(builder: tfds.core.DatasetBuilder) -> Fields:
    features = builder.info.features
    for fields in _ALL_FIELDS:
        if fields.image_id in features and fields.captions.split("/")[0] in features:
            return fields
    expected = " or ".join(f"{f.image_id} and {f.captions}" for f in _ALL_FIELDS)
    raise InputError(
        f"{builder.data_dir}: examples hold {', '.join(features)}; expected "
        f"{expected}; prepare the data again"
    )


class RecordReader:
    """Random access to the serialized examples of one split."""

    def __init__(self, builder: tfds.core.DatasetBuilder, split: str):
        """Opens a split, or a sum of splits such as `train+restval`.

        Raises:
          InputError: if the split does not exist, is empty or has no random access.
        """
        check_split(builder, split)
        raw = tfds.decode.DeserializeMethod.RAW_BYTES
        try:
            self._source = builder.as_data_source(split, deserialize_method=raw)
        except (NotImplementedError, ValueError):
            raise InputError(
                f"{builder.data_dir}: prepared as {builder.info.file_format}; expected "
                "ArrayRecord; delete the folder and prepare the data again"
            ) from None

    def __len__(self) -> int:
        """Returns the number of records."""
        return len(self._source)

    def read(self, numbers: np.ndarray) -> np.ndarray:
        """Returns serialized examples as an object array of bytes, `[batch]`.

        Args:
          numbers: record numbers, int `[batch]`.

        Raises:
          StopIteration: if the interpreter is shutting down.
        """
        # An object array, because numpy's byte strings drop trailing zeros.
        records = np.empty(len(numbers), object)
        try:
            records[:] = self._source.__getitems__(numbers.tolist())
        except RuntimeError as error:
            # TensorFlow calls this in one of its threads and prints a stack trace for
            # every error except StopIteration.
            if "after interpreter shutdown" in str(error):
                raise StopIteration from None
            raise
        return records


def has_split(builder: tfds.core.DatasetBuilder, split: str) -> bool:
    """Returns whether the dataset has a split, or all splits of a sum."""
    return all(part in builder.info.splits for part in split.split("+"))


def check_split(builder: tfds.core.DatasetBuilder, split: str) -> None:
    """Raises InputError if a split does not exist or is empty.

    Args:
      builder: a prepared dataset.
      split: name of a split, or a sum such as `train+restval`.
    """
    splits, parts = builder.info.splits, split.split("+")
    for part in parts:
        if part not in splits:
            raise InputError(
                f"{builder.data_dir}: there is no split {part!r}; expected one of "
                f"{', '.join(splits) or 'none, as the data is not prepared'}"
            )
        if not splits[part].num_examples:
            raise InputError(
                f"{builder.data_dir}: the split {part!r} is empty; expected at least "
                "one image; fix the source files and prepare the data again"
            )
    if len(set(parts)) < len(parts):
        raise InputError(
            f"{builder.data_dir}: the sum of splits {split!r} repeats a split; "
            "expected each split once"
        )


def unreadable(
    builder: tfds.core.DatasetBuilder, split: str, error: Exception
) -> InputError:
    """Returns the error to raise when a record of a split cannot be read."""
    return InputError(
        f"{builder.data_dir}: the split {split!r} cannot be read ({one_line(error)}); "
        "delete the folder and prepare the data again"
    )


def status_of_split(builder: tfds.core.DatasetBuilder, split: str) -> list:
    """Returns the name, size and time of each file of a split, or of a sum of splits.

    Raises:
      InputError: if a file is missing or cannot be read.
    """
    paths = [
        epath.Path(path)
        for part in split.split("+")
        for path in builder.info.splits[part].filepaths
    ]
    try:
        return [[path.name, *files.size_and_time(path)] for path in paths]
    except OSError as error:
        raise unreadable(builder, split, error) from error


def parse_captions(
    content: Content, serialized: tf.Tensor
) -> tuple[tf.Tensor, tf.RaggedTensor, tf.Tensor]:
    """Parses everything except the image content.

    Args:
      content: image content of the examples.
      serialized: string `[batch]`.

    Returns:
      image_id, string `[batch]`; captions, string `[batch, (captions)]`; and
      region_count, int64 `[batch]`, which is 0 if the content is not regions.
    """
    fields = content.fields
    spec = {
        fields.image_id: tf.io.FixedLenFeature([], tf.string),
        fields.captions: tf.io.RaggedFeature(tf.string),
    }
    batch = tf.shape(serialized)[:1]
    if content.key != "regions":
        region_count = tf.zeros(batch, tf.int64)
    elif content.shape[0] is not None:
        region_count = tf.fill(batch, tf.constant(content.shape[0], tf.int64))
    else:
        region_count = _numbers_stored(content, serialized) // content.dim
    example = tf.io.parse_example(serialized, spec)
    return example[fields.image_id], example[fields.captions], region_count


def parse_content(content: Content, serialized: tf.Tensor, regions: int) -> tf.Tensor:
    """Parses and decodes the image content; images must have a fixed size.

    Args:
      content: image content of the examples.
      serialized: string `[batch]`.
      regions: number of regions to pad to; ignored for other contents.

    Returns:
      regions, float16 `[batch, regions, dim]`, padded with zeros; or image, uint8
      `[batch, height, width, 3]`; or feature, float32 `[batch, dim]`.
    """
    if content.key == "image":
        return _decode_images(content, serialized)
    spec = parsed_spec(content, regions)
    flat = _decode_numbers(content, serialized, spec.shape.num_elements())
    return tf.cast(tf.reshape(flat, (-1, *spec.shape)), spec.dtype)


def parsed_spec(content: Content, regions: int) -> tf.TensorSpec:
    """Returns the shape and dtype of a row of `parse_content`, whose arguments it has.

    The height and width are None if those of the images vary.
    """
    if content.key == "regions":
        return tf.TensorSpec((regions, content.dim), tf.float16)
    dtype = tf.uint8 if content.key == "image" else tf.float32
    return tf.TensorSpec(content.shape, dtype)


def parse_encoded(content: Content, serialized: tf.Tensor) -> tf.Tensor:
    """Returns encoded images, string `[batch]`, of serialized examples `[batch]`."""
    return _parse_bytes(content, serialized)


def parse_stored(
    content: Content, serialized: tf.Tensor
) -> tf.Tensor | tf.RaggedTensor:
    """Returns the image content as it is stored, without decoding it.

    Args:
      content: image content of the examples.
      serialized: string `[batch]`.

    Returns:
      String `[batch]`, or float32 `[batch, (values)]` if the values are stored as a
      list.
    """
    if content.encoding == "none":
        return _parse_floats(content, serialized)
    return _parse_bytes(content, serialized)


def decode_each(content: Content, serialized: np.ndarray) -> list[np.ndarray]:
    """Decodes images of any size to a list of uint8 `[height, width, 3]`."""
    return [
        tf.io.decode_image(encoded, channels=3, expand_animations=False).numpy()
        for encoded in parse_encoded(content, serialized)
    ]


def _decode_images(content: Content, serialized: tf.Tensor) -> tf.Tensor:
    def decode(encoded: tf.Tensor) -> tf.Tensor:
        image = tf.io.decode_image(encoded, channels=3, expand_animations=False)
        return tf.ensure_shape(image, content.shape)

    return tf.map_fn(
        decode,
        _parse_bytes(content, serialized),
        fn_output_signature=tf.TensorSpec(content.shape, tf.uint8),
    )


def _decode_numbers(content: Content, serialized: tf.Tensor, count: int) -> tf.Tensor:
    if content.encoding == "none":
        return _parse_floats(content, serialized).to_tensor(shape=(None, count))
    # TensorFlow pads only bytes while decoding, not float16.
    size = content.dtype.size
    encoded = _parse_bytes(content, serialized)
    flat = tf.io.decode_raw(encoded, tf.uint8, fixed_length=count * size)
    return tf.bitcast(tf.reshape(flat, (-1, count, size)), content.dtype)


def _numbers_stored(content: Content, serialized: tf.Tensor) -> tf.Tensor:
    if content.encoding == "none":
        return _parse_floats(content, serialized).row_lengths()
    encoded = _parse_bytes(content, serialized)
    return tf.cast(tf.strings.length(encoded) // content.dtype.size, tf.int64)


def _parse_floats(content: Content, serialized: tf.Tensor) -> tf.RaggedTensor:
    spec = {content.key: tf.io.RaggedFeature(tf.float32)}
    return tf.io.parse_example(serialized, spec)[content.key]


def _parse_bytes(content: Content, serialized: tf.Tensor) -> tf.Tensor:
    spec = {content.key: tf.io.FixedLenFeature([], tf.string)}
    encoded = tf.io.parse_example(serialized, spec)[content.key]
    if content.encoding == "zlib":
        return tf.io.decode_compressed(encoded, compression_type="ZLIB")
    return encoded


def without_autotuning(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Returns the dataset with autotuning disabled.

    TensorFlow's autotuner sleeps for up to a minute at a time, and closing an iterator
    blocks until it wakes up.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)


def read_contents(
    builder: tfds.core.DatasetBuilder,
    split: str,
    numbers: Sequence[np.ndarray],
    regions: int,
    parallel_calls: int = 2,
) -> Iterator[np.ndarray]:
    """Yields the image content of records, parsed as by `parse_content`.

    Args:
      builder: a prepared dataset.
      split: name of the split.
      numbers: arrays of record numbers, one per array of contents.
      regions: number of regions to pad to; ignored for other contents.
      parallel_calls: number of arrays to read in parallel.

    Raises:
      InputError: if a record cannot be read.
    """
    content = content_of(builder)
    reader = RecordReader(builder, split)
    dataset = dataset_of_records(reader, numbers, parallel_calls).map(
        lambda serialized: parse_content(content, serialized, regions),
        num_parallel_calls=parallel_calls,
        deterministic=True,
    )
    try:
        yield from dataset.prefetch(1).as_numpy_iterator()
    except tf.errors.OpError as error:
        raise unreadable(builder, split, error) from error


def dataset_of_records(
    reader: RecordReader, numbers: Sequence[np.ndarray], parallel_calls: int = 2
) -> tf.data.Dataset:
    """Returns a dataset of serialized examples, one batch per array of numbers."""

    def read(position: np.ndarray) -> np.ndarray:
        return reader.read(numbers[position])

    dataset = without_autotuning(tf.data.Dataset.range(len(numbers)))
    return dataset.map(
        lambda position: tf.ensure_shape(
            tf.numpy_function(read, [position], tf.string, stateful=False), [None]
        ),
        num_parallel_calls=parallel_calls,
        deterministic=True,
    )
