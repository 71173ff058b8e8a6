"""Random decoding cases with their plain greedy answers, and drafters that exist only to test the loop."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, ClassVar

import oracle
import tiny
import torch
from engine_runs import Limits, Sources, generate
from torch import Tensor

from speechmtp.decoding.drafters.contract import Drafter, pad_lists
from speechmtp.decoding.rules.contract import AcceptanceRule
from speechmtp.decoding.rules.greedy_match import GreedyMatch
from speechmtp.decoding.state import DecodeState
from speechmtp.models.trunk import Trunk
from speechmtp.types import Accepted, CtcLabels, Draft, Prompt, Reference, Source, Trace


@dataclass(frozen=True, eq=False)
class Watched(GreedyMatch):
    """Remembers the drafts it judged."""

    drafts: list[Draft] = field(default_factory=list)

    def judge(self, choices: Tensor, draft: Draft) -> Accepted:
        """As the rule itself."""
        self.drafts.append(draft)
        return super().judge(choices, draft)


@dataclass
class Case:
    """A model, a ragged batch of prompts, limits and the answer of each row."""

    trunk: Trunk
    prompt: Prompt
    limits: Limits
    plain: list[oracle.Plain]
    seed: int

    @property
    def tokens(self) -> list[list[int]]:
        """The answer's tokens."""
        return [row.tokens for row in self.plain]

    def run(
        self, drafter: Drafter, rule: AcceptanceRule | None = None, sources: list[list[int]] | None = None,
        heads: Any = None, rows: list[int] | None = None,
    ) -> tuple[list[list[int]], list[Trace]]:  # fmt: skip
        """Decode the batch, or one row of it without padding."""
        prompt = self.prompt if rows is None else self.prompt.row(rows[0])
        lists = sources if rows is None or sources is None else [sources[rows[0]]]
        return generate(
            self.trunk, heads, prompt, drafter, rule or GreedyMatch(), tiny.EOS, as_sources(lists), self.limits,
            record_gaps=True,
        )  # fmt: skip


def as_sources(lists: list[list[int]] | None) -> Sources:
    """Token lists as references and as CTC labels."""
    return Sources(lists or (), [CtcLabels(tuple(labels)) for labels in lists or ()])


def make_case(seed: int, max_rows: int = 16, most: int = 11) -> Case:
    """A case of 1 to `max_rows` rows whose limits differ; prompts of 1 to 9 entries."""
    rng = tiny.generator(1000 + seed)
    rows = int(torch.randint(1, max_rows + 1, (), generator=rng))
    lengths = torch.randint(1, 10, (rows,), generator=rng).tolist()
    trunk = tiny.trunk(seed, tiny.TRUNKS[seed % 2])
    prompt = tiny.prompts(trunk, lengths, seed)
    limits = Limits(ratio=0.5 * (seed % 5), extra=int(torch.randint(1, 6, (), generator=rng)), max_tokens=most)
    plain = [oracle.plain_greedy(trunk, prompt.row(i), tiny.EOS, limits.of(n)) for i, n in enumerate(lengths)]
    return Case(trunk, prompt, limits, plain, seed)


def mutate(tokens: list[int], rate: float, rng: torch.Generator, vocab: int = tiny.VOCAB) -> list[int]:
    """Random edits: of `rate` per token 60 % substitutions, 20 % insertions, 20 % deletions."""
    out: list[int] = []
    draws = torch.rand(len(tokens) + 1, 2, generator=rng).tolist()
    other = torch.randint(0, vocab - 1, (len(tokens) + 1,), generator=rng).tolist()
    for token, (edit, kind), wrong in zip(tokens, draws, other):
        if edit >= rate:
            out.append(token)
        elif kind < 0.6:
            out.append(wrong if wrong < token else wrong + 1)
        elif kind < 0.8:
            out += [wrong, token]
    return out


def near(trunk: Trunk, seed: int, by: float) -> Trunk:
    """A trunk that is often, not always, of the same opinion."""
    other, rng = deepcopy(trunk), tiny.generator(seed)
    with torch.no_grad():
        for weight in other.parameters():
            weight.mul_(1 + by * torch.randn(weight.shape, generator=rng, dtype=weight.dtype))
    return other


@dataclass(frozen=True)
class Scripted(Drafter):
    """Drafts of a row after n emitted tokens: `script[row][n]`, nothing where that is missing."""

    script: list[dict[int, list[int]]]

    def propose(self, state: DecodeState) -> Draft:
        """What the script says."""
        return pad_lists([self.script[row.slot].get(len(row.tokens), []) for row in state.rows], state)


@dataclass
class TreeState:
    """What a RandomTree remembers: noise, answers, and how much of its last draft has to be accepted."""

    rng: torch.Generator
    answers: list[list[int]]
    right: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class RandomTree(Drafter):
    """Random trees of 0 to `size` nodes a row, many of whose tokens are the answer's at their depth.

    Checks on the way that the cache holds prompt and all emitted tokens but the last, and, if `strict`,
    that a call accepts the deepest path that is right, no more and no less. `probe` sees the state before
    every draft but the first.
    """

    seed: int
    size: int = 16
    hit: float = 0.6
    strict: bool = True
    probe: Callable[[DecodeState], None] | None = None
    source: ClassVar[type[Source] | None] = Reference

    def start(self, state: DecodeState) -> TreeState:
        """Noise and answers."""
        sources = [row.request.source(Reference) for row in state.rows]
        return TreeState(tiny.generator(self.seed), [list(one.tokens) if one else [] for one in sources])

    def propose(self, state: DecodeState) -> Draft:
        """A tree a row, -1 behind its nodes."""
        mine: TreeState = state.drafter_state
        if state.prompted:
            held = [row.request.prompt.embeddings.shape[1] + len(row.tokens) - 1 for row in state.rows]
            assert state.batch.cache.lengths.tolist() == held, "cache = prompt + emitted - 1"
            if self.probe is not None:
                self.probe(state)
        tokens, parent = tiny.random_tree(mine.rng, len(state.rows), self.size)
        hits = torch.rand(tokens.shape, generator=mine.rng) < self.hit
        mine.right = []
        for place, row in enumerate(state.rows):
            rest = mine.answers[row.slot][len(row.tokens) :]
            parents = parent[place].tolist()
            deepest = 0
            for node in range(self.size):
                path = tiny.path_to(parents, node)
                if tokens[place, node] >= 0 and hits[place, node] and len(path) <= len(rest):
                    tokens[place, node] = rest[len(path) - 1]
                said = [int(tokens[place, i]) for i in path]
                if said == rest[: len(path)]:
                    deepest = max(deepest, len(path))
            mine.right.append(deepest)
        return Draft(tokens, parent, chain=False)

    def observe(self, state: DecodeState, emitted: list[list[int]], choices: Tensor | None) -> None:
        """A row emits its right path and one token more, as far as the answer goes."""
        mine: TreeState = state.drafter_state
        for row, new, right in zip(state.rows, emitted, mine.right):
            done = len(row.tokens) - len(new)
            assert not self.strict or new == mine.answers[row.slot][done : done + right + 1]


def last_states(case: Case, rows: list[int], tokens: list[list[int]]) -> Tensor:
    """Trunk states [B, C] of each row's last committed entry, by a forward of its own; `tokens` are of these rows."""
    said = zip(rows, tokens)
    return torch.stack([oracle.full_states(case.trunk, case.prompt.row(r), text[:-1])[-1] for r, text in said])
