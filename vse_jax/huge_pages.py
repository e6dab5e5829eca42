"""Huge pages for the memory of the program, on Linux.

A training step on CPUs takes hundreds of megabytes from the system and gives them back
when it ends. With pages of 4 kB, the system spends a fifth of the CPU time of
`configs/f8k_rvse_infonce.py` on allocating them. glibc (2.35 or newer) asks for pages
of 2 MB if an environment variable says so, which it reads when a program starts. It
does so only for memory that it takes in pieces of at least 2 MB. The second setting
makes the pieces larger, and glibc keeps as much when memory is freed.
"""

import contextlib
import os
import sys

_VARIABLE = "GLIBC_TUNABLES"
_HEAP_GROWTH = 64 * 2**20  # bytes
ENVIRONMENT = {_VARIABLE: f"glibc.malloc.hugetlb=1:glibc.malloc.top_pad={_HEAP_GROWTH}"}


def restart() -> None:
    """Restarts this program with huge pages, unless the environment sets them.

    The process remains the same one. Call it first: the command line is read again, and
    what the program did before is repeated.
    """
    is_read_from_input = sys.argv[0] in ("", "-")  # which cannot be read again
    if sys.platform != "linux" or _VARIABLE in os.environ or is_read_from_input:
        return
    arguments = [sys.executable, *sys.orig_argv[1:]]
    # Huge pages only save time, so a system that cannot restart it is no failure.
    with contextlib.suppress(OSError, ValueError):
        os.execve(sys.executable, arguments, os.environ | ENVIRONMENT)
