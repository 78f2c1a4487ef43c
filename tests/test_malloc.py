import os
import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")

COUNT_FAULTS = """
import resource
from stackedae.malloc import keeping_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        bytes(bytearray(8 * 2**20))
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

counts = [faults()]
with keeping_freed_memory:
    with keeping_freed_memory:
        faults()
    counts.append(faults())
counts.append(faults())
print(*counts)
"""


def faults(**env):
    kept = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    out = subprocess.run(
        [sys.executable, "-c", COUNT_FAULTS],
        env=kept | env,
        capture_output=True,
        check=True,
        text=True,
    )
    return [int(count) for count in out.stdout.split()]


def test_pages_are_used_again_while_inside_where_dask_has_them_returned():
    before, inside, after = faults(MALLOC_TRIM_THRESHOLD_="65536")
    pages = 20 * 2 * 8 * 2**20 // os.sysconf("SC_PAGE_SIZE")
    assert before > 0.9 * pages
    assert after > 0.9 * pages
    assert inside < 0.1 * pages


@pytest.mark.parametrize(
    "env", [{}, {"MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_MMAP_THRESHOLD_": "131072"}]
)
def test_what_somebody_chose_is_left_alone(env):
    before, inside, after = faults(**env)
    assert inside > 0.5 * before
    assert after > 0.5 * before


FRAGMENT = """
import psutil
from stackedae.malloc import return_freed_memory
rss = lambda: psutil.Process().memory_info().rss
kept = [bytearray(2**16) for _ in range(2000)][::40]
before = rss()
return_freed_memory()
print(before, rss())
"""


def test_memory_between_what_is_still_there_goes_back():
    out = subprocess.run([sys.executable, "-c", FRAGMENT], capture_output=True, check=True)
    before, after = map(int, out.stdout.split())
    assert before - after > 50 * 2**20
