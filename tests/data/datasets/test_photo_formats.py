"""Only listed formats are opened, by content, up to a maximum of pixels."""

import io
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from tests.photo_files import drawn, encoded
from vse_jax.data.datasets import photo_formats, photos

POSTSCRIPT = (
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 40\n%%EndComments\n"
    b"showpage\n%%EOF\n"
)


def refusal(content, **options):
    with pytest.raises(photos.PhotoError) as error:
        photos.to_stored(content, **options)
    message = str(error.value)
    assert "\n" not in message
    assert len(message) < 300
    return message


def test_postscript_starts_no_program(tmp_path, monkeypatch):
    started = tmp_path / "started"
    for name in ("gs", "gswin64c"):
        (tmp_path / name).write_text(f"#!/bin/sh\ntouch {started}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)
    with Image.open(io.BytesIO(POSTSCRIPT)) as image, pytest.raises(OSError):  # noqa: PT011
        image.load()
    assert started.exists()  # what it would do
    started.unlink()
    assert "it is PostScript" in refusal(POSTSCRIPT)
    binary = b"\xc5\xd0\xd3\xc6" + (32).to_bytes(4, "little") + bytes(24) + POSTSCRIPT
    assert "it is PostScript" in refusal(binary)
    assert not started.exists()


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"%PDF-1.7\n", "a PDF"),
        (b"<?xml version='1.0'?><svg></svg>", "SVG"),
        (b"\xef\xbb\xbf\n<!DOCTYPE html><html>404</html>", "HTML"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC"),
        (b"\0\0\0\x18ftypisom\0\0\0\0", "a video"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
        (b"PK\3\4rest", "ZIP"),
        (b"no photo", "not an image of a known format"),
    ],
)
def test_names_the_format_and_the_supported_ones(content, kind):
    message = refusal(content)
    assert kind in message
    for name in photo_formats.available():
        assert name in message


@pytest.mark.parametrize(
    "kind", ["PSD", "ICO", "TGA", "PCX", "PDF", "EPS", "SGI", "DDS"]
)
def test_refuses_formats_that_are_not_listed(kind):
    signatures = {"PSD": b"8BPS\0\1" + bytes(20)}
    content = signatures.get(kind) or encoded(drawn(32, 32), kind)
    assert "expected one of the formats JPEG, PNG" in refusal(content)


@pytest.mark.parametrize(
    "content", [b"\x89PNG\r\n\x1a\n", b"GIF89a", b"II*\0" + bytes(9)]
)
def test_says_which_format_is_damaged(content):
    assert "damaged" in refusal(content)


def test_format_depends_only_on_content():
    assert photos.to_stored(encoded(drawn(20, 20), "AVIF" if _has_avif() else "WEBP"))
    assert photos.to_stored(encoded(drawn(20, 20), "JPEG2000"))


def _has_avif():
    from PIL import features

    return features.check("avif")


def test_first_picture_of_mpo():
    first, second = drawn(40, 30, 0), drawn(40, 30, 1)
    content = encoded(first, "MPO", save_all=True, append_images=[second])
    with Image.open(io.BytesIO(photos.to_stored(content))) as image:
        found = np.asarray(image).astype(int)
    assert np.abs(found - np.asarray(first)).mean() < 5


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM"])
def test_maximum_of_pixels(kind):
    content = encoded(drawn(40, 30), kind)
    assert photos.to_stored(content, 1200)
    message = refusal(content, maximum_pixels=1199)
    assert "it has 40x30 pixels; expected at most 1199" in message
    assert "config.data.maximum_pixels" in message


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "TIFF", "PNG"])
def test_only_the_first_of_many_frames_is_decoded(kind):
    """The frames together have more pixels than allowed, and the last is damaged."""
    frames = [drawn(40, 30, seed) for seed in range(4)]
    content = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    stored = photos.to_stored(content, 1200)
    with Image.open(io.BytesIO(stored)) as image:
        found = np.asarray(image.convert("RGB")).astype(int)
    assert np.abs(found - np.asarray(frames[0])).mean() < 9
    assert "40x30" in refusal(content, maximum_pixels=1199)


@pytest.mark.parametrize("lossless", [False, True])
@pytest.mark.parametrize("alpha", [False, True])
def test_size_of_webp_by_its_header(lossless, alpha):
    image = drawn(301, 77)
    if alpha:
        image.putalpha(100)
    content = encoded(image, "WEBP", lossless=lossless)
    assert photo_formats.webp_size(content) == (301, 77)


def test_webp_that_claims_a_huge_size_is_refused_by_its_header():
    frames = [drawn(40, 30, seed) for seed in range(2)]
    content = bytearray(
        encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:])
    )
    assert content[12:16] == b"VP8X"
    content[24:30] = b"\xff\x3f\0" * 2
    message = refusal(bytes(content))
    assert "16384x16384" in message


def test_own_limit_replaces_pils():
    content = bytearray(encoded(drawn(40, 30), "PNG"))
    content[16:24] = (14_000).to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    before = Image.MAX_IMAGE_PIXELS
    with photos.own_limit(), warnings.catch_warnings():
        warnings.simplefilter("error")
        message = refusal(bytes(content), maximum_pixels=190_000_000)
    assert "14000x14000" in message
    assert before == Image.MAX_IMAGE_PIXELS


def test_import_silences_no_warning_of_pil():
    ignored = [f for f in warnings.filters if f[2] is Image.DecompressionBombWarning]
    assert not [f for f in ignored if f[0] == "ignore"]
