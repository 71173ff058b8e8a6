"""Memory that libraries keep: the heap of the C library, where tensors and arrays lie, and compiled kernels."""

import ctypes
import os
from functools import cache
from typing import Any


def give_back() -> None:
    """Give what was freed back to the system, where the C library is glibc: between parts of a recording that stay, it
    keeps the room of those that were freed, and a long run would take more and more."""
    trim = _trim()
    if trim is not None:
        trim(0)


def keep_few_kernels() -> None:
    """Let oneDNN keep few of the kernels that it compiles, one for each shape of its inputs: it keeps 1 024, which grow
    to hundreds of megabytes where every window is a little longer than the one before. It has an effect before the
    first of them is compiled, and none where the environment says otherwise."""
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "32")


@cache
def _trim() -> Any:
    """The function of glibc; None elsewhere."""
    try:
        return ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError, TypeError):
        return None
