"""Compares photos of every mode with values that are computed without PIL."""

import io
import struct

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tests.photo_files import encoded
from vse_jax.data.datasets import photo_modes, photos

RAMP = np.tile(np.arange(0, 240, 6), (16, 1))  # 16 x 40


def stored(content):
    """Returns the pixels of the stored photo, int `[height, width, 3]`."""
    return np.asarray(Image.open(io.BytesIO(photos.to_stored(content)))).astype(int)


def tiff(pixels, bits, *, kind=1, photometric=1, order="<"):
    """Returns a TIFF of one strip; `pixels` are bytes, `kind` is its SampleFormat."""
    width, height, data = pixels
    tags = [
        (256, 4, width),
        (257, 4, height),
        (258, 3, bits),
        (259, 3, 1),
        (262, 3, photometric),
        (273, 4, 8),
        (277, 3, 1),
        (278, 4, height),
        (279, 4, len(data)),
        (339, 3, kind),
    ]
    entries = b"".join(
        struct.pack(order + "HHI", tag, form, 1)
        + (
            struct.pack(
                order + ("I" if form == 4 else "HH"),
                *([value] if form == 4 else [value, 0]),
            )
        )
        for tag, form, value in tags
    )
    magic = b"II*\0" if order == "<" else b"MM\0*"
    header = magic + struct.pack(order + "I", 8 + len(data))
    return header + data + struct.pack(order + "H", len(tags)) + entries + b"\0" * 4


def pixels_of(array):
    return (array.shape[1], array.shape[0], array.tobytes())


def assert_gray(content, expected, tolerance=3):
    found = stored(content)
    assert found.shape == (*expected.shape, 3)
    assert np.abs(found - expected[:, :, None]).max() <= tolerance


@pytest.mark.parametrize("dtype", ["<f4", ">f4"])
def test_floats_from_0_to_1_are_scaled(dtype):
    values = (RAMP / 255).astype(dtype)
    content = tiff(pixels_of(values), 8 * values.itemsize, kind=3, order=dtype[0])
    assert_gray(content, RAMP)


def test_floats_of_64_bits_are_refused_by_name():
    values = (RAMP / 255).astype("<f8")
    with pytest.raises(photos.PhotoError, match="damaged or unsupported TIFF file"):
        photos.to_stored(tiff(pixels_of(values), 64, kind=3))


def test_portable_float_map_is_scaled():
    values = (RAMP[::-1] / 255).astype("<f4")  # from the bottom to the top
    assert_gray(b"Pf\n40 16\n-1.0\n" + values.tobytes(), RAMP)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (RAMP.astype("<f4"), "from 0 to 234"),
        (RAMP.astype("<f4") / 234 - 0.5, "from -0.5 to 0.5"),
        (RAMP.astype("<f4") / 233, "from 0 to 1.00429"),
        (np.where(RAMP == 6, np.nan, 0).astype("<f4"), "not finite"),
        (np.where(RAMP == 6, np.inf, 0).astype("<f4"), "not finite"),
        (RAMP.astype("<i4") * 65_000, "integer values of 32 bits from 0 to 1.521e+07"),
        (-RAMP.astype("<i4"), "from -234 to 0"),
    ],
)
def test_refuses_other_values_of_32_bits_with_their_range(values, words):
    kind = 3 if values.dtype.kind == "f" else 2
    with pytest.raises(photos.PhotoError, match="32 bits") as error:
        photos.to_stored(tiff(pixels_of(values), 32, kind=kind))
    assert words in str(error.value)


def test_integers_of_32_bits_from_0_to_1_are_scaled():
    mask = np.repeat(np.repeat([[0, 1], [1, 0]], 8, 0), 8, 1).astype("<i4")
    assert_gray(tiff(pixels_of(mask), 32, kind=2), 255 * mask.astype(int))


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("photometric", [0, 1])
def test_sixteen_bits_in_both_orders(order, photometric):
    if (order, photometric) == (">", 0):
        pytest.skip("a kind of TIFF that PIL does not read")
    values = (RAMP * 257).astype(order + "u2")
    expected = RAMP if photometric else 255 - RAMP
    content = tiff(pixels_of(values), 16, photometric=photometric, order=order)
    assert_gray(content, expected)


def test_twelve_bits_are_scaled_by_their_range():
    pairs = np.rint(RAMP * (4095 / 255)).astype(int).reshape(16, 20, 2)
    first, second = pairs[..., 0], pairs[..., 1]
    packed = np.stack(
        [first >> 4, (first & 15) << 4 | second >> 8, second & 255], -1
    ).astype(np.uint8)
    assert_gray(tiff((40, 16, packed.tobytes()), 12), RAMP)


@pytest.mark.parametrize("mode", ["I;16", "I;16B"])
def test_pictures_of_sixteen_bits_of_pil(mode):
    image = Image.frombytes(
        mode,
        (40, 16),
        (RAMP * 257).astype("<u2" if mode == "I;16" else ">u2").tobytes(),
    )
    assert np.abs(np.asarray(photo_modes.to_rgb(image))[..., 0] - RAMP).max() <= 1
    assert_gray(encoded(image, "TIFF"), RAMP)


@pytest.mark.parametrize("maximum", [255, 1023, 65535])
def test_portable_gray_maps(maximum):
    values = np.rint(RAMP * (maximum / 255)).astype(">u2" if maximum > 255 else "u1")
    assert_gray(b"P5 40 16 %d\n" % maximum + values.tobytes(), RAMP)


