"""The heap of the C library, where tensors and arrays lie."""

import ctypes
from functools import cache
from typing import Any


def give_back() -> None:
    """Give what was freed back to the system, where the C library is glibc: between parts of a recording that stay, it
    keeps the room of those that were freed, and a long run would take more and more."""
    trim = _trim()
    if trim is not None:
        trim(0)


@cache
def _trim() -> Any:
    """The function of glibc; None elsewhere."""
    try:
        return ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError, TypeError):
        return None
