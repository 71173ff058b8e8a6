"""Acceptance of refused tokens where the trunk is uncertain and a window of later tokens passes."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from speechmtp.config import Range
from speechmtp.decoding.rules.chances import entropy
from speechmtp.decoding.rules.contract import AcceptanceRule, probs_of, tree_refused
from speechmtp.decoding.rules.ratio import Ratio
from speechmtp.decoding.trees import MAX_DRAFT
from speechmtp.types import Draft


@dataclass(frozen=True)
class EntropyWindow(Ratio):
    """`Ratio`, but a refused token is kept if the trunk is uncertain there and the next `size` drafted tokens pass (Li
    et al., FLy, arXiv 2511.22972). Uncertain: p log(1 / p), summed over the three most probable tokens, is at least
    `entropy`. Chains only."""

    name: ClassVar[str] = "window"
    instead_on_trees: ClassVar[str] = "typical"
    size: Annotated[int, Range(1, MAX_DRAFT)] = 3
    entropy: Annotated[float, Range(0)] = 0.3
    exact: ClassVar[bool] = False

    def greedy(self) -> AcceptanceRule:
        """The same rule for greedy decoding, where the trunk's argmax token passes."""
        return GreedyEntropyWindow(self.size, self.entropy)

    def distributions(self, target: Tensor, draft: Draft) -> tuple[Tensor, Tensor]:
        """A refused token with fewer than `size` drafted tokens after it is never kept. ConfigError for a tree."""
        if not draft.chain:
            raise tree_refused(self)
        probs, size = probs_of(target), draft.tokens.shape[1]
        chance, rest = self.compare(probs[:, :-1], draft.q, draft.tokens)
        unsure = entropy(probs[:, :-1].topk(min(3, probs.shape[-1]), -1).values) >= self.entropy
        behind = torch.nn.functional.pad(chance[:, 1:], (0, self.size)).unfold(1, self.size, 1).prod(-1)[:, :size]
        excused = (1 - chance) * unsure * behind
        reach = [torch.ones_like(probs[:, 0, 0]), *torch.zeros_like(chance).unbind(1)]
        for node in range(size):
            reach[node + 1] = reach[node + 1] + reach[node] * chance[:, node]
            if node + 1 + self.size <= size:
                past = node + 1 + self.size
                reach[past] = reach[past] + reach[node] * excused[:, node]
        stay = torch.cat([1 - chance - excused, torch.ones_like(probs[:, :1, 0])], 1)
        return torch.stack(reach, 1) * stay.clamp_min(0.0), torch.cat([rest, probs[:, -1:]], 1)


class GreedyEntropyWindow(EntropyWindow):
    """`EntropyWindow` for greedy decoding."""

    def compare(self, r: Tensor, q: Tensor | None, token: Tensor) -> tuple[Tensor, Tensor]:
        """Chance 1 for the argmax of `r` and 0 for other tokens; `r` is returned unchanged."""
        return ((r.argmax(-1) == token) & (token >= 0)).to(r.dtype), r
