"""How the examples of a prepared dataset are read and parsed."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

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
    """What an example holds of its image, and how it is stored.

    Attributes:
      key: `regions`, `image` or `feature`.
      shape: of one example; the number of regions may be None, and height and width
        of images.
      dtype: as stored.
      encoding: `none`, `bytes` or `zlib` of TFDS's tensors; "" for images.
      fields: names of the other fields.
    """

    key: str
    shape: tuple[int | None, ...]
    dtype: tf.DType
    encoding: str
    fields: Fields

    @property
    def dim(self) -> int:
        """Dimensions of a region or of a feature."""
        return self.shape[-1]


def content_of(builder: tfds.core.DatasetBuilder) -> Content:
    """Returns what the dataset's examples hold of their images.

    Raises:
      InputError: none of the contents known here, or without a fixed size.
    """
    features = builder.info.features
    key = next((key for key in CONTENTS if key in features), None)
    if key is None:
        raise InputError(
            f"{builder.data_dir}: examples hold {', '.join(features)}; expected one of "
            f"{', '.join(CONTENTS)}; prepare the data anew"
        )
    feature = features[key]
    fixed = {"regions": feature.shape[1:], "image": feature.shape[2:]}
    if None in fixed.get(key, feature.shape):
        raise InputError(
            f"{builder.data_dir}: {key} have the shape {feature.shape}; expected a "
            "fixed size; prepare the data anew with all of one size"
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
        f"{expected}; prepare the data anew"
    )


class RecordReader:
    """Random access to the serialized examples of one split."""

    def __init__(self, builder: tfds.core.DatasetBuilder, split: str):
        """Opens the split, or a sum of splits such as `train+restval`.

        Raises:
          InputError: there is no such split, it is empty, or has no random access.
        """
        check_split(builder, split)
        raw = tfds.decode.DeserializeMethod.RAW_BYTES
        try:
            self._source = builder.as_data_source(split, deserialize_method=raw)
        except (NotImplementedError, ValueError):
            raise InputError(
                f"{builder.data_dir}: prepared as {builder.info.file_format}; expected "
                "ArrayRecord; delete the folder and prepare the data anew"
            ) from None

    def __len__(self) -> int:
        """Returns the number of records."""
        return len(self._source)

    def read(self, numbers: np.ndarray) -> np.ndarray:
        """Returns the serialized examples of some records: object (bytes) [batch].

        Raises:
          StopIteration: the program is ending.
        """
        # An array of objects, as numpy's own byte strings lose trailing zeros.
        records = np.empty(len(numbers), object)
        try:
            records[:] = self._source.__getitems__(numbers.tolist())
        except RuntimeError as error:
            # TensorFlow, which calls this in a thread of its own, prints a stack trace
            # of any error but this one.
            if "after interpreter shutdown" in str(error):
                raise StopIteration from None
            raise
        return records


def has_split(builder: tfds.core.DatasetBuilder, split: str) -> bool:
    """Tells whether the dataset has a split, or all splits of a sum."""
    return all(part in builder.info.splits for part in split.split("+"))


def check_split(builder: tfds.core.DatasetBuilder, split: str) -> None:
    """Raises InputError if the dataset has no such split or if it is empty.

    Args:
      builder: a prepared dataset.
      split: its name, or a sum such as `train+restval`.
    """
    splits, parts = builder.info.splits, split.split("+")
    for part in parts:
        if part not in splits:
            raise InputError(
                f"{builder.data_dir}: there is no split {part!r}; expected one of "
                f"{', '.join(splits) or 'none, the data is not prepared'}"
            )
        if not splits[part].num_examples:
            raise InputError(
                f"{builder.data_dir}: the split {part!r} is empty; expected at least "
                "one image; mend the source files and prepare the data anew"
            )
    if len(set(parts)) < len(parts):
        raise InputError(
            f"{builder.data_dir}: the sum of splits {split!r} names one twice; "
            "expected each once"
        )


def unreadable(
    builder: tfds.core.DatasetBuilder, split: str, error: Exception
) -> InputError:
    """Returns the one line to raise when a record of a split cannot be read."""
    return InputError(
        f"{builder.data_dir}: the split {split!r} cannot be read ({one_line(error)}); "
        "delete the folder and prepare the data anew"
    )


def parse_captions(
    content: Content, serialized: tf.Tensor
) -> tuple[tf.Tensor, tf.RaggedTensor, tf.Tensor]:
    """Parses all but the images.

    Args:
      content: what the examples hold.
      serialized: string [batch].

    Returns:
      image_id string [batch]; captions string [batch, (captions)]; region_count int64
      [batch], 0 where the content is not regions.
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
    """Parses the images; those that are encoded have one size.

    Args:
      content: what the examples hold.
      serialized: string [batch].
      regions: how many to pad to; unused unless the content is regions.

    Returns:
      regions float16 [batch, regions, dim], padded with zeros; or image uint8
      [batch, height, width, 3]; or feature float32 [batch, dim].
    """
    if content.key == "image":
        return _decode_images(content, serialized)
    if content.key == "regions":
        shape, dtype = (regions, content.dim), tf.float16
    else:
        shape, dtype = content.shape, tf.float32
    flat = _decode_numbers(content, serialized, math.prod(shape))
    return tf.cast(tf.reshape(flat, (-1, *shape)), dtype)


def parse_encoded(content: Content, serialized: tf.Tensor) -> tf.Tensor:
    """Parses images without decoding them: string [batch] to string [batch]."""
    return _parse_bytes(content, serialized)


def parse_stored(
    content: Content, serialized: tf.Tensor
) -> tf.Tensor | tf.RaggedTensor:
    """Parses what is stored of the images, without decoding it.

    Args:
      content: what the examples hold.
      serialized: string [batch].

    Returns:
      String [batch], or float32 [batch, (numbers)] where numbers are stored as a list.
    """
    if content.encoding == "none":
        return _parse_floats(content, serialized)
    return _parse_bytes(content, serialized)


def decode_each(content: Content, serialized: np.ndarray) -> list[np.ndarray]:
    """Decodes images of any sizes: a list of uint8 [height, width, 3]."""
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
    # TensorFlow decodes padded float16 only by way of bytes.
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
    """Returns the dataset, whose parallelism is as it says.

    TensorFlow's tuner sleeps for up to a minute at a time, and whoever closes an
    iterator waits until it wakes up.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)


def dataset_of_records(
    reader: RecordReader, numbers: Sequence[np.ndarray]
) -> tf.data.Dataset:
    """Returns serialized examples [batch], an element for each array of numbers."""

    def read(position: np.ndarray) -> np.ndarray:
        return reader.read(numbers[position])

    dataset = without_autotuning(tf.data.Dataset.range(len(numbers)))
    return dataset.map(
        lambda position: tf.ensure_shape(
            tf.numpy_function(read, [position], tf.string, stateful=False), [None]
        ),
        num_parallel_calls=2,
        deterministic=True,
    )
