"""Drafts from a small language model that reads the same prompt (Leviathan et al., arXiv 2211.17192)."""

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

from speechmtp.config import Range
from speechmtp.decoding.drafters.contract import Drafter, empty_draft
from speechmtp.decoding.drafters.paths import ends_text, prefixes_behind
from speechmtp.decoding.sampling import PickedTokens, pick_tokens
from speechmtp.decoding.state import DecodeState
from speechmtp.decoding.step import in_float32, ruled
from speechmtp.decoding.trees import MAX_DRAFT
from speechmtp.errors import ConfigError
from speechmtp.heads.contract import HeadSet
from speechmtp.models.draft_prompt import DraftPrompt
from speechmtp.models.hints import hinted, hints_behind
from speechmtp.models.trunk import Trunk
from speechmtp.types import Draft, Prompt, Request, Source, chain_draft, stack_prompts


class DraftCache:
    """The draft model's cache of some rows. It holds each row's prompt (unless `waiting`: not yet run), the first
    `true` tokens of its output, and the tokens of its last draft (`drafted`)."""

    def __init__(self, trunk: Trunk, prompts: list[Prompt]) -> None:
        self.trunk, self.prompts = trunk, prompts
        self.waiting = True
        self.cache = trunk.new_cache(0, slots=len(prompts))
        self.first = [int(prompt.next_position[0]) for prompt in prompts]
        self.true = [0] * len(prompts)
        self.drafted: list[list[int]] = [[] for _ in prompts]

    @classmethod
    def start(cls, state: DecodeState) -> "DraftCache":
        """An empty cache for the rows; their prompts are run at the first draft."""
        sources = [source for row in state.rows if (source := row.request.source(DraftPrompt)) is not None]
        return cls(sources[0].trunk, [source.prompt for source in sources])

    def select(self, rows: Sequence[int]) -> None:
        """Keep these rows, in this order."""
        if not self.waiting:
            self.cache.select(rows)
        self._pick(rows)

    def _pick(self, rows: Sequence[int]) -> None:
        self.prompts, self.first = [self.prompts[i] for i in rows], [self.first[i] for i in rows]
        self.true, self.drafted = [self.true[i] for i in rows], [list(self.drafted[i]) for i in rows]

    def take(self, rows: Sequence[int]) -> "DraftCache":
        """Copies of these rows."""
        other = copy(self)
        other.cache = self.trunk.new_cache(0, slots=len(rows)) if self.waiting else self.cache.take(rows)
        other._pick(rows)
        return other

    def join(self, state: DecodeState, others: "DraftCache", theirs: DecodeState) -> "DraftCache":
        """Append another cache's rows; prompts that have not been run yet are run first."""
        self.feed_prompts(state)
        others.feed_prompts(theirs)
        self.cache.join(others.cache)
        self.prompts, self.first = self.prompts + others.prompts, self.first + others.first
        self.true, self.drafted = self.true + others.true, self.drafted + others.drafted
        return self

    def feed_prompts(self, state: DecodeState) -> Tensor | None:
        """Run the prompts and return the logits [B, 1, V] after them; None if they have been run before."""
        if not self.waiting:
            return None
        self.waiting = False
        prompt = stack_prompts(self.prompts)
        self.trunk.join(self.cache, prompt)
        return self._run(state, prompt.entries, prompt.positions, [p.embeddings.shape[1] for p in self.prompts])

    def catch_up(self, state: DecodeState) -> Tensor:
        """Logits [B, 1, V] after all tokens that each row has emitted. Accepted draft tokens are in the cache already;
        the rest of the draft is overwritten."""
        logits = self.feed_prompts(state)
        texts = [row.tokens for row in state.rows]
        if logits is not None and not any(texts):
            return logits
        for i, text in enumerate(texts):
            for token in self.drafted[i]:
                # The last token is always fed again, since the logits after it are needed.
                if self.true[i] == len(text) - 1 or token != text[self.true[i]]:
                    break
                self.true[i] += 1
        self.cache.rewind([p.embeddings.shape[1] + n for p, n in zip(self.prompts, self.true)])
        new = [text[n:] for text, n in zip(texts, self.true)]
        begin = self.true
        self.true, self.drafted = [len(text) for text in texts], [[] for _ in texts]
        size = max(map(len, new))
        tokens = torch.tensor([row + [0] * (size - len(row)) for row in new], device=self.cache.device)
        return self._run(state, self._embed(tokens, begin), self._positions(begin, size), list(map(len, new)))

    def draft(self, state: DecodeState, tokens: Tensor) -> Tensor:
        """Feed one drafted token per row, `tokens` [B, 1], and return the logits [B, 1, V] after it."""
        begin = [n + len(drafted) for n, drafted in zip(self.true, self.drafted)]
        for drafted, token in zip(self.drafted, tokens[:, 0].tolist()):
            drafted.append(token)
        return self._run(state, self._embed(tokens, begin), self._positions(begin, 1), [1] * len(begin))

    def behind(self, depth: int) -> Prompt:
        """A prompt without entries, which follows the committed entries, with the hints of drafts of up to `depth`
        tokens."""
        none = torch.zeros(len(self.true), 0, dtype=torch.long, device=self.cache.device)
        zeros = none.new_zeros(len(none))
        hints = hints_behind(self.prompts, [n + len(own) - 1 for n, own in zip(self.true, self.drafted)], 1 + depth)
        return Prompt(self.trunk.embed(none), none, zeros, zeros, hints=hints)

    def ahead(self, count: int) -> Tensor:
        """Positions [B, count] of the tokens after the emitted and drafted ones."""
        return self._positions([n + len(drafted) for n, drafted in zip(self.true, self.drafted)], count)

    def _embed(self, tokens: Tensor, begin: Sequence[int]) -> Tensor:
        """Embeddings [B, P, C] of the rows' output tokens [B, P] from index `begin` on, with their hints."""
        return hinted(self.trunk.embed(tokens), hints_behind(self.prompts, begin, tokens.shape[1]))

    def _positions(self, begin: Sequence[int], count: int) -> Tensor:
        """Positions [B, count] of the rows' output tokens from index `begin` on."""
        rows = zip(self.first, self.prompts, begin)
        table = [[first + prompt.output_positions.offset(n + i) for i in range(count)] for first, prompt, n in rows]
        return torch.tensor(table, dtype=torch.long, device=self.cache.device).view(len(table), count)

    def _run(self, state: DecodeState, embeddings: Tensor, positions: Tensor, counts: list[int]) -> Tensor:
        hidden = self.trunk.extend(embeddings, positions, None, self.cache).hidden
        self.cache.commit(counts)
        state.count_draft_calls()
        if hidden.shape[1] > 1:
            at = torch.tensor(counts, device=hidden.device) - 1
            hidden = hidden[torch.arange(len(counts), device=hidden.device), at][:, None]
        return ruled(in_float32(self.trunk.unembed(hidden)), state.rules, False)


