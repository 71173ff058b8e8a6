"""The one loop: draft, one trunk call over pending entries and draft, accept, advance, trace."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from speechmtp.decoding.acceptance import AcceptanceRule
from speechmtp.decoding.draft_length import DraftLength
from speechmtp.decoding.drafters.contract import Drafter, Sources
from speechmtp.decoding.flags import flags_of
from speechmtp.decoding.layout import (
    committed,
    lay_out,
    merge_accepted,
    merge_drafts,
    path_prefixes,
    slots_behind,
    trim,
)
from speechmtp.decoding.noise import TARGET, Noise
from speechmtp.decoding.noise_ahead import NoiseAhead
from speechmtp.decoding.processors import Processors, SamplingConfig
from speechmtp.decoding.state import Batch, DecodeState
from speechmtp.decoding.tally import record, record_overlap
from speechmtp.errors import ConfigError, ShapeError
from speechmtp.heads.contract import HeadSet
from speechmtp.models.trunk import Trunk
from speechmtp.types import Accepted, Draft, Prompt, States, Trace


@dataclass(frozen=True)
class Limits:
    """At most `ratio` tokens per prompt entry plus `extra`, and never more than `most`."""

    ratio: float = 2.0
    extra: int = 20
    most: int = 1000

    def of(self, entries: int) -> int:
        """The limit of a row whose prompt has this many entries."""
        return min(self.most, int(self.ratio * entries) + self.extra)


@dataclass(frozen=True)
class Plan:
    """A strategy for some rows of a batch: a drafter, a rule, and what they need. `sources` are in the order of
    `rows`; without `rows` they are all the batch's."""

    drafter: Drafter
    rule: AcceptanceRule
    heads: HeadSet | None = None
    sources: Sources = field(default_factory=Sources)
    length: DraftLength | None = None
    rows: Sequence[int] | None = None


@dataclass
class _Lane:
    """A plan, its rule for this run, and the state of its live rows."""

    plan: Plan
    rule: AcceptanceRule
    state: DecodeState


@dataclass(frozen=True)
class Drawing:
    """How tokens are drawn: processors and, unless the likeliest are taken, a seed and a stream for every row."""

    processors: Processors | None = None
    seeds: Sequence[int] | None = None
    streams: Sequence[int] | None = None

    @classmethod
    def of(cls, config: SamplingConfig, streams: Sequence[int]) -> "Drawing":
        """One seed for all rows, a stream for each."""
        seeds = [config.seed] * len(streams) if config.temperature > 0 else None
        return cls(config.processors(), seeds, streams)

    def noise(self, rows: int, device: torch.device) -> Noise | None:
        """Noise of all rows; None where nothing is drawn."""
        if self.seeds is None:
            return None
        streams = range(rows) if self.streams is None else self.streams
        # A seed is 64 bits; torch's integers have a sign.
        signed = [(seed + 2**63) % 2**64 - 2**63 for seed in self.seeds]
        kind = NoiseAhead if device.type == "cpu" else Noise
        return kind(torch.tensor(signed, device=device), torch.tensor(list(streams), device=device))


def generate(
    trunk: Trunk, heads: HeadSet | None, prompt: Prompt, drafter: Drafter, rule: AcceptanceRule,
    eos: int | Sequence[int],
    sources: Sources | None = None, limits: Limits | Sequence[int] | None = None, record_gaps: bool = False,
    drawing: Drawing | None = None,
) -> tuple[list[list[int]], list[Trace]]:  # fmt: skip
    """`generate_mixed` with one strategy for all rows."""
    plan = Plan(drafter, rule, heads, sources or Sources())
    return generate_mixed(trunk, prompt, [plan], eos, limits, drawing, record_gaps=record_gaps)


