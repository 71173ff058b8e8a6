"""All that changes while a batch is decoded."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from speechmtp.heads.contract import HeadSet, Unembed
from speechmtp.models.cache import RaggedCache
from speechmtp.types import Prompt, Trace


@dataclass
class DecodeState:
    """Live rows of a batch; finished ones leave it. `rows` are their indices in the batch given.

    `pending` are the entries that the next call feeds before its draft: the prompt at first, then the base
    token. `tokens` and `traces` belong to the whole batch and are indexed by `rows`.
    """

    rows: list[int]
    cache: RaggedCache
    pending: Prompt
    limits: list[int]
    tokens: list[list[int]]
    traces: list[Trace]
    unembed: Unembed
    eos: int
    heads: HeadSet | None = None
    head_state: Any = None
    drafter_state: Any = None
    prompted: bool = False  # the prompt's call is done

    @property
    def device(self) -> torch.device:
        """Where the tensors live."""
        return self.pending.embeddings.device

    def base_tokens(self) -> Tensor:
        """The last emitted token of every live row [B]."""
        return torch.tensor([self.tokens[r][-1] for r in self.rows], device=self.device)

    def keep(self, kept: list[int]) -> None:
        """Keep the live rows at these places: cache, heads, drafter and pending entries together."""
        index = torch.tensor(kept, dtype=torch.long, device=self.device)
        self.rows = [self.rows[i] for i in kept]
        self.cache.select(index)
        if self.head_state is not None:
            self.head_state.select(index)
        p = self.pending
        self.pending = Prompt(p.embeddings[index], p.positions[index], p.lengths[index], p.next_position[index])
