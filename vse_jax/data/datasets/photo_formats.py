"""The formats of photos that are decoded, and the names of others.

A decoder is chosen by the content of a file among `FORMATS` alone. PIL knows more, and
some of them start programs: Ghostscript for PostScript, whatever the file is called.
"""

import functools
import struct

from PIL import Image

# JPEG includes MPO, of which the first picture is read.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
_SIGNATURES = (
    (b"%!PS", "PostScript"),
    (b"\xc5\xd0\xd3\xc6", "PostScript"),
    (b"%PDF", "a PDF document"),
    (b"8BPS", "a Photoshop document"),
    (b"\xd7\xcd\xc6\x9a", "a Windows metafile"),
    (b"\x00\x00\x01\x00", "an icon"),
    (b"II\xbc\x01", "JPEG XR"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\x00\x00\x00\x0cJXL ", "JPEG XL"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "compressed by gzip"),
    (b"\x1aE\xdf\xa3", "a video"),
    (
        b"version https://git-lfs",
        "a pointer of Git LFS (git lfs pull fetches the photo)",
    ),
)
_HEIF_BRANDS = (b"hei", b"hev", b"mif", b"msf")


@functools.cache
def available() -> tuple[str, ...]:
    """Returns those of `FORMATS` that the installed PIL has."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def describe(content: bytes) -> str:
    """Returns what a file is that could not be opened, as the end of a sentence."""
    if not content:
        return "it is empty"
    for name in available():
        accepts = Image.OPEN[name][1]
        if accepts is not None and accepts(content[:16]) is True:
            return f"it is a damaged {name} file, or one of an unsupported kind"
    kind = _foreign_kind(content)
    expected = f"expected one of the formats {', '.join(available())}"
    if kind is None:
        return f"it is no image of a known format; {expected}"
    return f"it is {kind}; {expected}"


def _foreign_kind(content: bytes) -> str | None:
    for start, kind in _SIGNATURES:
        if content.startswith(start):
            return kind
    if content[4:8] == b"ftyp":
        return "HEIC" if content[8:11] in _HEIF_BRANDS else "a video"
    if content[40:44] == b" EMF":
        return "a Windows metafile"
    if content[:256].lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        return "XML or HTML, such as SVG or the answer of a web server"
    return None


def webp_size(content: bytes) -> tuple[int, int] | None:
    """Returns width and height by the header of a WEBP; None if it is none.

    PIL takes memory for the whole picture as soon as it opens such a file.
    """
    header = content[:30]
    if len(header) < 30 or header[:4] != b"RIFF" or header[8:12] != b"WEBP":
        return None
    kind = header[12:16]
    if kind == b"VP8X":
        width = int.from_bytes(header[24:27], "little")
        height = int.from_bytes(header[27:30], "little")
        return width + 1, height + 1
    if kind == b"VP8L":
        bits = int.from_bytes(header[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    width, height = struct.unpack("<HH", header[26:30])
    return width & 0x3FFF, height & 0x3FFF
