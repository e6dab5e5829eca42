"""Work that threads do a few items ahead, such as reading and decoding photos."""

import collections
import concurrent.futures
import os
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

_THREADS = min(16, os.cpu_count() or 1)

_Item, _Result = TypeVar("_Item"), TypeVar("_Result")


def in_order(
    function: Callable[[_Item], _Result], items: Iterable[_Item]
) -> Iterator[_Result]:
    """Yields results in the order of the items; threads compute a few ahead."""
    waiting = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as threads:
        for item in items:
            waiting.append(threads.submit(function, item))
            if len(waiting) > 2 * _THREADS:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
