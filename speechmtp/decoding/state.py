"""State that changes during decoding: of one row (`Row`), of the rows of one trunk call (`Batch`), and of the rows of
one strategy (`DecodeState`)."""

import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from speechmtp.decoding.noise import Noise
from speechmtp.decoding.sampling import Processors
from speechmtp.heads.contract import HeadSet
from speechmtp.models.cache import RaggedCache
from speechmtp.models.hints import hinted, hints_from
from speechmtp.models.trunk import Trunk
from speechmtp.types import Prompt, Request, TokenRules, Trace

if TYPE_CHECKING:
    from speechmtp.decoding.bound import BoundStrategy
    from speechmtp.decoding.rules.contract import AcceptanceRule
    from speechmtp.decoding.step import Step

Draws = Literal["shared", "own", "best"]


@dataclass(eq=False)
class Row:
    """A request in a slot of the engine, with its emitted tokens and its trace. `kept` is the state of its drafter and
    `adapted` the state of its draft length, as far as they concern this row alone. An `open` row waits at its limit,
    which may be raised, with more `hints` [T, C]."""

    slot: int
    request: Request
    limit: int
    seed: int | None = None  # of its noise; None: greedy decoding
    tokens: list[int] = field(default_factory=list)
    trace: Trace = field(default_factory=Trace)
    kept: Any = None
    adapted: Any = None
    open: bool = field(init=False)
    hints: Tensor | None = field(init=False, repr=False)

    def __post_init__(self) -> None:
        given = self.request.prompt.hints
        self.hints = None if given is None else given[0]
        self.open = self.request.open

    @property
    def prefix(self) -> list[int]:
        """Token ids before the next token: the request's `ids`, then the emitted tokens."""
        return [*self.request.ids, *self.tokens]

    @property
    def done(self) -> bool:
        """Whether the row has emitted an end token, or reached a limit that will not be raised."""
        return self.trace.finished or (self.left <= 0 and not self.open)

    @property
    def left(self) -> int:
        """Number of tokens that the row may still emit."""
        return self.limit - len(self.tokens)

    @property
    def waits(self) -> bool:
        """Whether the row cannot go on before its limit is raised."""
        return self.open and self.left <= 0 and not self.trace.finished

    @property
    def bounded(self) -> bool:
        """Whether drafts must end at the limit: a state that goes on from there must not hold more."""
        return self.open or not self.request.rules.eos

    @property
    def complete(self) -> bool:
        """Whether the row has reached its known length."""
        known = not self.request.rules.eos and self.request.limit is not None
        return known and not self.open and self.left <= 0 and self.limit >= (self.request.limit or 0)

    def position(self, index: int) -> int:
        """Position of output token `index`, counted from 0."""
        return self.request.first + self.request.prompt.output_positions.offset(index)


def positions_of(rows: Sequence[Row], begin: int, count: int, device: torch.device) -> Tensor:
    """Positions [B, count] int64 of output tokens, starting `begin` tokens after each row's next one (-1: at its last
    one)."""
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


def hints_of(rows: Sequence[Row], begin: int, count: int) -> Tensor | None:
    """The hints [B, count, C] of the entries of output tokens, starting `begin` tokens after each row's next one (-1:
    at its last one); zeros past the end of a row's hints, None if no row has any."""
    known = next((row.hints for row in rows if row.hints is not None), None)
    if known is None:
        return None
    parts = []
    for row in rows:
        own = known[:0] if row.hints is None else row.hints
        parts.append(hints_from(own, len(row.tokens) + begin + 1, count))
    return torch.stack(parts) if len(parts) > 1 else parts[0][None]


@dataclass(frozen=True)
class Recorded:
    """What traces record besides counts: `gaps` (top-1 minus top-2 logit) and `logprobs` of the emitted tokens,
    `overlap` (the expected acceptance of drafts, see `record_overlap`), and `times`: drafting times on a GPU too, which
    costs a synchronisation with it."""

    gaps: bool = False
    logprobs: bool = False
    overlap: bool = False
    times: bool = False