@torch.inference_mode()
def generate_mixed(
    trunk: Trunk, prompt: Prompt, plans: Sequence[Plan], eos: int | Sequence[int],
    limits: Limits | Sequence[int] | None = None,
    drawing: Drawing | None = None, prompt_ids: Sequence[Sequence[int]] | None = None, record_gaps: bool = False,
    overlap: bool = False, record_logprobs: bool = False,
) -> tuple[list[list[int]], list[Trace]]:  # fmt: skip
    """Decode a batch of prompts, each row by one of `plans`; token lists (an end token last, where one came) and
    traces, a row each.

    `limits` may be a number of tokens a row; `prompt_ids` are the ids in front of each row's output, for processors and
    for drafters that look back; `overlap` measures what acceptance theory expects.
    """
    rows, ends = len(prompt.lengths), (eos,) if isinstance(eos, int) else tuple(eos)
    limits = limits or Limits()
    most = [limits.of(n) for n in prompt.lengths.tolist()] if isinstance(limits, Limits) else list(limits)
    drawing = drawing or Drawing()
    batch = Batch(
        trunk, list(range(rows)), trunk.new_cache(rows, prompt), prompt, prompt.lengths.tolist(), most,
        [[] for _ in range(rows)], [Trace() for _ in range(rows)],
        [list(ids) for ids in prompt_ids] if prompt_ids is not None else [[] for _ in range(rows)], ends,
        drawing.processors, record_gaps=record_gaps, record_overlap=overlap, record_logprobs=record_logprobs,
    )  # fmt: skip
    noise = drawing.noise(rows, prompt.embeddings.device)
    lanes = [_start(plan, batch, noise, rows) for plan in plans]
    held = sorted(row for lane in lanes for row in lane.state.rows)
    if held != list(range(rows)):
        raise ShapeError(f"generate: strategies for rows {held}, expected each of {rows} rows once")
    while batch.rows:
        _call(batch, lanes)
    for tokens, trace in zip(batch.tokens, batch.traces):
        trace.flags = flags_of(tokens, ends)
    return batch.tokens, batch.traces


def _start(plan: Plan, batch: Batch, noise: Noise | None, count: int) -> _Lane:
    rows = list(range(count)) if plan.rows is None else list(plan.rows)
    drafter, depth = plan.drafter, getattr(plan.drafter, "depth", None)
    if drafter.heads and plan.heads is None:
        raise ConfigError("strategy: needs multi-token heads and the model has none; train some or choose another")
    if drafter.heads and plan.heads is not None and depth is not None and depth > plan.heads.depth:
        raise ConfigError(
            f"strategy: depth {depth}, expected at most {plan.heads.depth}, the depth of the model's heads"
        )
    source = plan.sources.of(drafter.source) if drafter.source else None
    name = drafter.source.name if drafter.source else ""
    if drafter.source and len(source[1] if name == "model" and source else source or ()) != len(rows):
        raise ShapeError(
            "strategy: needs a draft model; give one with --draft-model" if name == "model" and not source
            else f"strategy: needs {name} token lists for {len(rows)} rows"
        )  # fmt: skip
    index = torch.tensor(rows, dtype=torch.long, device=batch.pending.embeddings.device)
    rule = plan.rule.fitted(batch.trunk)
    rule = rule if noise is not None else rule.undrawn()
    state = DecodeState(rows, rows, batch, rule.draws, noise=None if noise is None else noise.select(index))
    if drafter.heads and plan.heads is not None:
        memory, lengths = batch.pending.memory, batch.pending.memory_lengths
        memory, lengths = (None if part is None else part[index] for part in (memory, lengths))
        state.heads = plan.heads
        state.head_state = plan.heads.start(len(rows), batch.trunk, depth, memory, lengths)
    state.drafter_state = drafter.start(state, source)
    if plan.length is not None:
        state.length_state = plan.length.start(state)
    return _Lane(plan, rule, state)


def _call(batch: Batch, lanes: list[_Lane]) -> None:
    """One draft, one trunk call, one acceptance, for all live rows."""
    spent = [_timed_draft(lane) for lane in lanes]
    drafts = [draft for draft, _ in spent]
    parts = [lane.state.places for lane in lanes]
    draft = drafts[0] if len(lanes) == 1 else merge_drafts(drafts, parts)
    inputs, positions, ancestors = lay_out(batch, draft)
    taps = _taps(lanes)
    states = batch.trunk.extend(inputs, positions, ancestors, batch.cache, taps)
    size = draft.tokens.shape[1]
    target = batch.trunk.unembed(slots_behind(batch, states.hidden, size))
    target = target if batch.prompted else batch.trunk.opening(target)
    if batch.processors is not None:
        live = [batch.prompt_ids[row] + batch.tokens[row] for row in batch.rows]
        target = batch.processors(target, lambda: path_prefixes(live, draft))
    verdicts = [_judge(lane, target, one, len(lanes) > 1) for lane, one in zip(lanes, drafts)]
    accepted = verdicts[0][0] if len(lanes) == 1 else merge_accepted([v[0] for v in verdicts], parts, size)
    seconds = _commit(batch, lanes, (states, taps), inputs, positions, draft, accepted)
    for lane, (_, drafting), advancing in zip(lanes, spent, seconds):
        for row in lane.state.rows:
            batch.traces[row].draft_seconds += (drafting + advancing) / len(lane.state.rows)
    emitted, kept = record(batch, draft, accepted, target)
    batch.prompted = True
    _set_pending(batch, accepted)
    for lane, (_, drawn) in zip(lanes, verdicts):
        mine = [emitted[place] for place in lane.state.places]
        lane.plan.drafter.observe(lane.state, mine, drawn)
        if lane.plan.length is not None:
            lane.plan.length.observe(lane.state, mine)
    if not kept:
        batch.rows = []
    elif len(kept) < len(batch.rows):
        batch.keep(kept)
        _replace(lanes, kept)


