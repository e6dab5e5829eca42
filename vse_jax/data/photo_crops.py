"""Decodes and crops photos: at random for training, one or ten crops for evaluation.

The geometry is that of torchvision's RandomResizedCrop, Resize, CenterCrop and TenCrop,
as the papers use them. The resampling is PIL's: bilinear, bicubic or Lanczos, with a
filter that widens with the scale when it shrinks a photo. `opencv` is bilinear without
this: a pixel depends on four others only. Of a JPEG, only the part that a crop needs is
decoded.
"""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from vse_jax.data.photo_geometry import INTERPOLATIONS, Geometry
from vse_jax.data.sampling import CROP_STREAM, random_uniform

_ATTEMPTS = 10
_AREA = (0.08, 1.0)  # of a random crop, as a share of the photo
_RATIO = (3 / 4, 4 / 3)  # of width to height
_LONGEST = 8  # times the shorter side; ten crops of longer photos resize parts alone
_DCT_METHOD = "INTEGER_ACCURATE"  # as PIL does
# Areas and ratios of all attempts, the crop's position, and whether it is mirrored.
_NUMBERS = 2 * _ATTEMPTS + 3


class Window(NamedTuple):
    """A part of a photo in whole pixels; all fields are int32 scalars."""

    top: tf.Tensor
    left: tf.Tensor
    height: tf.Tensor
    width: tf.Tensor


class _Axis(NamedTuple):
    """How an axis of a photo maps to the same axis of its crop.

    Attributes:
      begin, length: int32, range of the input pixels that are needed.
      scale: float32, output pixels per input pixel.
      translation: float32, output position of the first needed pixel.
    """

    begin: tf.Tensor
    length: tf.Tensor
    scale: tf.Tensor
    translation: tf.Tensor


