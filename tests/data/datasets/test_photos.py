"""Compares stored photos of all kinds with PIL; damaged photos are refused."""

import io
import random

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tests.photo_files import decoded, drawn, encoded
from vse_jax.data.datasets import photos

SIZE = (40, 30)
RED = (250, 10, 20)


def stored_image(content):
    """Returns a stored photo after checking what all stored photos have in common."""
    stored = photos.to_stored(content)
    image = Image.open(io.BytesIO(stored))
    assert image.format == "JPEG"
    assert image.mode == "RGB"
    assert image.getexif().get(0x0112, 1) == 1
    return np.asarray(image).astype(int)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("options", [{}, {"optimize": True}])
def test_plain_photo_stays_as_it_is(kind, options):
    content = encoded(drawn(*SIZE), kind, **options)
    assert photos.to_stored(content) == content


def test_plain_photo_with_harmless_exif_stays_as_it_is():
    exif = Image.Exif()
    exif[0x0112] = 1
    exif[0x010F] = "a camera"
    content = encoded(drawn(*SIZE), exif=exif)
    assert photos.to_stored(content) == content


@pytest.mark.parametrize(
    ("kind", "mode"),
    [("JPEG", "L"), ("JPEG", "CMYK")]
    + [("PNG", mode) for mode in ("L", "1", "P", "LA", "RGBA")],
)
def test_other_modes_become_rgb(kind, mode):
    image = drawn(*SIZE)
    image = image.quantize(64, dither=0) if mode == "P" else image.convert(mode)
    expected = np.asarray(image.convert("RGB")).astype(int)
    stored = stored_image(encoded(image, kind))
    noise = 40 if mode == "1" else 6  # of the JPEG; dithering compresses badly
    assert np.abs(stored - expected).mean() < noise


@pytest.mark.parametrize("kind", ["GIF", "BMP", "WEBP", "TIFF", "PPM"])
def test_other_formats_become_jpeg(kind):
    image = drawn(*SIZE)
    stored = stored_image(encoded(image, kind))
    assert np.abs(stored - np.asarray(image).astype(int)).mean() < 6


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_pixels_become_white(mode):
    pixels = np.zeros((*SIZE[::-1], 4), np.uint8)
    pixels[:, 20:] = (*RED, 255)
    pixels[:, :20, 1] = 200  # an invisible color
    image = Image.fromarray(pixels).convert("LA" if mode == "LA" else "RGBA")
    if mode == "P":
        image = image.quantize(4)
    stored = stored_image(encoded(image, "PNG"))
    assert stored[:, :10].min() > 240
    assert stored[:, 30:, 2].max() < 120
    half = Image.new("RGBA", SIZE, (0, 0, 0, 128))
    assert abs(stored_image(encoded(half, "PNG")).mean() - 127) < 3


def test_color_that_png_declares_transparent_becomes_white():
    image = drawn(*SIZE)
    image.paste(RED, (0, 0, 20, 30))
    stored = stored_image(encoded(image, "PNG", transparency=RED))
    assert stored[:, :10].min() > 240


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_of_gray_become_eight(kind):
    ramp = np.linspace(0, 65535, 40).astype(np.uint16)
    image = Image.fromarray(np.tile(ramp, (30, 1)))
    stored = stored_image(encoded(image, kind))
    assert np.abs(stored[:, :, 0] - ramp / 257).max() < 4


def test_sixteen_bits_of_color_become_eight():
    rng = np.random.default_rng(0)
    high = np.repeat(np.repeat(rng.integers(0, 256, (4, 5, 3)), 8, 0), 8, 1)
    content = tf.io.encode_png(tf.constant(high * 257, tf.uint16)).numpy()
    assert np.abs(stored_image(content) - high).mean() < 10


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_rotated_photo_becomes_upright(kind, orientation):
    image = drawn(*SIZE)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = stored_image(encoded(image, kind, exif=exif))
    # From the upright to the stored photo, by EXIF's orientation (EXIF 2.3, 4.6.4).
    array = np.asarray(image).astype(int)
    expected = {
        2: array[:, ::-1],
        3: array[::-1, ::-1],
        4: array[::-1],
        5: array.transpose(1, 0, 2),
        6: array[::-1].transpose(1, 0, 2),
        7: array[::-1, ::-1].transpose(1, 0, 2),
        8: array[:, ::-1].transpose(1, 0, 2),
    }[orientation]
    assert stored.shape == expected.shape
    assert np.abs(stored - expected).mean() < 6


def test_only_the_first_picture_of_an_animation():
    frames = [drawn(*SIZE, seed=seed) for seed in range(3)]
    content = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert np.abs(stored_image(content) - np.asarray(frames[0]).astype(int)).mean() < 9


@pytest.mark.parametrize(
    "content", [b"", b"no photo", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"GIF89a"]
)
def test_refuses_files_that_are_not_photos(content):
    with pytest.raises(photos.PhotoError) as error:
        photos.to_stored(content)
    assert "\n" not in str(error.value)
    assert str(error.value)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "TIFF"])
def test_refuses_truncated_photos(kind):
    content = encoded(drawn(*SIZE), kind)
    with pytest.raises(photos.PhotoError):
        photos.to_stored(content[: len(content) // 2])


def test_refuses_damaged_pixels_of_a_png():
    """PIL decodes a PNG to find its EXIF, and does not raise the error again."""
    content = encoded(drawn(*SIZE), "PNG")
    begin = content.index(b"IDAT") + 4
    generator = random.Random(0)
    refused = 0
    for _ in range(40):
        damaged = bytearray(content)
        damaged[generator.randrange(begin, len(content))] ^= 16
        try:
            Image.open(io.BytesIO(damaged)).load()
        except (OSError, SyntaxError):
            refused += 1
            with pytest.raises(photos.PhotoError):
                photos.to_stored(bytes(damaged))
    assert refused > 30


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_tensorflow_decodes_all_stored_photos(kind):
    """PIL decodes files that TensorFlow does not, such as truncated ones."""
    whole = encoded(drawn(*SIZE), kind)
    generator = random.Random(0)
    stored = refused = converted = 0
    for trial in range(120):
        content = bytearray(whole)
        if trial % 2:
            content = content[: -generator.randrange(1, 16)]
        else:
            for _ in range(generator.choice([1, 20])):
                content[generator.randrange(len(content))] = generator.randrange(256)
        content = bytes(content)
        try:
            result = photos.to_stored(content)
        except photos.PhotoError:
            refused += 1
            continue
        stored += 1
        converted += result != content
        assert tf.io.decode_image(result, channels=3).shape == decoded(result).shape
    assert stored
    assert refused
    assert converted or kind == "JPEG"  # which TensorFlow rarely rejects


def test_damaged_exif_does_no_harm():
    content = encoded(
        drawn(*SIZE), exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\xff" * 9
    )
    assert photos.to_stored(content) == content


def test_refuses_decompression_bombs_by_their_header():
    content = bytearray(encoded(drawn(*SIZE), "PNG"))
    for side in (10_001, 2**31 - 1):
        content[16:24] = side.to_bytes(4, "big") * 2
        with pytest.raises(photos.PhotoError):
            photos.to_stored(_with_checksum(bytes(content)))


def _with_checksum(png):
    import zlib

    return png[:29] + zlib.crc32(png[12:29]).to_bytes(4, "big") + png[33:]
