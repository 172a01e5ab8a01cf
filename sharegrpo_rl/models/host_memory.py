"""The C library's allocator, told to keep large blocks: a tensor in fresh memory costs a page fault every 4 KB."""

from __future__ import annotations

import ctypes

# Of glibc's mallopt: above which size a block is mapped by itself, how much freed memory is kept, how much is added.
_MMAP_THRESHOLD, _TRIM_THRESHOLD, _TOP_PAD = -3, -1, -2
_LARGEST = 32 << 20  # glibc takes no higher threshold


def keep_freed_memory() -> bool:
    """Let this process use freed memory again instead of handing it back; False where the C library is not glibc.

    A training step on a CPU makes and frees the same tensors over and over.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return all(mallopt(*s) for s in ((_MMAP_THRESHOLD, _LARGEST), (_TRIM_THRESHOLD, 2**31 - 1), (_TOP_PAD, _LARGEST)))
