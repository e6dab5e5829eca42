"""Checks of datasets that are refused."""

import pathlib

import pytest

from vse_jax.data import datasets
from vse_jax.errors import InputError


def assert_refused(data, *words):
    """Checks for a one-line message with all words and for no files; returns it."""
    with pytest.raises(InputError) as info:
        datasets.prepare(data)
    message = str(info.value)
    assert "\n" not in message
    for word in words:
        assert str(word) in message
    assert not list(pathlib.Path(data.data_dir).rglob("*"))
    return message
