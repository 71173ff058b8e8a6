"""Siblings in draft trees: which were drafted before a node, and where a walk that tests them in turn stops."""

import torch
import torch.nn.functional as F
from torch import Tensor

from speechmtp.types import Draft


def families(draft: Draft) -> tuple[Tensor, Tensor]:
    """Slots [B, N] that have children, and the children as node indices [B, N, K] in draft order, padded with -1. Rows
    with fewer such slots are padded with the slot of a leaf."""
    found = []
    for tokens, parents in zip(draft.tokens.tolist(), draft.parent.tolist()):
        mine: dict[int, list[int]] = {}
        for node, (token, above) in enumerate(zip(tokens, parents)):
            if token >= 0:
                mine.setdefault(above + 1, []).append(node)
        found.append(mine)
    slots_at_most = max(1, *map(len, found))
    width = max((len(nodes) for mine in found for nodes in mine.values()), default=1)
    slots, children = [], []
    for mine in found:
        leaf, rest = next(slot for slot in range(len(mine) + 1) if slot not in mine), slots_at_most - len(mine)
        slots.append([*mine, *[leaf] * rest])
        children.append([*(nodes + [-1] * (width - len(nodes)) for nodes in mine.values()), *[[-1] * width] * rest])
    like = draft.parent
    return like.new_tensor(slots), like.new_tensor(children)


def behind(distributions: Tensor, slots: Tensor) -> Tensor:
    """Select the distributions [B, N, V] at the slots `slots` [B, N]."""
    return distributions.gather(1, slots[..., None].expand(-1, -1, distributions.shape[-1]))


def family_stops(chance: Tensor, slots: Tensor, children: Tensor, draft: Draft) -> Tensor:
    """`stops` computed from families: `chance` [B, N, K] is that of `children` [B, N, K] of `slots` [B, N]."""
    rows, size = draft.tokens.shape
    refused = F.pad((1 - chance).cumprod(-1), (1, 0), value=1.0)  # P(first 0 .. K children are refused)
    chosen = chance.new_zeros(rows, size + 1)  # -1 goes to the last column, which is cut off
    chosen.scatter_(1, children.remainder(size + 1).flatten(1), (chance * refused[..., :-1]).flatten(1))
    reach = torch.where(draft.ancestors, chosen[:, None, :-1], 1.0).prod(-1)
    stay = chance.new_ones(rows, size + 1).scatter_(1, slots, refused[..., -1])
    return F.pad(reach, (1, 0), value=1.0) * stay


def elders(draft: Draft) -> Tensor:
    """Bool [B, P, P]: row i is true at the siblings that were drafted before node i."""
    size = draft.tokens.shape[1]
    before = torch.ones(size, size, dtype=torch.bool, device=draft.tokens.device).tril_(-1)
    return (draft.parent[:, :, None] == draft.parent[:, None, :]) & before


def stops(chance: Tensor, draft: Draft) -> Tensor:
    """The probability [B, P + 1] that a slot is the last one kept, if each node stays with probability `chance` [B, P]
    once its parent is kept and its elder siblings are refused; 0 for absent nodes."""
    refused = 1 - chance
    chosen = chance * torch.where(elders(draft), refused[:, None], 1.0).prod(-1)
    reach = torch.where(draft.ancestors, chosen[:, None], 1.0).prod(-1)
    slots = torch.arange(chance.shape[1] + 1, device=chance.device)
    below = draft.parent[:, None] + 1 == slots[:, None]
    stay = torch.where(below, refused[:, None], 1.0).prod(-1)
    return torch.cat([torch.ones_like(stay[:, :1]), reach], 1) * stay
