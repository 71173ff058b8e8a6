"""Continuous batching on one trunk: requests join and leave slots, and a step drafts, runs the trunk, accepts and
commits for all rows.

Rows that have joined are appended to the batch. Their prompts run in a trunk call of their own in the next step; from
then on they decode together with the other rows. The output of a row depends only on its own request, strategy and
sampling. Exceptions are strategies with lossy or ratio rules whose drafts depend on the other rows (`Suffix`, adaptive
draft lengths).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from speechmtp.decoding.bound import BoundStrategy
from speechmtp.decoding.drafters.contract import Silent
from speechmtp.decoding.lanes import commit, drafted, judged, keep_rows, lane_clock, taps_of
from speechmtp.decoding.layout import merge_accepted, merge_drafts
from speechmtp.decoding.noise import noise_of
from speechmtp.decoding.rules.greedy_match import GreedyMatch
from speechmtp.decoding.sampling import RowSampling
from speechmtp.decoding.state import Batch, DecodeState, Recorded, Row
from speechmtp.decoding.step import Step, make_step
from speechmtp.decoding.strategies import Strategy
from speechmtp.decoding.traces import flags_of, read_outcome, record_outcome
from speechmtp.errors import ConfigError
from speechmtp.models.cache import RaggedCache
from speechmtp.models.trunk import Trunk
from speechmtp.types import Event, Prompt, Request, TokenRules, Trace, stack_prompts


@dataclass(frozen=True)
class Limits:
    """Output limits in tokens: at most `ratio` tokens per prompt entry plus `extra`, and never more than
    `max_tokens`."""

    ratio: float = 2.0
    extra: int = 20
    max_tokens: int = 1000

    def of(self, entries: int) -> int:
        """The limit in tokens of a row whose prompt has this many entries."""
        return min(self.max_tokens, int(self.ratio * entries) + self.extra)


@dataclass
class _Parked:
    """A row that is paused or waits at its limit: its own copies of its lane state, its cache and its base token
    [1]."""

    lane: DecodeState
    cache: RaggedCache
    base: Tensor
    paused: bool = True


@dataclass
class _Waiting:
    """A row that has joined but whose prompt has not been run yet."""

    row: Row
    bound: BoundStrategy
    row_sampling: RowSampling
    paused: bool = False


class Engine:
    """Decode at most `slots` requests at a time on one trunk. Not thread-safe.

    `limits` are the default output limits, `recorded` is what traces record besides counts, `step` runs the trunk and
    the heads, and `bind` turns a `Strategy` into a `BoundStrategy` for this model. ConfigError if `slots` is below 1.
    """

    def __init__(
        self, trunk: Trunk, slots: int = 16, limits: Limits | None = None, recorded: Recorded | None = None,
        step: Step | None = None, bind: Callable[[Strategy], BoundStrategy] | None = None,
    ) -> None:  # fmt: skip
        if slots < 1:
            raise ConfigError(f"engine: {slots} slots, expected 1 or more")
        self.trunk, self.slots, self.limits = trunk, slots, limits or Limits()
        self._recorded, self._step = recorded or Recorded(), step or make_step(trunk)
        self._cache = trunk.new_cache(0, slots=slots)
        self._rows: dict[int, Row] = {}
        self._free = list(range(slots - 1, -1, -1))
        self._waiting: list[_Waiting] = []
        self._parked: dict[int, _Parked] = {}
        self._live = self._batch([])
        self._lanes: list[DecodeState] = []
        self._bind, self._bound = bind, dict[Strategy, BoundStrategy]()
        self._broken = ""

    @property
    def free(self) -> int:
        """Number of free slots."""
        return len(self._free)

    @property
    def busy(self) -> bool:
        """Whether the next step would decode any row; rows that are paused or wait at their limits do not count."""
        return bool(self._live.rows) or any(not one.paused for one in self._waiting)

    def join(
        self, request: Request, strategy: Strategy | BoundStrategy, row_sampling: RowSampling | None = None
    ) -> int:
        """Add a request and return its slot; its prompt runs in the next step.

        ConfigError if no slot is free, if the strategy cannot be bound or does not suit the request, or after a failed
        step.
        """
        self._check()
        if not self._free:
            raise ConfigError(f"engine: all {self.slots} slots are taken; wait for one, or make the engine larger")
        bound = strategy if isinstance(strategy, BoundStrategy) else self._bind_once(strategy)
        if not request.empty:
            bound.check(self.trunk, request)
        row_sampling, entries = row_sampling or RowSampling(), request.prompt.embeddings.shape[1]
        limit = self.limits.of(entries) if request.limit is None else request.limit
        limit = self.trunk.most_tokens(request, limit)
        row = Row(self._free.pop(), request, limit, row_sampling.seed)
        self._rows[row.slot] = row
        self._waiting.append(_Waiting(row, bound, row_sampling))
        return row.slot

    @torch.inference_mode()
    def step(self) -> list[Event]:
        """Run one trunk call for all live rows and one for the prompts of rows that have joined since the last step;
        return the new tokens of each row. The row of an empty request is done without a call.

        An error within a step leaves the engine in an inconsistent state: rows can still `leave` with what was emitted
        before, and everything else raises ConfigError.
        """
        self._check()
        self._broken = "an error in an earlier step"
        events = self._call(self._live, self._lanes) if self._live.rows else []
        new = [one for one in self._waiting if not one.paused]
        if new:
            self._waiting = [one for one in self._waiting if one.paused]
            for row in (one.row for one in new if one.row.request.empty):
                row.trace.finished = True
                events.append(Event(row.slot, (), row.done))
            spoken = [one for one in new if not one.row.request.empty]
            events += self._prompt(spoken) if spoken else []
        for row in [row for row in self._live.rows if row.waits]:
            self._park(row, False)
        self._broken = ""
        return events

    def _check(self) -> None:
        """Raise ConfigError if an earlier step failed."""
        if self._broken:
            raise ConfigError(f"engine: it cannot go on after {self._broken}; let its rows leave and make a new one")

    @torch.inference_mode()
    def leave(self, slot: int) -> tuple[list[int], Trace]:
        """Free a slot, whether its row is done or not, and return the row's tokens (with the end token, if one was
        emitted) and its trace. ConfigError if the slot is free already."""
        row = self._row(slot)
        self._waiting = [one for one in self._waiting if one.row is not row]
        parked = self._parked.pop(slot, None)
        if parked is not None:
            parked.lane.close()
        if row in self._live.rows and not self._broken:
            keep_rows(self._live, self._lanes, [i for i, other in enumerate(self._live.rows) if other is not row])
        del self._rows[slot]
        self._free.append(slot)
        rules = row.request.rules
        row.trace.flags = flags_of(row.tokens, rules.eos, row.complete, rules.may_repeat)
        return row.tokens, row.trace

    @torch.inference_mode()
    def pause(self, slot: int) -> None:
        """Leave a row out of the following steps; it keeps its slot and its state. ConfigError if the slot is free."""
        self._check()
        row = self._row(slot)
        for one in self._waiting:
            one.paused |= one.row is row
        if slot in self._parked:
            self._parked[slot].paused = True
        elif row in self._live.rows:
            self._park(row, True)

    @torch.inference_mode()
    def resume(self, slot: int) -> None:
        """Continue a paused row; it is appended to the batch. ConfigError if the slot is free."""
        self._check()
        row = self._row(slot)
        for one in self._waiting:
            one.paused &= one.row is not row
        if slot in self._parked:
            self._parked[slot].paused = False
            self._go_on(row)

    @torch.inference_mode()
    def extend(self, slot: int, limit: int, hints: Tensor | None = None, last: bool = False) -> None:
        """Raise the limit of an open row to `limit` tokens in total and append `hints` [1, T, C] to its own; with
        `last` it ends there. A row that waits goes on with the next step; its tokens are those that it would have had
        without the wait.

        ConfigError if the slot is free, for a row that is not open, a lower limit, or hints of a row without any.
        """
        self._check()
        row = self._row(slot)
        if not row.open or row.trace.finished:
            raise ConfigError(f"engine: slot {slot} cannot be extended; give its request open=True, and extend it once")
        if limit < row.limit:
            raise ConfigError(f"engine: limit {limit} for slot {slot}, expected at least its present one, {row.limit}")
        if hints is not None:
            if row.hints is None:
                raise ConfigError(f"engine: hints for slot {slot}, whose prompt has none; give the first ones with it")
            row.hints = torch.cat([row.hints, hints[0].to(row.hints)])
        row.limit, row.open = self.trunk.most_tokens(row.request, limit), not last
        row.trace.finished = row.complete
        self._go_on(row)

    def _park(self, row: Row, paused: bool) -> None:
        """Take a live row out of the batch, with its state."""
        place = self._live.rows.index(row)
        lane = next(lane for lane in self._lanes if row in lane.rows)
        assert self._live.base is not None
        self._parked[row.slot] = _Parked(
            lane.take([lane.rows.index(row)]), self._cache.take([place]), self._live.base[place : place + 1].clone(),
            paused,
        )  # fmt: skip
        keep_rows(self._live, self._lanes, [i for i in range(len(self._live.rows)) if i != place])

    def _go_on(self, row: Row) -> None:
        """Append a parked row to the batch again, unless it is paused, waits, or is done."""
        parked = self._parked.get(row.slot)
        if parked is not None and not (parked.paused or row.waits or row.done):
            del self._parked[row.slot]
            self._cache.join(parked.cache)
            parked.lane.places, parked.lane.batch = [0], self._live
            self._merge([row], [parked.lane], parked.base)

    def _bind_once(self, strategy: Strategy) -> BoundStrategy:
        """Bind a strategy at its first use and reuse the result, so that all of its rows are drafted and judged
        together."""
        if self._bind is None:
            raise ConfigError(
                "engine: no model to bind strategies to; make it by Runner.engine, or give a BoundStrategy"
            )
        if strategy not in self._bound:
            self._bound[strategy] = self._bind(strategy)
        return self._bound[strategy]

    def _row(self, slot: int) -> Row:
        if slot not in self._rows:
            raise ConfigError(f"engine: slot {slot} is free; join gives slots")
        return self._rows[slot]

    def _batch(self, rows: list[Row]) -> Batch:
        return Batch(self.trunk, self._step, self._cache, rows, self._recorded)

    def _prompt(self, new: Sequence[_Waiting]) -> list[Event]:
        """Run the prompts of new rows in one call, then append the rows to the live batch."""
        batch = self._batch([one.row for one in new])
        batch.first = len(self._live.rows)
        batch.prompt = stack_prompts([one.row.request.prompt for one in new])
        lanes = [self._lane(batch, new, places, key) for key, places in _alike(new).items()]
        self.trunk.join(self._cache, batch.prompt, batch.memory_sizes)
        events = self._call(batch, lanes)
        assert batch.base is not None or not batch.rows
        if batch.rows and batch.base is not None:
            self._merge(batch.rows, lanes, batch.base)
        return events

    def _lane(self, batch: Batch, new: Sequence[_Waiting], places: list[int], key: object) -> DecodeState:
        """The decoding state of the new rows at `places`, which share one bound strategy."""
        mine = [new[place] for place in places]
        bound, row_sampling, rows = mine[0].bound, mine[0].row_sampling, [one.row for one in mine]
        rule = bound.rule.for_trunk(self.trunk)
        rule = rule if row_sampling.seed is not None else rule.greedy()
        state = DecodeState(bound, rule, rows, places, batch, key, processors=row_sampling.processors)
        if row_sampling.seed is not None:
            keys = [row.request.noise_key for row in rows]
            state.noise = noise_of([row.seed for row in rows if row.seed is not None], keys, batch.device)
        began = lane_clock(state)
        if state.heads is not None:
            assert batch.prompt is not None
            memory, sizes = batch.prompt.memory, batch.memory_sizes
            if len(places) < len(new) and memory is not None and sizes is not None:
                memory, sizes = memory[torch.tensor(places, device=batch.device)], [sizes[place] for place in places]
            depth = getattr(bound.drafter, "depth", None)
            state.head_state = state.ask(state.heads.start(len(rows), self.trunk, depth, memory, sizes))
        state.drafter_state = bound.drafter.start(state)
        state.count_draft_seconds(lane_clock(state) - began)
        if bound.length is not None:
            state.length_state = bound.length.start(state)
        return state

    def _merge(self, rows: list[Row], lanes: list[DecodeState], base: Tensor) -> None:
        """Append rows whose prompts have been run to the live batch; the cache already holds them after the live
        rows."""
        live, size = self._live, len(self._live.rows)
        live.base = base if live.base is None or not size else torch.cat([live.base, base])
        live.rows = live.rows + rows
        for lane in lanes:
            if not lane.rows:
                continue
            lane.places, lane.batch = [size + place for place in lane.places], live
            other = next((one for one in self._lanes if one.key == lane.key), None)
            if other is None:
                self._lanes.append(lane)
            else:
                other.join(lane)

    def _call(self, batch: Batch, lanes: list[DecodeState]) -> list[Event]:
        """Run one draft, one trunk call and one acceptance for the rows of a batch; return the new tokens of each
        row."""
        batch.focus()
        spent = [drafted(lane) for lane in lanes]
        drafts, parts = [draft for draft, _ in spent], [lane.places for lane in lanes]
        draft = drafts[0] if len(lanes) == 1 else merge_drafts(drafts, parts)
        size, taps = draft.tokens.shape[1], taps_of(lanes)
        stepped = self._step.run(batch, draft, taps, all(lane.by_argmax for lane in lanes))
        verdicts = [judged(lane, stepped, one, len(lanes) > 1) for lane, one in zip(lanes, drafts)]
        accepted = verdicts[0][0] if len(lanes) == 1 else merge_accepted([v[0] for v in verdicts], parts, size)
        said = read_outcome(draft, accepted)  # copied to the host, which waits for the device
        emitted = record_outcome(batch, said)
        advanced = commit(batch, lanes, stepped, taps, draft, accepted, said)
        batch.prompt, batch.base = None, accepted.next
        for lane, (_, drafting), seconds, (_, choices) in zip(lanes, spent, advanced, verdicts):
            mine = [emitted[place] for place in lane.places]
            lane.bound.drafter.observe(lane, mine, choices)
            if lane.bound.length is not None:
                lane.bound.length.observe(lane, mine)
            lane.count_draft_seconds(drafting + seconds)
        events = [Event(row.slot, tuple(new), row.done) for row, new in zip(batch.rows, emitted)]
        keep_rows(batch, lanes, [i for i, row in enumerate(batch.rows) if not row.done])
        return events


def generate(
    trunk: Trunk, requests: Sequence[Request], strategies: BoundStrategy | Sequence[BoundStrategy],
    row_sampling: RowSampling | Sequence[RowSampling] | None = None, limits: Limits | None = None,
    recorded: Recorded | None = None,
) -> tuple[list[list[int]], list[Trace]]:  # fmt: skip
    """Decode requests in one batch, all by one strategy or each by its own: all of them join an engine, which steps
    until it is empty. Return token lists (with the end token, if one was emitted) and traces, one per request."""
    if not requests:
        return [], []
    each = [strategies] * len(requests) if isinstance(strategies, BoundStrategy) else strategies
    drawn = list(row_sampling) if isinstance(row_sampling, Sequence) else [row_sampling] * len(requests)
    engine = Engine(trunk, len(requests), limits, recorded)
    slots = [engine.join(request, bound, own) for request, bound, own in zip(requests, each, drawn, strict=True)]
    while engine.busy:
        engine.step()
    done = [engine.leave(slot) for slot in slots]
    return [tokens for tokens, _ in done], [trace for _, trace in done]


def _alike(new: Sequence[_Waiting]) -> dict[object, list[int]]:
    """Group new rows that are drafted and judged together: the rows' indices by the properties that they share."""
    found: dict[object, list[int]] = {}
    for place, one in enumerate(new):
        request, row_sampling = one.row.request, one.row_sampling
        key = (
            one.bound,
            request.rules.eos,
            row_sampling.processors,
            row_sampling.seed is not None,
            one.bound.drafter.apart(request),
            request.prompt.hints is not None,
        )
        found.setdefault(key, []).append(place)
    return found


def plain_outputs(
    trunk: Trunk, prompt: Prompt, rules: TokenRules, limits: Limits | Sequence[int] | None = None
) -> list[list[int]]:
    """Decode a batch of prompts without drafts and return each row's tokens, end tokens included. `limits` are the
    limits of the engine, or one number of tokens per row."""
    each = [None] * len(prompt.lengths) if limits is None or isinstance(limits, Limits) else limits
    requests = [Request(prompt.row(row), rules, limit) for row, limit in enumerate(each)]
    plain = BoundStrategy(Silent(), GreedyMatch())
    return generate(trunk, requests, plain, limits=limits if isinstance(limits, Limits) else None)[0]
