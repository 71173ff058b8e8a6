"""Outputs of a decoder's layers, noted by hooks that are laid once and kept: a call lays none."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

_HERE = threading.local()  # where the calls of this thread note what they read; other threads may run the same layers


@dataclass(frozen=True)
class _Note:
    """A forward hook that notes the output of layer `number`, where the thread is reading."""

    number: int

    def __call__(self, module: nn.Module, inputs: Any, output: Any) -> None:
        found = getattr(_HERE, "found", None)
        if found is not None:
            found[self.number] = output[0] if isinstance(output, tuple) else output


def lay_hook(layer: nn.Module, number: int) -> None:
    """Have a layer note its output under `number` from now on; a second time changes nothing."""
    hooks = layer._forward_hooks.values()
    if not any(isinstance(hook, _Note) and hook.number == number for hook in hooks):
        layer.register_forward_hook(_Note(number))


@contextmanager
def reading(embeddings: Tensor) -> Iterator[dict[int, Tensor]]:
    """Collect layer outputs by number inside (0: the embeddings)."""
    found: dict[int, Tensor] = {0: embeddings}
    _HERE.found = found
    try:
        yield found
    finally:
        _HERE.found = None
