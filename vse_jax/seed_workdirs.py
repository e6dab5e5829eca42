"""The folders of the runs of several seeds; imports no library."""

from collections.abc import Sequence
from typing import NamedTuple


class Seed(NamedTuple):
    """A seed and the folder of its run."""

    number: int
    workdir: str


def of_workdir(workdir: str, numbers: Sequence[int]) -> list[Seed]:
    """Returns seeds with their folders, which are beside `workdir`."""
    return [Seed(number, f"{beside(workdir)}_seed{number}") for number in numbers]


def beside(workdir: str) -> str:
    """Returns the beginning of the names of files and folders beside `workdir`."""
    return workdir.rstrip("/")
