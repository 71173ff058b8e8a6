"""All that changes while requests are decoded: what a row keeps, what rows of one strategy keep together, and what the
rows of one trunk call share."""

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from speechmtp.decoding.noise import Noise
from speechmtp.decoding.sampling import Processors
from speechmtp.heads.contract import HeadSet
from speechmtp.models.cache import RaggedCache
from speechmtp.models.trunk import Trunk
from speechmtp.types import Prompt, Request, TokenRules, Trace

if TYPE_CHECKING:
    from speechmtp.decoding.bound import BoundStrategy
    from speechmtp.decoding.rules.contract import AcceptanceRule
    from speechmtp.decoding.step import Step

Draws = Literal["shared", "own", "best"]


@dataclass(eq=False)
class Row:
    """A request in a slot of the engine: what it has said, its counts, and what its drafter (`kept`) and its draft
    length (`adapted`) keep of it alone."""

    slot: int
    request: Request
    limit: int
    seed: int | None = None  # of its noise, where tokens are drawn
    tokens: list[int] = field(default_factory=list)
    trace: Trace = field(default_factory=Trace)
    kept: Any = None
    adapted: Any = None

    @property
    def prefix(self) -> list[int]:
        """What stands before the next token, as far as it has ids."""
        return [*self.request.ids, *self.tokens]

    @property
    def done(self) -> bool:
        """Whether nothing more is said."""
        return self.trace.finished or len(self.tokens) >= self.limit

    def position(self, index: int) -> int:
        """Of output token `index`."""
        return self.request.first + self.request.prompt.output_positions.offset(index)


def positions_of(rows: Sequence[Row], begin: int, count: int, device: torch.device) -> Tensor:
    """Positions [B, count] of the output tokens from `begin` on, counted from each row's next one."""
    output_positions = rows[0].request.prompt.output_positions
    if not output_positions.table and all(row.request.prompt.output_positions == output_positions for row in rows):
        start = torch.tensor([[row.position(len(row.tokens) + begin)] for row in rows], device=device)
        if count == 1:
            return start
        steps = (
            torch.arange(0, count * output_positions.stride, output_positions.stride, device=device)
            if output_positions.stride
            else 0
        )
        return (start + steps).expand(len(rows), count)
    tables = [[row.position(len(row.tokens) + begin + i) for i in range(count)] for row in rows]
    return torch.tensor(tables, dtype=torch.long, device=device).view(len(rows), count)


@dataclass(frozen=True)
class Recorded:
    """What traces keep besides counts: `gaps` and `logprobs` of emitted tokens, what acceptance theory expects of
    drafts (`overlap`), and true drafting times on a GPU too, which then is waited for (`times`)."""

    gaps: bool = False
    logprobs: bool = False
    overlap: bool = False
    times: bool = False


@dataclass(eq=False)
class Batch:
    """The rows of one trunk call, in the order of the cache's from `first` on: those behind their prompts, each of
    which feeds the `base` token that it said last, or those whose `prompt` is fed now."""

    trunk: Trunk
    step: "Step"
    cache: RaggedCache
    rows: list[Row]
    recorded: Recorded = Recorded()
    first: int = 0
    prompt: Prompt | None = None
    base: Tensor | None = None  # [B]

    @property
    def timed(self) -> bool:
        """Whether drafting is timed: on a GPU, which is then waited for, only where somebody asked."""
        return self.recorded.times or self.device.type == "cpu"

    @property
    def prompted(self) -> bool:
        """Whether the prompts' call is done."""
        return self.prompt is None

    @property
    def device(self) -> torch.device:
        """Where the tensors live."""
        return self.cache.device

    @property
    def entries(self) -> list[int]:
        """How many entries each row feeds before its draft."""
        if self.prompt is None:
            return [1] * len(self.rows)
        return [row.request.prompt.embeddings.shape[1] for row in self.rows]

    @property
    def memory_sizes(self) -> list[int] | None:
        """Entries of each row's memory; None where there are none."""
        memories = [row.request.prompt.memory for row in self.rows]
        found = [memory.shape[1] for memory in memories if memory is not None]
        return found or None

    @property
    def rules(self) -> list[TokenRules]:
        """What each row may say."""
        return [row.request.rules for row in self.rows]

    def focus(self) -> None:
        """Have the cache's next calls run over these rows."""
        if (self.cache.first, self.cache.last) != (self.first, self.first + len(self.rows)):
            self.cache.focus(self.first, self.first + len(self.rows))

    def pending(self) -> Prompt:
        """What the next call feeds before its draft."""
        if self.prompt is not None:
            return self.prompt
        assert self.base is not None
        embedded = self.trunk.embed(self.base)[:, None]
        positions = self.ahead(2, -1)
        return Prompt(embedded, positions[:, :1], torch.ones_like(self.base), positions[:, 1])

    def ahead(self, count: int, begin: int = 0) -> Tensor:
        """Positions [B, count] of the tokens behind what is pending, or from `begin` before them on."""
        return positions_of(self.rows, begin, count, self.device)


