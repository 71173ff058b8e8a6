"""Python's collector of cycles, put aside while many objects are made that all stay: imports, vocabularies."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def paused_collector() -> Iterator[None]:
    """A context without collections of cycles; behind it they are as they were before.

    Importing PyTorch and transformers makes millions of objects, which the collector looks through again and again: a
    tenth of the time of an import.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
