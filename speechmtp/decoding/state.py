"""All that changes while a batch is decoded: what its rows share, and what each strategy keeps for its own."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from speechmtp.decoding.noise import Noise
from speechmtp.decoding.processors import Processors
from speechmtp.heads.contract import HeadSet
from speechmtp.models.cache import RaggedCache
from speechmtp.models.trunk import Trunk
from speechmtp.types import Prompt, Trace

Draws = Literal["shared", "own", "best"]


@dataclass
class DecodeState:
    """Live rows of a batch under one strategy; finished ones leave it. This is what a drafter sees.

    `rows` are their indices in the batch given, `places` those among the live rows. `tokens`, `traces` and
    `prompt_ids` (ids that stand before the output, where the prompt has any) belong to the whole batch and are indexed
    by `rows`. `noise` and `processors` are absent where tokens are neither drawn nor processed. `draws` says how
    drafts are drawn: by the trunk's own noise (`shared`), by noise of their own (`own`), or not at all (`best`).
    """

    rows: list[int]
    places: list[int]
    batch: "Batch"
    draws: Draws = "shared"
    heads: HeadSet | None = None
    head_state: Any = None
    drafter_state: Any = None
    length_state: Any = None
    noise: Noise | None = None
    limits: list[int] | None = None  # most tokens to draft this call, a live row each

    @property
    def device(self) -> torch.device:
        """Where the tensors live."""
        return self.batch.pending.embeddings.device

    @property
    def eos(self) -> int:
        """The end token that drafters say."""
        return self.batch.ends[0]

    @property
    def prompted(self) -> bool:
        """Whether the prompt's call is done."""
        return self.batch.prompted

    @property
    def tokens(self) -> list[list[int]]:
        """Emitted tokens of every row of the batch given."""
        return self.batch.tokens

    @property
    def prompt_ids(self) -> list[list[int]]:
        """Token ids in front of the output, of every row of the batch given."""
        return self.batch.prompt_ids

    @property
    def processors(self) -> Processors | None:
        """What is done to logits before a token is chosen."""
        return self.batch.processors

    @property
    def drawn(self) -> list[int]:
        """Output index of the next token of every live row."""
        return [len(self.batch.tokens[row]) for row in self.rows]

    @property
    def base_index(self) -> Tensor:
        """`drawn` as a tensor [B]."""
        return torch.tensor(self.drawn, dtype=torch.long, device=self.device)

    def prefix(self, row: int) -> list[int]:
        """What stands before the next token of a row of the batch given, as far as it has ids."""
        return self.batch.prompt_ids[row] + self.batch.tokens[row]

    def base_tokens(self) -> Tensor:
        """The last emitted token of every live row [B]."""
        return torch.tensor([self.batch.tokens[r][-1] for r in self.rows], device=self.device)

    def count_draft_calls(self, calls: int = 1) -> None:
        """Note forwards of a drafter's own model, of every live row."""
        for row in self.rows:
            self.batch.traces[row].draft_calls += calls

    def keep(self, kept: list[int], places: list[int], drop: Callable[["DecodeState", list[int]], None]) -> None:
        """Keep the rows at `kept`, which now stand at `places` among the live ones; `drop` tells the drafter."""
        if len(kept) < len(self.rows):
            index = torch.tensor(kept, dtype=torch.long, device=self.device)
            self.rows = [self.rows[i] for i in kept]
            if self.head_state is not None:
                self.head_state.select(index)
            if self.noise is not None:
                self.noise = self.noise.select(index)
            drop(self, kept)
        self.places = places


@dataclass
class Batch:
    """What all live rows share, whatever their strategy.

    `pending` are the entries that the next call feeds before its draft: the prompt at first, then the base
    token; `entries` is their number, a live row each. `tokens`, `traces`, `limits` and `prompt_ids` belong to the batch
    given and are indexed by `rows`.
    """

    trunk: Trunk
    rows: list[int]
    cache: RaggedCache
    pending: Prompt
    entries: list[int]
    limits: list[int]
    tokens: list[list[int]]
    traces: list[Trace]
    prompt_ids: list[list[int]]
    ends: tuple[int, ...]
    processors: Processors | None = None
    prompted: bool = False  # the prompt's call is done
    record_gaps: bool = False
    record_logprobs: bool = False
    record_overlap: bool = False

    def keep(self, kept: list[int]) -> None:
        """Keep the live rows at these places: cache and pending entries; the lanes keep their own."""
        index = torch.tensor(kept, dtype=torch.long, device=self.pending.embeddings.device)
        self.rows = [self.rows[i] for i in kept]
        self.entries = [self.entries[i] for i in kept]
        self.cache.select(index)
        p = self.pending
        self.pending = Prompt(p.embeddings[index], p.positions[index], p.lengths[index], p.next_position[index])
