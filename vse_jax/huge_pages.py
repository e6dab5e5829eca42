"""Large pages for the memory of the program, on Linux.

A training step on CPUs takes hundreds of megabytes from the system and gives them back
when it ends. With pages of 4 kB, the system spends a fifth of the processor time of
`configs/f8k_rvse_infonce.py` on handing them out. glibc (2.35 or newer) asks for pages
of 2 MB if a variable of the environment says so, which it reads when a program starts.
"""

import os
import sys

_VARIABLE = "GLIBC_TUNABLES"
ENVIRONMENT = {_VARIABLE: "glibc.malloc.hugetlb=1"}


def restart() -> None:
    """Restarts this program with large pages, unless its environment chooses itself.

    The process remains the same one. Call it first: the command line is read again, and
    what the program did before is repeated.
    """
    if sys.platform == "linux" and _VARIABLE not in os.environ:
        os.environ.update(ENVIRONMENT)
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
