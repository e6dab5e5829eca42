"""Damages `.npz` files in ways that `zipfile` reports by errors of its own."""

import io

import numpy as np


def encrypted(content):
    return _with_byte(content, 8, 1)


def compressed_otherwise(content):
    return _with_byte(content, 10, 99)


def array_instead(content):
    del content
    buffer = io.BytesIO()
    np.save(buffer, np.arange(3))
    return buffer.getvalue()


WAYS = [encrypted, compressed_otherwise, array_instead]


def _with_byte(content, place, value):
    """Changes the entry of the first member in the central directory."""
    start = content.index(b"PK\x01\x02") + place
    return content[:start] + bytes([value]) + content[start + 1 :]
