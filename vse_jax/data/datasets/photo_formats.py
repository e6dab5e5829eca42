"""Lists the photo formats that are decoded, and recognizes others by content.

The content of a file selects a decoder, and only `FORMATS` are allowed. PIL supports
more formats. Some of these start programs: PIL runs Ghostscript for PostScript,
whatever the file name.
"""

import functools
import struct

from PIL import Image

# JPEG includes MPO; its first picture is read.
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
    """Returns the formats of `FORMATS` that the installed PIL supports."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def recognized(content: bytes) -> str | None:
    """Returns the format that a file's first 16 bytes show; None for no photo."""
    for name in available():
        accepts = Image.OPEN[name][1]
        if accepts is not None and accepts(content[:16]) is True:
            return name
    return None


def describe(content: bytes) -> str:
    """Returns a clause that describes a file that could not be opened."""
    if not content:
        return "it is empty"
    if name := recognized(content):
        return f"it is a damaged or unsupported {name} file"
    kind = _foreign_kind(content)
    expected = f"expected one of the formats {', '.join(available())}"
    if kind is None:
        return f"it is not an image of a known format; {expected}"
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
    """Returns width and height from the header of a WEBP; None for other files.

    PIL allocates memory for the whole picture as soon as it opens a WEBP.
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
