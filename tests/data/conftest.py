"""Fixtures of the tests of data."""

from tests.small_datasets import make_builder  # noqa: F401
