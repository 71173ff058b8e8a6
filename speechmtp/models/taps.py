"""Outputs of a decoder's layers, recorded by forward hooks that are registered once and kept."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

_HERE = threading.local()  # per thread, since other threads may run the same layers


@dataclass(frozen=True)
class _Note:
    """A forward hook that records the output of layer `number` while its thread is inside `reading`."""

    number: int

    def __call__(self, module: nn.Module, inputs: Any, output: Any) -> None:
        found = getattr(_HERE, "found", None)
        if found is not None:
            found[self.number] = output[0] if isinstance(output, tuple) else output


def lay_hook(layer: nn.Module, number: int) -> None:
    """Register a hook that records a layer's output under `number`; a second call changes nothing."""
    hooks = list(layer._forward_hooks.values())  # another thread may be laying one
    if not any(isinstance(hook, _Note) and hook.number == number for hook in hooks):
        layer.register_forward_hook(_Note(number))


@contextmanager
def reading(embeddings: Tensor) -> Iterator[dict[int, Tensor]]:
    """Collect the outputs of this thread's hooked layers by number inside the context; 0 is `embeddings`."""
    found: dict[int, Tensor] = {0: embeddings}
    _HERE.found = found
    try:
        yield found
    finally:
        _HERE.found = None