def _timed_draft(lane: _Lane) -> tuple[Draft, float]:
    """A lane's draft, cut to its limits, and the seconds that it took."""
    state, plan = lane.state, lane.plan
    began = _clock(state)
    if plan.length is not None:
        state.limits = plan.length.limits(state)
    draft = plan.drafter.propose(state)
    if state.limits is not None:
        draft = trim(draft, state.limits)
    return draft, _clock(state) - began


def _judge(lane: _Lane, target: Tensor, draft: Draft, mixed: bool) -> tuple[Accepted, Tensor]:
    """What a lane's rule accepts of its draft, and the trunk's choices that its drafter may hear of."""
    state, rule = lane.state, lane.rule
    size = draft.tokens.shape[1]
    if mixed:
        target = target[state.places][:, : size + 1]
    drawn = target
    index = state.base_index if state.noise is not None else None
    if state.noise is not None and rule.draws == "shared":
        assert index is not None
        steps = torch.arange(size + 1, device=index.device) if draft.chain else F.pad(draft.depth + 1, (1, 0))
        drawn = target + state.noise.gumbel(index[:, None] + steps, target.shape[-1], TARGET).to(target.dtype)
    accepted = rule.accept(drawn, draft, state.noise, index)
    if state.batch.record_overlap and size:
        record_overlap(state, target, draft, accepted)
    return accepted, drawn


def _taps(lanes: list[_Lane]) -> tuple[int, ...]:
    """The trunk layers that any lane's heads read; a single head set's in its own order."""
    wanted = [lane.state.heads.taps for lane in lanes if lane.state.heads is not None]
    return wanted[0] if len(wanted) == 1 else tuple(sorted({tap for taps in wanted for tap in taps}))


def _commit(
    batch: Batch, lanes: list[_Lane], tapped: tuple[States, tuple[int, ...]], inputs: Tensor, positions: Tensor,
    draft: Draft, accepted: Accepted,
) -> list[float]:  # fmt: skip
    """Keep the pending entries and the accepted path, in the cache and in the heads; the heads' seconds."""
    (states, taps), total = tapped, batch.pending.lengths + accepted.count
    keep = committed(batch, draft, accepted, inputs.shape[1])
    batch.cache.commit(total, None if draft.chain else keep)
    seconds = []
    for lane in lanes:
        state, heads = lane.state, lane.state.heads
        if heads is None:
            seconds.append(0.0)
            continue
        began = _clock(state)
        own = states
        if heads.taps != taps:
            assert states.taps is not None or not heads.taps
            read = [taps.index(tap) for tap in heads.taps]
            own = States(states.hidden, states.taps[:, :, read] if states.taps is not None and read else None)
        if len(lanes) == 1:
            heads.advance(state.head_state, own, inputs, positions, keep, total)
        else:
            at = state.places
            own = States(own.hidden[at], None if own.taps is None else own.taps[at])
            heads.advance(state.head_state, own, inputs[at], positions[at], keep[at], total[at])
        seconds.append(_clock(state) - began)
    return seconds


def _set_pending(batch: Batch, accepted: Accepted) -> None:
    """The next call feeds the base token just emitted."""
    position = batch.pending.next_position + accepted.count
    embeddings = batch.trunk.embed(accepted.next)[:, None].to(batch.pending.embeddings.dtype)
    ones = batch.pending.lengths if max(batch.entries) == 1 else torch.ones_like(position)
    batch.pending = Prompt(embeddings, position[:, None], ones, position + 1)
    batch.entries = [1] * len(batch.rows)


def _replace(lanes: list[_Lane], kept: list[int]) -> None:
    """Rows have left: those at `kept` of the live ones stay, in every lane at its own places."""
    moved = {old: new for new, old in enumerate(kept)}
    for lane in lanes:
        stay = [i for i, place in enumerate(lane.state.places) if place in moved]
        lane.state.keep(stay, [moved[lane.state.places[i]] for i in stay], lane.plan.drafter.drop)
    lanes[:] = [lane for lane in lanes if lane.state.rows]


def _clock(state: DecodeState) -> float:
    """Seconds; where heads draft on a GPU, it has done first what it was given."""
    if state.heads is not None and state.device.type == "cuda":
        torch.cuda.synchronize(state.device)
    return time.perf_counter()
