"""Drafts from a small language model that reads the same prompt (Leviathan et al., arXiv 2211.17192)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from speechmtp.decoding.choose import Choice, choose
from speechmtp.decoding.drafters.contract import Drafter, empty_draft
from speechmtp.decoding.drafters.paths import prefixes_behind
from speechmtp.decoding.state import DecodeState
from speechmtp.errors import ConfigError
from speechmtp.models.cache import RaggedCache
from speechmtp.models.draft_prompt import DraftPrompt
from speechmtp.models.trunk import Trunk
from speechmtp.types import Draft, Prompt, Source, chain_draft, stack_prompts


@dataclass
class DraftCache:
    """A draft trunk's cache of the live rows: each one's prompt (unless it still waits), its first `true` tokens, and
    behind them what was `drafted` last. `shift` [B] takes a slot to its position."""

    trunk: Trunk
    cache: RaggedCache
    prompt: Prompt | None
    entries: Tensor
    shift: Tensor
    true: list[int]
    drafted: list[list[int]]

    @classmethod
    def start(cls, state: DecodeState, source: tuple[Trunk, Sequence[Prompt]]) -> "DraftCache":
        """An empty cache for the live rows; ConfigError for a trunk of another vocabulary."""
        trunk, rows, size = source[0], len(state.rows), state.batch.trunk.vocab_size
        if trunk.vocab_size != size:
            raise ConfigError(
                f"draft model: {trunk.vocab_size} tokens, expected the trunk's {size}; give one of the same tokenizer"
            )
        prompt = stack_prompts(list(source[1]))
        shift = prompt.next_position - prompt.lengths
        return cls(
            trunk, trunk.new_cache(rows, prompt), prompt, prompt.lengths, shift, [0] * rows, [[] for _ in range(rows)]
        )

    def select(self, kept: list[int]) -> None:
        """Keep these rows, in this order."""
        index = torch.tensor(kept, dtype=torch.long, device=self.entries.device)
        self.cache.select(index)
        if self.prompt is not None:
            p = self.prompt
            self.prompt = Prompt(p.embeddings[index], p.positions[index], p.lengths[index], p.next_position[index])
        self.entries, self.shift = self.entries[index], self.shift[index]
        self.true, self.drafted = [self.true[i] for i in kept], [self.drafted[i] for i in kept]

    def catch_up(self, state: DecodeState) -> Tensor:
        """Logits [B, 1, V] behind all that each row has emitted. What was drafted and accepted is there already; the
        rest of the draft is overwritten."""
        logits = None
        if self.prompt is not None:
            logits = self._run(state, self.prompt.embeddings, self.prompt.positions, self.prompt.lengths)
            self.prompt = None
        texts = [state.tokens[row] for row in state.rows]
        if logits is not None and not any(texts):
            return logits
        for i, text in enumerate(texts):
            for token in self.drafted[i]:
                # The last token is fed in any case: what follows it is asked for.
                if self.true[i] == len(text) - 1 or token != text[self.true[i]]:
                    break
                self.true[i] += 1
        self.cache.lengths = self.entries + torch.tensor(self.true, device=self.entries.device)
        new = [text[n:] for text, n in zip(texts, self.true)]
        self.true, self.drafted = [len(text) for text in texts], [[] for _ in texts]
        size = max(map(len, new))
        tokens = torch.tensor([row + [0] * (size - len(row)) for row in new], device=self.entries.device)
        return self._feed(state, tokens, torch.tensor([len(row) for row in new], device=self.entries.device))

    def draft(self, state: DecodeState, tokens: Tensor) -> Tensor:
        """Logits [B, 1, V] behind one drafted token a row [B, 1]."""
        for drafted, token in zip(self.drafted, tokens[:, 0].tolist()):
            drafted.append(token)
        return self._feed(state, tokens, torch.ones_like(tokens[:, 0]))

    def behind(self) -> Prompt:
        """No entries, behind what is committed."""
        nothing = self.trunk.embed(self.entries[:, None][:, :0])
        return Prompt(
            nothing, self.entries[:, None][:, :0], torch.zeros_like(self.entries), self.cache.lengths + self.shift
        )

    def _feed(self, state: DecodeState, tokens: Tensor, count: Tensor) -> Tensor:
        steps = torch.arange(tokens.shape[1], device=tokens.device)
        return self._run(state, self.trunk.embed(tokens), (self.cache.lengths + self.shift)[:, None] + steps, count)

    def _run(self, state: DecodeState, embeddings: Tensor, positions: Tensor, count: Tensor) -> Tensor:
        hidden = self.trunk.extend(embeddings, positions, None, self.cache).hidden
        self.cache.commit(count)
        state.count_draft_calls()
        if hidden.shape[1] > 1:
            hidden = hidden[torch.arange(len(count), device=count.device), count - 1][:, None]
        return self.trunk.unembed(hidden)


@dataclass(frozen=True)
class DraftModel(Drafter):
    """Up to `depth` tokens, one forward of the draft model each, from the prompt's call on; an end token ends the
    draft, and with `theta` so does the first token whose own probability falls below it. One drawn for a ratio rule is
    kept all the same: dropping it because it is unlikely would bias the output."""

    depth: int
    theta: float | None = None
    source: ClassVar[type[Source] | None] = DraftPrompt

    def start(self, state: DecodeState, source: tuple[Trunk, Sequence[Prompt]]) -> DraftCache:
        """The draft trunk with an empty cache."""
        return DraftCache.start(state, source)

    def propose(self, state: DecodeState) -> Draft:
        """A chain a row."""
        depth = self.depth if state.limits is None else min(self.depth, max(state.limits))
        if depth == 0:
            return empty_draft(state)
        mine: DraftCache = state.drafter_state
        own = state.noise is not None and state.draws == "own"
        logits, found, kept = mine.catch_up(state), list[Choice](), list[Tensor]()
        ends = torch.zeros(len(state.rows), 1, 0, dtype=torch.long, device=state.device)
        going = torch.ones(len(state.rows), 1, dtype=torch.bool, device=state.device)
        for d in range(1, depth + 1):
            choice = choose(state, logits, None, d, prefixes_behind(state, state.rows, ends), d - 1)
            token = choice.tokens[..., 0]
            stays, going = going, going & (token != state.eos)
            if self.theta is not None:
                sure = choice.confidence[..., 0] >= self.theta
                stays, going = stays if own else stays & sure, going & sure
            found.append(choice)
            kept.append(token.masked_fill(~stays, -1))
            if d == depth or not going.any():
                break
            ends = torch.cat([ends, choice.tokens], 2)
            logits = mine.draft(state, token)
        q = [choice.q[:, :, 0] for choice in found if choice.q is not None]
        confidence = torch.cat([choice.confidence[..., 0] for choice in found], 1)
        return chain_draft(torch.cat(kept, 1), confidence, torch.cat(q, 1) if q else None)

    def drop(self, state: DecodeState, kept: list[int]) -> None:
        """Rows leave the draft model's cache too."""
        state.drafter_state.select(kept)
