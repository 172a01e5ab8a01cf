"""Freed memory is used again: far fewer page faults for the same tensors."""

import subprocess
import sys

import pytest

# Without the setting, glibc's own threshold, held still: left alone it moves with what is freed, by luck of the heap.
FAULTS = """
import ctypes, resource, sys, torch
from sharegrpo_rl.models.loading import keep_freed_memory
kept = keep_freed_memory() if sys.argv[1] == "keep" else ctypes.CDLL(None).mallopt(-3, 128 << 10)
def some(rounds):
    for _ in range(rounds):
        several = [torch.ones(1 << 20) for _ in range(16)]
        del several
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
first = some(3)
print(kept, some(20) - first)
"""


def faults(mode):
    words = subprocess.run([sys.executable, "-c", FAULTS, mode], check=True, capture_output=True, text=True).stdout
    kept, count = words.split()
    return kept, int(count)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_freed_memory_is_used_again():
    (_, plain), (kept, fewer) = faults("plain"), faults("keep")
    if kept == "False":
        pytest.skip("the C library is not glibc")
    assert fewer < plain / 2  # 20 times 16 tensors of 4 MB are 327,680 pages of 4 KB, or some of 2 MB