@dataclass(eq=False)
class Batch:
    """The rows of one trunk call, which are the rows of the cache from `first` on. If `prompt` is set, the call runs
    their prompts; otherwise it feeds `base` [B], the last emitted token of each row."""

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
        """Whether drafting is timed: always on the CPU; on a GPU only if `recorded.times`, since the clock synchronises
        with it."""
        return self.recorded.times or self.device.type == "cpu"

    @property
    def prompted(self) -> bool:
        """Whether the prompts have been run."""
        return self.prompt is None

    @property
    def device(self) -> torch.device:
        """Device of the cache and of all tensors."""
        return self.cache.device

    @property
    def entries(self) -> list[int]:
        """Number of entries that each row feeds before its draft: those of its prompt, or 1 for the base token."""
        if self.prompt is None:
            return [1] * len(self.rows)
        return [row.request.prompt.embeddings.shape[1] for row in self.rows]

    @property
    def memory_sizes(self) -> list[int] | None:
        """Number of encoder outputs of each row; None if there are none."""
        encoder_outputs = [row.request.prompt.memory for row in self.rows]
        found = [memory.shape[1] for memory in encoder_outputs if memory is not None]
        return found or None

    @property
    def rules(self) -> list[TokenRules]:
        """Token rules of each row: end tokens and suppressed tokens."""
        return [row.request.rules for row in self.rows]

    def focus(self) -> None:
        """Let the cache's next calls run over these rows."""
        if (self.cache.first, self.cache.last) != (self.first, self.first + len(self.rows)):
            self.cache.focus(self.first, self.first + len(self.rows))

    def embed(self, tokens: Tensor, begin: int = 0, depth: Tensor | None = None) -> Tensor:
        """Embeddings [B, P, C], hints included, of output tokens [B, P]: those after the pending entries, from `begin`
        on. `depth` [B, P] counts each token from there (None: 0, 1, ..)."""
        embedded = self.trunk.embed(tokens)
        return hinted(embedded, hints_of(self.rows, begin, tokens.shape[1]), depth)

    def pending(self, depth: int = 0) -> Prompt:
        """The entries that the next call feeds before its draft: the prompts, or the base tokens as a prompt of one
        entry, with the hints of drafts of up to `depth` tokens."""
        if self.prompt is not None:
            return self.prompt
        assert self.base is not None
        embedded, positions = self.trunk.embed(self.base)[:, None], self.ahead(2, -1)
        hints = hints_of(self.rows, -1, 1 + depth)
        return Prompt(embedded, positions[:, :1], torch.ones_like(self.base), positions[:, 1], hints=hints)

    def ahead(self, count: int, begin: int = 0) -> Tensor:
        """Positions [B, count] of the tokens after the pending entries; a negative `begin` starts that many tokens
        earlier."""
        return positions_of(self.rows, begin, count, self.device)


