"""Programs that restart with large pages."""

import os
import pathlib
import platform
import subprocess
import sys

import pytest

from tests import programs

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has them")

SETTING = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")
START = "from vse_jax import huge_pages\nhuge_pages.restart()\n"
DESCRIBE = START + "import os, sys\nprint(os.getpid(), *sys.argv[1:])"
# Page faults of 64 MB, which have 16,384 pages of 4 kB.
FAULTS = (
    START
    + """
import ctypes, resource
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
ctypes.memset(libc.malloc(ctypes.c_size_t(2**26)), 1, 2**26)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
)


def start(program, *arguments, **variables):
    environment = {k: v for k, v in os.environ.items() if k != "GLIBC_TUNABLES"}
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        cwd=programs.REPOSITORY,
        env=environment | variables,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_process_and_arguments_remain():
    process = start(DESCRIBE, "--mode=eval", "two words")
    assert process.communicate()[0] == f"{process.pid} --mode=eval two words\n"


@pytest.mark.parametrize("program", ["''", "'/no/such/python'", "'/'"])
def test_program_that_cannot_be_restarted_goes_on(program):
    prepare = f"import os, sys\nsys.executable = {program}\n"
    went_on = "\nprint('GLIBC_TUNABLES' in os.environ)"
    process = start(prepare + START + went_on)
    assert process.communicate()[0] == "False\n"


def test_program_from_standard_input_is_not_lost():
    finished = subprocess.run(
        [sys.executable, "-", "--mode=eval"],
        input=START + "print('went on')",
        cwd=programs.REPOSITORY,
        env={k: v for k, v in os.environ.items() if k != "GLIBC_TUNABLES"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    assert finished.stdout == "went on\n"


def has_huge_pages():
    library, version = platform.libc_ver()
    return (
        library == "glibc"
        and tuple(map(int, version.split("."))) >= (2, 35)
        and SETTING.exists()
        and "[never]" not in SETTING.read_text()
    )


@pytest.mark.skipif(not has_huge_pages(), reason="the system has no large pages")
def test_memory_has_large_pages_unless_the_environment_chooses():
    restarted, chosen = (
        int(start(FAULTS, **variables).communicate()[0])
        for variables in ({}, {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=0"})
    )
    assert restarted < 2_000
    if "[always]" not in SETTING.read_text():
        assert chosen > 16_000