@dataclass(eq=False)
class DecodeState:
    """Live rows of a batch under one strategy; finished ones leave it. This is what a drafter sees.

    `places` are the rows' places in the batch. `noise` and `processors` are absent where tokens are neither drawn nor
    processed. `draws` says how drafts are drawn: by the trunk's own noise (`shared`), by noise of their own (`own`), or
    not at all (`best`). `drafter_state` and `length_state` are what drafter and draft length keep of all rows together.
    """

    bound: "BoundStrategy"
    rule: "AcceptanceRule"
    rows: list[Row]
    places: list[int]
    batch: Batch
    key: object = None  # rows that have the same go along together
    head_state: Any = None
    drafter_state: Any = None
    length_state: Any = None
    noise: Noise | None = None
    processors: Processors | None = None
    limits: list[int] | None = None  # most tokens to draft this call, a live row each

    @property
    def draws(self) -> Draws:
        """How drafts are drawn."""
        return self.rule.draws

    @property
    def by_argmax(self) -> bool:
        """Whether the trunk's first choices are all that is asked of it."""
        kept = self.batch.recorded
        plain = self.noise is None and self.processors is None
        return plain and self.rule.by_argmax and not (kept.gaps or kept.logprobs or kept.overlap)

    @property
    def heads(self) -> HeadSet | None:
        """The head set that drafts."""
        return self.bound.heads if self.bound.drafter.heads else None

    @property
    def step(self) -> "Step":
        """What runs trunk and heads."""
        return self.batch.step

    @property
    def device(self) -> torch.device:
        """Where the tensors live."""
        return self.batch.device

    @property
    def rules(self) -> list[TokenRules]:
        """What each row may say."""
        return [row.request.rules for row in self.rows]

    @property
    def ends(self) -> tuple[int, ...]:
        """The end tokens; drafters say the first."""
        return self.rows[0].request.rules.eos

    @property
    def eos(self) -> int:
        """The end token that drafters say; -1, which no draft has, where nothing ends a text."""
        return self.ends[0] if self.ends else -1

    @property
    def prompted(self) -> bool:
        """Whether the prompt's call is done."""
        return self.batch.prompted

    @property
    def drawn(self) -> list[int]:
        """Output index of the next token of every row."""
        return [len(row.tokens) for row in self.rows]

    @property
    def base_index(self) -> Tensor:
        """`drawn` as a tensor [B]."""
        return torch.tensor(self.drawn, dtype=torch.long, device=self.device)

    def base_tokens(self) -> Tensor:
        """The last emitted token of every row [B]."""
        base = self.batch.base
        assert base is not None
        return base if len(self.rows) == len(self.batch.rows) else base[torch.tensor(self.places, device=base.device)]

    def ahead(self, count: int) -> Tensor:
        """Positions [B, count] of the entries behind the last committed ones: the base token and what follows it."""
        return positions_of(self.rows, -1, count, self.device)

    def asked_ahead(self) -> Callable[[int], Tensor]:
        """`ahead` for a head state, which this state holds and which must not hold it."""
        mine = weakref.ref(self)

        def ahead(count: int) -> Tensor:
            state = mine()
            assert state is not None
            return state.ahead(count)

        return ahead

    def count_draft_calls(self, calls: int = 1) -> None:
        """Note forwards of a drafter's own model, of every row."""
        for row in self.rows:
            row.trace.draft_calls += calls

    def keep(self, kept: list[int]) -> None:
        """Keep the rows at `kept`, in this order, in all but the batch."""
        if kept != list(range(len(self.rows))):
            self.rows = [self.rows[i] for i in kept]
            if self.head_state is not None:
                self.head_state.select(kept)
            if self.noise is not None:
                self.noise = self.noise.select(kept)
            self.drafter_state = self.bound.drafter.keep(self.drafter_state, kept)

    def take(self, kept: list[int]) -> "DecodeState":
        """A state of copies of these rows, of no batch's rows yet."""
        other = DecodeState(self.bound, self.rule, [self.rows[i] for i in kept], [], self.batch, self.key)
        other.processors, other.length_state = self.processors, self.length_state
        if self.head_state is not None:
            other.head_state = self.head_state.take(kept)
            other.head_state.ahead = other.asked_ahead()
        if self.noise is not None:
            other.noise = self.noise.select(kept)
        other.drafter_state = self.bound.drafter.take(self.drafter_state, kept)
        return other

    def join(self, other: "DecodeState") -> None:
        """Another state's rows behind these; the other is of no use any more."""
        self.drafter_state = self.bound.drafter.join(self, other)
        if self.head_state is not None:
            self.head_state.join(other.head_state)
        if self.noise is not None and other.noise is not None:
            self.noise = self.noise.join(other.noise)
        self.rows, self.places = self.rows + other.rows, self.places + other.places
        other.close()

    def close(self) -> None:
        """Let go of all tensors."""
        self.head_state = self.drafter_state = self.noise = None
