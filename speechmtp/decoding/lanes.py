"""The parts of a step that are done per strategy: drafting, accepting, and selecting the states that the heads read."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from speechmtp.clock import clock
from speechmtp.decoding.layout import allowed, committed, path_prefixes, trim
from speechmtp.decoding.noise import TARGET
from speechmtp.decoding.sampling import processed
from speechmtp.decoding.state import Batch, DecodeState
from speechmtp.decoding.step import Stepped
from speechmtp.decoding.traces import CallOutcome, record_logprobs, record_overlap, record_scores
from speechmtp.decoding.trees import MAX_DRAFT
from speechmtp.types import Accepted, Draft


def drafted(lane: DecodeState) -> tuple[Draft, float]:
    """A lane's draft, cut to its limits, and the seconds that drafting took. For lossy rules, which might accept them,
    suppressed tokens are removed."""
    bound, began = lane.bound, lane_clock(lane)
    lane.limits = None if bound.length is None else bound.length.limits(lane)
    if any(row.bounded for row in lane.rows):
        most = lane.limits or [MAX_DRAFT] * len(lane.rows)
        lane.limits = [max(0, min(own, row.left - 1)) if row.bounded else own for own, row in zip(most, lane.rows)]
    draft = bound.drafter.propose(lane)
    if lane.limits is not None:
        draft = trim(draft, lane.limits)
    if not lane.rule.exact and any(rules.suppress or rules.begin_suppress for rules in lane.rules):
        draft = allowed(draft, lane.rules, not lane.prompted)
    return draft, lane_clock(lane) - began


def judged(lane: DecodeState, stepped: Stepped, draft: Draft, mixed: bool) -> tuple[Accepted, Tensor | None]:
    """Apply a lane's rule to its draft: what is accepted, and the trunk's argmax tokens [B, P + 1] for the drafter's
    `observe`, which may be None unless the drafter `wants_choices`. `mixed` says that the batch has rows of other lanes
    too."""
    rule, size, wants_choices = lane.rule, draft.tokens.shape[1], lane.bound.drafter.wants_choices
    at = torch.tensor(lane.places, device=lane.device) if mixed else None
    if stepped.choices is not None:
        choices = stepped.choices if at is None else stepped.choices[at][:, : size + 1]
        accepted = rule.judge(choices, draft)
        if lane.batch.recorded.logprobs:
            record_logprobs(lane, lambda rows, slots: _scores(lane, stepped, rows if at is None else at[rows], slots),
                            draft, accepted)  # fmt: skip
        return accepted, choices
    assert stepped.logits is not None
    target = stepped.logits if at is None else stepped.logits[at][:, : size + 1]
    steps = torch.arange(size + 1, device=target.device) if draft.chain else F.pad(draft.depth + 1, (1, 0))
    if lane.processes:
        prefixes = lambda: path_prefixes([row.prefix for row in lane.rows], draft)  # noqa: E731
        target = processed(lane.rows, lane.processors, target, steps, prefixes)
    drawn = target
    index = lane.base_index if lane.noise is not None else None
    if lane.noise is not None and rule.draws == "shared":
        assert index is not None
        drawn = target + lane.noise.gumbel(index[:, None] + steps, target.shape[-1], TARGET).to(target.dtype)
    accepted = rule.accept(drawn, draft, lane.noise, index)
    record_scores(lane, target, draft, accepted)
    if lane.batch.recorded.overlap and size:
        record_overlap(lane, target, draft, accepted)
    return accepted, drawn.argmax(-1) if wants_choices else None


def _scores(lane: DecodeState, stepped: Stepped, rows: Tensor, slots: Tensor) -> Tensor:
    """Logits [n, V] of slots [n] of the batch's rows [n]."""
    return lane.step.scores(lane.batch, stepped, rows, slots)


def taps_of(lanes: Sequence[DecodeState]) -> tuple[int, ...]:
    """The trunk layers that the heads of any lane read: sorted, or in the head set's own order if only one lane has
    heads."""
    wanted = [lane.heads.taps for lane in lanes if lane.heads is not None]
    return wanted[0] if len(wanted) == 1 else tuple(sorted({tap for taps in wanted for tap in taps}))


def own_taps(stepped: Stepped, taps: tuple[int, ...], lane: DecodeState) -> Stepped:
    """The result of the call with only the taps that this lane's heads read."""
    assert lane.heads is not None
    if lane.heads.taps == taps:
        return stepped
    return stepped.tapped([taps.index(tap) for tap in lane.heads.taps])


def lane_clock(lane: DecodeState) -> float:
    """The time in seconds if drafting is timed (see `clock`), else 0."""
    return clock(lane.device) if lane.batch.timed else 0.0


def commit(
    batch: Batch, lanes: list[DecodeState], stepped: Stepped, taps: tuple[int, ...], draft: Draft,
    accepted: Accepted, said: CallOutcome,
) -> list[float]:  # fmt: skip
    """Commit each row's pending entries and accepted path to the cache and to the heads' states; return the seconds
    that the heads of each lane took."""
    entries, device = batch.entries, batch.device
    counts = [own + count for own, count in zip(entries, said.counts)]
    paths = None if draft.chain else committed(entries, said.paths)
    batch.cache.commit(counts, paths)
    asked = [lane.heads is not None and not all(row.done for row in lane.rows) for lane in lanes]
    if not any(asked):
        return [0.0] * len(lanes)
    queries, rows = stepped.inputs.shape[1], len(batch.rows)
    every = torch.arange(queries, device=device).expand(rows, -1)
    keep = every if paths is None else torch.tensor(paths, device=device)
    total = accepted.count + (1 if batch.prompt is None else batch.prompt.lengths)
    seconds = []
    for lane, wanted in zip(lanes, asked):
        if not wanted or lane.heads is None:
            seconds.append(0.0)
            continue
        began = lane_clock(lane)
        own = own_taps(stepped, taps, lane)
        if len(lanes) == 1:
            batch.step.advance(lane.heads, lane.head_state, own, keep, total, counts)
        else:
            at = torch.tensor(lane.places, device=device)
            mine = [counts[place] for place in lane.places]
            batch.step.advance(lane.heads, lane.head_state, own.rows(at), keep[at], total[at], mine)
        seconds.append(lane_clock(lane) - began)
    return seconds


def keep_rows(batch: Batch, lanes: list[DecodeState], kept: list[int]) -> None:
    """Drop the rows that are not at `kept` from the batch, the cache and the lanes."""
    if len(kept) == len(batch.rows):
        return
    size = len(batch.rows)
    before = list(range(batch.first))
    behind = range(batch.first + size, len(batch.cache.known))
    batch.cache.select([*before, *(batch.first + place for place in kept), *behind])
    batch.rows = [batch.rows[place] for place in kept]
    if batch.base is not None:
        batch.base = batch.base[torch.tensor(kept, dtype=torch.long, device=batch.device)]
    moved = {old: new for new, old in enumerate(kept)}
    for lane in lanes:
        stay = [i for i, place in enumerate(lane.places) if place in moved]
        places = [moved[lane.places[i]] for i in stay]
        if stay:
            lane.keep(stay)
        else:
            lane.rows = []
            lane.close()
        lane.places = places
    lanes[:] = [lane for lane in lanes if lane.rows]