@dataclass(eq=False)
class DecodeState:
    """State of the rows of a batch that share one strategy (a lane); finished rows leave it. Drafters and draft lengths
    get this object.

    `places` are the rows' indices in the batch. `noise` is None in greedy decoding, `processors` is None if no more
    than the requests' own processors change the logits. `drafter_state` and `length_state` are what the drafter and the
    draft length keep for all rows together.
    """

    bound: "BoundStrategy"
    rule: "AcceptanceRule"
    rows: list[Row]
    places: list[int]
    batch: Batch
    key: object = None  # lanes with equal keys are joined
    head_state: Any = None
    drafter_state: Any = None
    length_state: Any = None
    noise: Noise | None = None
    processors: Processors | None = None
    limits: list[int] | None = None  # most tokens to draft in this call, one number per row

    @property
    def draws(self) -> Draws:
        """How drafts are sampled: with the trunk's noise (`shared`), with noise of their own (`own`), or not at all:
        the drafter's most probable tokens (`best`)."""
        return self.rule.draws

    @property
    def by_argmax(self) -> bool:
        """Whether the trunk's argmax tokens are all that is needed of its logits, besides those of chosen tokens."""
        kept = self.batch.recorded
        plain = self.noise is None and not self.processes
        return plain and self.rule.by_argmax and not (kept.gaps or kept.overlap)

    @property
    def processes(self) -> bool:
        """Whether any logits are processed."""
        return self.processors is not None or any(row.request.processors for row in self.rows)

    @property
    def reads_prefix(self) -> bool:
        """Whether any processor reads the tokens before a choice."""
        whole = self.processors is not None and self.processors.reads_prefix
        return whole or any(own.reads_prefix for row in self.rows for own in row.request.processors)

    @property
    def heads(self) -> HeadSet | None:
        """The head set; None if the drafter does not use heads."""
        return self.bound.heads if self.bound.drafter.heads else None

    @property
    def step(self) -> "Step":
        """What runs the trunk and the heads."""
        return self.batch.step

    @property
    def device(self) -> torch.device:
        """Device of all tensors."""
        return self.batch.device

    @property
    def rules(self) -> list[TokenRules]:
        """Token rules of each row: end tokens and suppressed tokens."""
        return [row.request.rules for row in self.rows]

    @property
    def ends(self) -> tuple[int, ...]:
        """The end tokens; drafters propose the first one."""
        return self.rows[0].request.rules.eos

    @property
    def eos(self) -> int:
        """The end token that drafters propose; -1, which is no token, if there are no end tokens."""
        return self.ends[0] if self.ends else -1

    @property
    def prompted(self) -> bool:
        """Whether the prompts have been run."""
        return self.batch.prompted

    @property
    def drawn(self) -> list[int]:
        """Output index of each row's next token."""
        return [len(row.tokens) for row in self.rows]

    @property
    def base_index(self) -> Tensor:
        """`drawn` as an int64 tensor [B]."""
        return torch.tensor(self.drawn, dtype=torch.long, device=self.device)

    def base_tokens(self) -> Tensor:
        """The last emitted token of every row [B]."""
        base = self.batch.base
        assert base is not None
        return base if len(self.rows) == len(self.batch.rows) else base[torch.tensor(self.places, device=base.device)]

    def ahead(self, count: int) -> Tensor:
        """Positions [B, count] of the base token and of the tokens after it."""
        return positions_of(self.rows, -1, count, self.device)

    def hints_ahead(self, count: int) -> Tensor | None:
        """The hints [B, count, C] of the entries of the base token and of the tokens after it; None if there are
        none."""
        return hints_of(self.rows, -1, count)

    def ask(self, head_state: Any) -> Any:
        """Let a head state ask for positions and hints. It refers to this state weakly, since this state holds it."""
        mine = weakref.ref(self)

        def hints(count: int) -> Tensor | None:
            state = mine()
            assert state is not None
            return state.hints_ahead(count)

        head_state.ahead = self.asked_ahead()
        head_state.hints = hints if any(row.hints is not None for row in self.rows) else None
        return head_state

    def asked_ahead(self) -> Callable[[int], Tensor]:
        """`ahead` as a function for the head state. It refers to this state weakly, since this state holds the head
        state."""
        mine = weakref.ref(self)

        def ahead(count: int) -> Tensor:
            state = mine()
            assert state is not None
            return state.ahead(count)

        return ahead

    def count_draft_calls(self, calls: int = 1) -> None:
        """Count forward passes made for drafting, by a draft model or by the trunk, in every row's trace."""
        for row in self.rows:
            row.trace.draft_calls += calls

    def count_trunk_drafts(self, nodes: Iterable[int]) -> None:
        """Count forward passes that the trunk made for drafting, each over the pending entries and as many nodes."""
        counts, entries = list(nodes), self.batch.entries
        self.count_draft_calls(len(counts))
        for row, place in zip(self.rows, self.places):
            row.trace.fed += len(counts) * entries[place] + sum(counts)

    def count_draft_seconds(self, seconds: float) -> None:
        """Divide seconds that drafting took among the rows' traces."""
        for row in self.rows:
            row.trace.draft_seconds += seconds / len(self.rows)

    def keep(self, kept: list[int]) -> None:
        """Keep the rows at `kept`, in this order; the caller updates `places` and the batch."""
        if kept != list(range(len(self.rows))):
            self.rows = [self.rows[i] for i in kept]
            if self.head_state is not None:
                self.head_state.select(kept)
            if self.noise is not None:
                self.noise = self.noise.select(kept)
            self.drafter_state = self.bound.drafter.keep(self.drafter_state, kept)

    def take(self, kept: list[int]) -> "DecodeState":
        """A state with copies of the rows at `kept`, which have no place in a batch yet."""
        other = DecodeState(self.bound, self.rule, [self.rows[i] for i in kept], [], self.batch, self.key)
        other.processors, other.length_state = self.processors, self.length_state
        if self.head_state is not None:
            other.head_state = other.ask(self.head_state.take(kept))
        if self.noise is not None:
            other.noise = self.noise.select(kept)
        other.drafter_state = self.bound.drafter.take(self.drafter_state, kept)
        return other

    def join(self, other: "DecodeState") -> None:
        """Append the rows of another state, which must not be used afterwards."""
        self.drafter_state = self.bound.drafter.join(self, other)
        if self.head_state is not None:
            self.head_state.join(other.head_state)
        if self.noise is not None and other.noise is not None:
            self.noise = self.noise.join(other.noise)
        self.rows, self.places = self.rows + other.rows, self.places + other.places
        other.close()

    def close(self) -> None:
        """Drop the head state, the drafter's state and the noise, so that their tensors are freed."""
        self.head_state = self.drafter_state = self.noise = None