def crop_numbers(seed: int, pass_number: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Returns the random numbers for the crops of a batch.

    Args:
      seed: seed of the run.
      pass_number: int `[batch]`.
      image: int `[batch]`, record numbers.

    Returns:
      float64 `[batch, 23]` in [0, 1), for `random_crops`.
    """
    return random_uniform(seed, CROP_STREAM, pass_number, image, count=_NUMBERS)


def random_crops(
    encoded: tf.Tensor,
    numbers: tf.Tensor,
    size: int,
    interpolation: str = "bilinear",
) -> tf.Tensor:
    """Decodes and resizes random parts of photos, and mirrors half of them.

    A part has 8% to 100% of the photo's area and an aspect ratio of 3:4 to 4:3; see
    torchvision's RandomResizedCrop, and Szegedy et al., CVPR 2015.

    Args:
      encoded: string `[batch]`, JPEG or PNG.
      numbers: float64 `[batch, 23]`, from `crop_numbers`.
      size: height and width of the crops in pixels.
      interpolation: one of `photo_geometry.INTERPOLATIONS`.

    Returns:
      uint8 `[batch, size, size, 3]`.
    """

    def crop(inputs: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        one, own = inputs

        def axes(height: tf.Tensor, width: tf.Tensor) -> tuple[_Axis, _Axis]:
            window = random_window(own, height, width)
            return (
                _whole_axis(window.top, window.height, size),
                _whole_axis(window.left, window.width, size),
            )

        pixels = _decode_and_resize(one, axes, size, interpolation)
        return tf.cond(own[-1] < 0.5, lambda: _mirror(pixels), lambda: pixels)

    return _map((encoded, numbers), crop, (size, size, 3))


def center_crops(encoded: tf.Tensor, geometry: Geometry) -> tf.Tensor:
    """Decodes photos, resizes their shorter side, and crops the center.

    Args:
      encoded: string `[batch]`, JPEG or PNG.
      geometry: of the crops. Without a shorter side, photos are stretched instead.

    Returns:
      uint8 `[batch, size, size, 3]`.
    """
    size, shorter, interpolation, rounds_down = geometry

    def axes(height: tf.Tensor, width: tf.Tensor) -> tuple[_Axis, _Axis]:
        if not shorter:
            zero = tf.zeros([], tf.int32)
            return _whole_axis(zero, height, size), _whole_axis(zero, width, size)
        resized = _resized_shape(height, width, shorter)
        return tuple(
            _part_of_axis(old, new, _center_offset(new, size, rounds_down), size)
            for old, new in zip((height, width), resized, strict=True)
        )

    def crop(one: tf.Tensor) -> tf.Tensor:
        return _decode_and_resize(one, axes, size, interpolation)

    return _map(encoded, crop, (size, size, 3))


def ten_crops(encoded: tf.Tensor, geometry: Geometry) -> tf.Tensor:
    """Decodes photos, resizes their shorter side, and takes ten crops of each.

    Args:
      encoded: string `[batch]`, JPEG or PNG.
      geometry: of the crops, with a shorter side.

    Returns:
      uint8 `[batch, 10, size, size, 3]`: the corners (top left, top right, bottom left,
      bottom right) and the center, then the same crops of the mirrored photo.
    """
    size, shorter, interpolation, _ = geometry

    def crop(one: tf.Tensor) -> tf.Tensor:
        pixels = _decode(one)
        height, width = tf.shape(pixels)[0], tf.shape(pixels)[1]
        shape = _resized_shape(height, width, shorter)

        def of_whole() -> tf.Tensor:
            rows = _whole_axis(tf.zeros([], tf.int32), height, shape[0])
            columns = _whole_axis(tf.zeros([], tf.int32), width, shape[1])
            resized = _resize(pixels, rows, columns, tf.stack(shape), interpolation)
            return tf.stack(
                [
                    some[top : top + size, left : left + size]
                    for some in (resized, _mirror(resized))
                    for top, left in _five_places(shape, size)
                ]
            )

        longer = tf.maximum(shape[0], shape[1])
        return tf.cond(
            longer <= _LONGEST * shorter,
            of_whole,
            lambda: _crops_of_parts(pixels, shape, size, interpolation),
        )

    return _map(encoded, crop, (10, size, size, 3))


def _crops_of_parts(
    pixels: tf.Tensor, shape: tuple[tf.Tensor, tf.Tensor], size: int, interpolation: str
) -> tf.Tensor:
    """Returns ten crops of a photo that would become `shape`, which may be huge."""
    old = tf.shape(pixels)[0], tf.shape(pixels)[1]

    def part(*offsets: tf.Tensor) -> tf.Tensor:
        rows, columns = (
            _part_of_axis(*lengths, offset, size)
            for *lengths, offset in zip(old, shape, offsets, strict=True)
        )
        some = pixels[rows.begin :, columns.begin :][: rows.length, : columns.length]
        return _resize(some, rows, columns, [size, size], interpolation)

    places = _five_places(shape, size)
    mirrored = [(top, shape[1] - size - left) for top, left in places]
    return tf.stack(
        [part(*place) for place in places]
        + [_mirror(part(*place)) for place in mirrored]
    )


def random_window(numbers: tf.Tensor, height: tf.Tensor, width: tf.Tensor) -> Window:
    """Returns the first attempted part that fits in a photo, or else its middle.

    Args:
      numbers: float64 `[23]` in [0, 1).
      height: int32, height of the photo.
      width: int32, width of the photo.
    """
    pixels = tf.cast(height, tf.float64) * tf.cast(width, tf.float64)
    area = pixels * (_AREA[0] + (_AREA[1] - _AREA[0]) * numbers[:_ATTEMPTS])
    low, high = np.log(_RATIO)
    ratio = tf.exp(low + (high - low) * numbers[_ATTEMPTS : 2 * _ATTEMPTS])
    widths = _round(tf.sqrt(area * ratio))
    heights = _round(tf.sqrt(area / ratio))
    fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
    first = tf.argmax(fits)
    chosen_height, chosen_width = heights[first], widths[first]
    chosen = Window(
        top=_place(numbers[-3], height - chosen_height),
        left=_place(numbers[-2], width - chosen_width),
        height=chosen_height,
        width=chosen_width,
    )
    middle = _middle_window(height, width)
    found = tf.reduce_any(fits)
    return Window(*(tf.where(found, a, b) for a, b in zip(chosen, middle, strict=True)))


def _middle_window(height: tf.Tensor, width: tf.Tensor) -> Window:
    """Returns the largest central part of a photo with an allowed aspect ratio."""
    narrowest = _round(tf.cast(height, tf.float64) * _RATIO[1])
    lowest = _round(tf.cast(width, tf.float64) / _RATIO[0])
    own_width, own_height = tf.minimum(width, narrowest), tf.minimum(height, lowest)
    top, left = (height - own_height) // 2, (width - own_width) // 2
    return Window(top, left, own_height, own_width)


def _resized_shape(
    height: tf.Tensor, width: tf.Tensor, shorter: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns height and width, int32, after resizing the shorter side of a photo."""
    least = tf.minimum(height, width)
    return shorter * height // least, shorter * width // least


def _center_offset(
    length: tf.Tensor, size: int, rounds_down: bool = False
) -> tf.Tensor:
    """Returns the first pixel of a central crop, int32; see `Geometry`."""
    if rounds_down:
        return (length - size) // 2
    return _round(tf.cast(length - size, tf.float64) / 2)


def _place(number: tf.Tensor, room: tf.Tensor) -> tf.Tensor:
    """Returns one of the `room + 1` positions, int32."""
    places = tf.cast(room + 1, tf.float64)
    return tf.cast(tf.floor(number * places), tf.int32)


def _round(value: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.round(value), tf.int32)  # half to even, like Python's round


def _whole_axis(begin: tf.Tensor, length: tf.Tensor, new: int | tf.Tensor) -> _Axis:
    """Maps pixels `begin` to `begin + length` to `new` pixels, ignoring all others."""
    scale = tf.cast(new, tf.float32) / tf.cast(length, tf.float32)
    return _Axis(begin, length, scale, tf.zeros([]))


def _part_of_axis(
    old: tf.Tensor, new: tf.Tensor, offset: tf.Tensor, size: int
) -> _Axis:
    """Maps `old` pixels to `new`, and keeps `size` of them from `offset`."""
    scale = tf.cast(new, tf.float64) / tf.cast(old, tf.float64)
    # Half the width of the filter and one pixel, so that the filter is not truncated.
    margin = 1 / tf.minimum(scale, tf.ones([], tf.float64)) + 1
    first = tf.cast(offset, tf.float64) / scale - margin
    last = tf.cast(offset + size, tf.float64) / scale + margin
    begin = tf.maximum(0, tf.cast(tf.floor(first), tf.int32))
    end = tf.minimum(old, tf.cast(tf.math.ceil(last), tf.int32))
    translation = tf.cast(begin, tf.float64) * scale - tf.cast(offset, tf.float64)
    return _Axis(
        begin, end - begin, tf.cast(scale, tf.float32), tf.cast(translation, tf.float32)
    )


def _decode_and_resize(
    encoded: tf.Tensor, axes, size: int, interpolation: str
) -> tf.Tensor:
    """Decodes the part of a photo that `axes(height, width)` needs, and resizes it.

    Returns:
      uint8 `[size, size, 3]`.
    """

    def from_jpeg() -> tf.Tensor:
        shape = tf.image.extract_jpeg_shape(encoded)
        rows, columns = axes(shape[0], shape[1])
        window = [rows.begin, columns.begin, rows.length, columns.length]
        pixels = tf.image.decode_and_crop_jpeg(
            encoded, window, channels=3, dct_method=_DCT_METHOD
        )
        return _resize(pixels, rows, columns, [size, size], interpolation)

    def from_png() -> tf.Tensor:
        pixels = _decode(encoded)
        rows, columns = axes(tf.shape(pixels)[0], tf.shape(pixels)[1])
        pixels = pixels[rows.begin :, columns.begin :]
        pixels = pixels[: rows.length, : columns.length]
        return _resize(pixels, rows, columns, [size, size], interpolation)

    return tf.cond(tf.io.is_jpeg(encoded), from_jpeg, from_png)


def _decode(encoded: tf.Tensor) -> tf.Tensor:
    """Decodes a whole photo, JPEG or PNG: TensorFlow's `decode_jpeg` reads both."""
    return tf.io.decode_jpeg(encoded, channels=3, dct_method=_DCT_METHOD)


def _resize(
    pixels: tf.Tensor,
    rows: _Axis,
    columns: _Axis,
    shape: list[int] | tf.Tensor,
    interpolation: str,
) -> tf.Tensor:
    def resample() -> tf.Tensor:
        return tf.raw_ops.ScaleAndTranslate(
            images=pixels[None],
            size=shape,
            scale=[rows.scale, columns.scale],
            translation=[rows.translation, columns.translation],
            kernel_type=INTERPOLATIONS[interpolation],
            antialias=interpolation != "opencv",
        )

    def enlarge() -> tf.Tensor:
        """Equals `resample` of whole axes if they grow, and is several times as fast.

        With `opencv` it also does if they shrink.
        """
        return tf.raw_ops.ResizeBilinear(
            images=pixels[None], size=shape, half_pixel_centers=True
        )

    if interpolation not in ("bilinear", "opencv"):
        # These filters overshoot at edges.
        return _to_uint8(tf.clip_by_value(resample()[0], 0, 255))
    grows = tf.minimum(rows.scale, columns.scale) >= 1
    grows |= interpolation == "opencv"
    is_whole = (rows.translation == 0) & (columns.translation == 0)
    lengths = tf.stack([rows.length, columns.length])
    all_new = tf.cast(lengths, tf.float32) * [rows.scale, columns.scale]
    is_whole &= tf.reduce_all(
        (tf.shape(pixels)[:2] == lengths) & (_round(all_new) == shape)
    )
    resized = tf.cond(grows & is_whole, enlarge, resample)[0]
    return _to_uint8(resized)


def _to_uint8(pixels: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.round(pixels), tf.uint8)


def _mirror(pixels: tf.Tensor) -> tf.Tensor:
    return tf.reverse(pixels, [1])  # several times as fast as a slice with step -1


def _five_places(shape: tuple[tf.Tensor, tf.Tensor], size: int) -> list[tuple]:
    """Returns the first row and column of the corners and of the center, int32."""
    bottom, right = shape[0] - size, shape[1] - size
    middle = _center_offset(shape[0], size), _center_offset(shape[1], size)
    zero = tf.zeros([], tf.int32)
    return [(zero, zero), (zero, right), (bottom, zero), (bottom, right), middle]


def _map(inputs, function, shape: tuple[int, ...]) -> tf.Tensor:
    return tf.map_fn(
        function, inputs, fn_output_signature=tf.TensorSpec(shape, tf.uint8)
    )
