"""Ancestors in trees of drafted tokens, whose parents come before their children."""

import numpy as np
import torch
from torch import Tensor


def ancestors_of(parent: Tensor) -> Tensor:
    """Return bool [B, P, P], true in row i at i and at all its ancestors. `parent` [B, P] are indices of parents, -1
    for none; parents come before their children."""
    return _ancestors_on_host(parent) if parent.device.type == "cpu" else ancestors_by_products(parent)


def ancestors_by_products(parent: Tensor) -> Tensor:
    """Return the same as `ancestors_of` by matrix products, without reading values from the device."""
    rows, size = parent.shape
    seen = torch.zeros(rows, size, size + 1, device=parent.device)
    seen.scatter_(2, parent.remainder(size + 1)[..., None], 1.0)  # -1 goes to the last column, which is dropped
    seen = seen[..., :size] + torch.eye(size, device=parent.device)
    reach = 1
    while reach < size:  # paths of up to 2, 4, 8 .. steps
        seen, reach = (seen @ seen).clamp_(max=1.0), 2 * reach
    return seen > 0


def _ancestors_on_host(parent: Tensor) -> Tensor:
    """Keep each row as the bits of an integer, which takes a fifth of the time."""
    (rows, size), width = parent.shape, -(-parent.shape[1] // 8)
    packed: list[bytes] = []
    for parents in parent.tolist():
        seen: list[int] = []
        for node, above in enumerate(parents):
            seen.append((seen[above] if above >= 0 else 0) | 1 << node)
        packed += [bits.to_bytes(width, "little") for bits in seen]
    found = np.frombuffer(b"".join(packed), np.uint8).reshape(rows, size, width)
    return torch.from_numpy(np.unpackbits(found, axis=2, count=size, bitorder="little").view(np.bool_))
