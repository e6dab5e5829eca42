"""Stores lists of strings as two numpy arrays, without pickling."""

from collections.abc import Sequence

import numpy as np


def pack(strings: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the UTF-8 bytes of all strings, and their lengths in characters."""
    text = np.frombuffer("".join(strings).encode(), np.uint8)
    return text, np.array([len(string) for string in strings], np.int32)


def unpack(text: np.ndarray, lengths: np.ndarray) -> list[str]:
    """Returns the strings that `pack` stored."""
    joined = text.tobytes().decode()
    ends = np.cumsum(lengths, dtype=np.int64).tolist()
    return [joined[a:b] for a, b in zip([0, *ends], ends, strict=False)]