def test_gray_of_sixteen_bits_with_a_transparent_value():
    values = (RAMP * 257).astype(np.uint16)
    content = tf.io.encode_png(tf.constant(values[..., None])).numpy()
    at = content.index(b"IDAT") - 4
    chunk = b"tRNS" + int(values[0, 0]).to_bytes(2, "big")
    import zlib

    chunk = b"\0\0\0\2" + chunk + zlib.crc32(chunk).to_bytes(4, "big")
    expected = np.where(RAMP == 0, 255, RAMP)
    found = stored(content[:at] + chunk + content[at:])[..., 0]
    assert np.abs(found[:, 4:] - expected[:, 4:]).max() <= 6
    assert found[:, 0].min() > 200


def filled(mode, values):
    """Returns a picture of a mode that is filled with one color."""
    image = Image.new(mode, (32, 16))
    image.putdata([values] * (32 * 16))
    return image


def srgb_of_lab(lightness, a, b):
    """Converts CIELAB (white point D50) to sRGB (D65) by its definition."""
    fy = (lightness + 16) / 116
    f = np.array([fy + a / 500, fy, fy - b / 200])
    xyz = np.where(f**3 > 216 / 24389, f**3, (116 * f - 16) * 27 / 24389)
    xyz = xyz * [0.9642, 1.0, 0.8249]
    to_linear = np.array(  # Bradford's adaptation included
        [
            [3.1338561, -1.6168667, -0.4906146],
            [-0.9787684, 1.9161415, 0.0334540],
            [0.0719453, -0.2289914, 1.4052427],
        ]
    )
    linear = (to_linear @ xyz).clip(0, 1)
    curve = np.where(
        linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055
    )
    return 255 * curve


@pytest.mark.parametrize(
    "lab", [(50, 0, 0), (60, 40, 20), (70, -30, 30), (40, 10, -40)]
)
def test_lab(lab):
    lightness, a, b = lab
    pixel = bytes([round(lightness * 255 / 100), a % 256, b % 256])  # as TIFF stores it
    image = Image.frombytes("LAB", (32, 16), pixel * (32 * 16), "raw", "LAB")
    expected = srgb_of_lab(*lab)
    assert np.abs(stored(encoded(image, "TIFF")) - expected).max() <= 5


def test_ycbcr():
    luma, blue, red = 120, 100, 160
    expected = [
        luma + 1.402 * (red - 128),
        luma - 0.344136 * (blue - 128) - 0.714136 * (red - 128),
        luma + 1.772 * (blue - 128),
    ]
    image = filled("YCbCr", (luma, blue, red))
    assert np.abs(np.asarray(photo_modes.to_rgb(image)) - expected).max() <= 2
    assert np.abs(stored(encoded(image, "TIFF")) - expected).max() <= 5


@pytest.mark.parametrize("kind", ["TIFF", "JPEG"])
def test_cmyk(kind):
    ink = np.array([200, 30, 90, 40])
    expected = (255 - ink[:3]) * (255 - ink[3]) / 255
    image = filled("CMYK", tuple(ink.tolist()))
    assert np.abs(stored(encoded(image, kind)) - expected).max() <= 5


def test_hsv():
    # Hue 60 degrees of 360 (yellow), saturation 1/2, value 200.
    rgb = np.asarray(photo_modes.to_rgb(filled("HSV", (42, 128, 200))))[0, 0]
    assert np.abs(rgb.astype(int) - [200, 199, 100]).max() <= 3


@pytest.mark.parametrize("mode", ["LA", "La", "PA", "RGBa", "P"])
@pytest.mark.parametrize("alpha", [0, 128, 255])
def test_alpha_is_composited_over_white(mode, alpha):
    gray = 100
    expected = (gray * alpha + 255 * (255 - alpha)) / 255
    image = filled("LA", (gray, alpha))
    if mode == "La":
        image = image.convert("La")
    elif mode == "RGBa":
        image = image.convert("RGBA").convert("RGBa")
    elif mode in ("P", "PA"):
        index = filled("P", 7)
        index.putpalette([gray] * 768)
        if mode == "P":
            content = encoded(index, "PNG", transparency=bytes([alpha] * 256))
            assert np.abs(stored(content) - expected).max() <= 3
            return
        image = index.convert("PA")
        image.putalpha(alpha)
        assert image.mode == "PA"
    rgb = np.asarray(photo_modes.to_rgb(image)).astype(int)
    assert np.abs(rgb - expected).max() <= 2


def test_one_bit():
    image = Image.fromarray(np.repeat(np.repeat([[True, False]], 16, 0), 16, 1))
    for content in (encoded(image, "PNG"), encoded(image, "TIFF")):
        found = stored(content)
        assert found[:, :14].min() > 245
        assert found[:, 18:].max() < 10


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("mode", ["RGB", "F"])
def test_rotated_tiff_becomes_upright_once(mode, orientation):
    pixels = RAMP / 255 if mode == "F" else np.stack([RAMP] * 3, -1)
    image = Image.fromarray(pixels.astype(np.float32 if mode == "F" else np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    expected = np.rot90(RAMP, {1: 0, 3: 2, 6: 3, 8: 1}[orientation])
    assert_gray(encoded(image, "TIFF", exif=exif), expected)