class ByModel(Drafter):
    """Base class of drafters that keep a draft model's cache."""

    source: ClassVar[type[Source] | None] = DraftPrompt

    def check(self, trunk: Trunk, heads: HeadSet | None, request: Request) -> None:
        """Raise ConfigError if the draft model's vocabulary has another size than the trunk's."""
        source = request.source(DraftPrompt)
        if source is not None and source.trunk.vocab_size != trunk.vocab_size:
            raise ConfigError(
                f"draft model: {source.trunk.vocab_size} tokens, expected the trunk's {trunk.vocab_size}; give one of "
                f"the same tokenizer"
            )

    def apart(self, request: Request) -> Any:
        """The draft model's trunk."""
        source = request.source(DraftPrompt)
        return None if source is None else source.trunk

    def start(self, state: DecodeState) -> DraftCache:
        """An empty cache of the draft model."""
        return DraftCache.start(state)

    def join(self, state: DecodeState, other: DecodeState) -> DraftCache:
        """Append the other rows' cache of the draft model."""
        mine: DraftCache = state.drafter_state
        return mine.join(state, other.drafter_state, other)

    def keep(self, kept: DraftCache, rows: Sequence[int]) -> DraftCache:
        """Keep the remaining rows of the draft model's cache."""
        kept.select(rows)
        return kept

    def take(self, kept: DraftCache, rows: Sequence[int]) -> DraftCache:
        """Copies of rows of the draft model's cache."""
        return kept.take(rows)


@dataclass(frozen=True)
class DraftModel(ByModel):
    """Draft up to `depth` tokens, one forward pass of the draft model each, in the prompt's call too. An end token ends
    the draft; with `theta`, so does the first token whose own probability is below it. If that token was sampled for a
    ratio rule, it is kept: dropping it because it is improbable would bias the output."""

    depth: Annotated[int, Range(0, MAX_DRAFT)] = 4
    theta: Annotated[float | None, Range(0, 1)] = None
    name: ClassVar[str] = "draft-model"
    gives_probabilities: ClassVar[bool] = True
    adapts: ClassVar[bool] = True

    def propose(self, state: DecodeState) -> Draft:
        """Draft one chain per row."""
        depth = self.depth if state.limits is None else min(self.depth, max(state.limits))
        if depth == 0:
            return empty_draft(state)
        mine: DraftCache = state.drafter_state
        own = state.noise is not None and state.draws == "own"
        logits, found, kept = mine.catch_up(state), list[PickedTokens](), list[Tensor]()
        ends = torch.zeros(len(state.rows), 1, 0, dtype=torch.long, device=state.device)
        going = torch.ones(len(state.rows), 1, dtype=torch.bool, device=state.device)
        for d in range(1, depth + 1):
            choice = pick_tokens(state, logits, None, d, prefixes_behind(state.rows, ends), d - 1)
            token = choice.tokens[..., 0]
            stays, going = going, going & ~ends_text(token, state.ends)
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
