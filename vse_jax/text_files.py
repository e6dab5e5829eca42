"""Reads text files in the encodings that spreadsheets and scripts use."""

import codecs

from etils import epath

from vse_jax import files
from vse_jax.errors import InputError, unreadable

# UTF-32's mark begins with UTF-16's, so it is tested first.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_OTHER_FILES = {
    b"PK\x03\x04": "a ZIP archive, as .xlsx and .ods are; export a CSV file",
    b"\x1f\x8b": "compressed by gzip; decompress it",
    b"\xd0\xcf\x11\xe0": "a spreadsheet of Excel 97 to 2003; export a CSV file",
    b"PAR1": "a Parquet file; convert it to CSV or JSON lines",
    b"SQLite format": "an SQLite database; export a CSV file",
    b"\xff\xd8\xff": "a photo (JPEG); expected a text file",
    b"\x89PNG": "a photo (PNG); expected a text file",
    b"%PDF": "a PDF document; expected a text file",
}
_SAMPLE = 4096  # bytes in which zeros are counted to detect UTF-16 and UTF-32
_LOW = bytes(range(32))
_LOW_SHARE = 0.4  # of bytes below 32; UTF-16 of most alphabets has half, UTF-8 few


def read_text(path: epath.Path) -> str:
    """Returns the text of a file, without a byte order mark.

    The encoding is UTF-8, or UTF-16 or UTF-32 if the file has a byte order mark. If no
    line feed is in the file, carriage returns end its lines, as on the first Macintosh,
    and become line feeds.

    Raises:
      InputError: if the file cannot be read, has another encoding, or has a zero byte
        (NUL); the message says how to convert it, or names the line.
    """
    try:
        content = files.read_bytes(path)
    except OSError as error:
        raise unreadable(path, error) from None
    return decode(path, content)


def decode(path: epath.Path, content: bytes) -> str:
    """Returns the text of the content of a file; see `read_text`."""
    for start, kind in _OTHER_FILES.items():
        if content.startswith(start):
            raise InputError(f"{path}: is {kind}")
    marked = (name for mark, name in _MARKS if content.startswith(mark))
    encoding = next(marked, "utf-8")
    if encoding == "utf-8" and b"\0" in content and _is_wide(content):
        raise _without_mark(path, content)
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        if encoding.startswith("utf-8"):
            raise _not_utf8(path, content, error.start) from None
        raise InputError(
            f"{path}: has the byte order mark of {encoding.upper()}, but byte "
            f"{error.start} is not {encoding.upper()}; save the file again as UTF-8"
        ) from None
    if "\n" not in text:
        text = text.replace("\r", "\n")
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise InputError(
            f"{path}: line {line} has a zero byte (NUL), which text does not have; "
            "remove it, or copy or download the file again"
        )
    return text


def _is_wide(content: bytes) -> bool:
    """Returns whether content with zero bytes is like UTF-16 or UTF-32.

    Each character of most alphabets has a byte below 32 there: that of the alphabet.
    Those of Chinese have none, but they are no UTF-8, and line ends have zeros.
    """
    sample = content[:_SAMPLE]
    low = len(sample) - len(sample.translate(None, _LOW))
    if low >= _LOW_SHARE * len(sample):
        return True
    if b"\n\0" not in content and b"\0\n" not in content:
        return False
    try:
        content.decode()
    except UnicodeDecodeError:
        return True
    return False


def _without_mark(path: epath.Path, content: bytes) -> InputError:
    """Returns the error for text of UTF-16 or UTF-32 without a byte order mark."""
    sample = content[:_SAMPLE]
    zeros = [sample[start::4].count(0) for start in range(4)]
    if 2 * sum(zeros) > len(sample):
        encoding = "utf-32le" if zeros[0] < zeros[3] else "utf-32be"
    else:
        encoding = "utf-16le" if zeros[0] + zeros[2] < zeros[1] + zeros[3] else None
        encoding = encoding or "utf-16be"
    return InputError(
        f"{path}: has zero bytes, like UTF-16 and UTF-32, but no byte order mark; "
        f"convert it to UTF-8, for example with iconv -f {encoding} -t utf-8"
    )


def _not_utf8(path: epath.Path, content: bytes, start: int) -> InputError:
    line, byte = content[:start].count(b"\n") + 1, content[start]
    # cp1252 has letters where Latin-1 has control characters.
    encoding = "cp1252" if 0x80 <= byte <= 0x9F else "latin1"
    return InputError(
        f"{path}: line {line} is not UTF-8 (byte {byte:#04x}); convert the file, for "
        f"example with iconv -f {encoding} -t utf-8"
    )
