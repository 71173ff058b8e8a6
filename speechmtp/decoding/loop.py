"""The one loop: draft, one trunk call over pending entries and draft, accept, advance, trace."""

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from speechmtp.decoding.acceptance import AcceptanceRule, settle
from speechmtp.decoding.drafters.contract import Drafter
from speechmtp.decoding.state import DecodeState
from speechmtp.errors import ConfigError, ShapeError
from speechmtp.heads.contract import HeadSet
from speechmtp.models.trunk import Trunk, ancestors_of
from speechmtp.types import Draft, Prompt, States, Trace


@dataclass(frozen=True)
class Limits:
    """At most `ratio` tokens per prompt entry plus `extra`, and never more than `most`."""

    ratio: float = 2.0
    extra: int = 20
    most: int = 1000

    def of(self, entries: int) -> int:
        """The limit of a row whose prompt has this many entries."""
        return min(self.most, int(self.ratio * entries) + self.extra)


@torch.inference_mode()
def generate(
    trunk: Trunk, heads: HeadSet | None, prompt: Prompt, drafter: Drafter, rule: AcceptanceRule, eos: int,
    sources: list[list[int]] | None = None, limits: Limits | None = None, record_gaps: bool = False,
) -> tuple[list[list[int]], list[Trace]]:  # fmt: skip
    """Decode a batch of prompts; token lists (an end token last, where one came) and traces, a row each.

    `sources` are the drafter's token lists, one a row, where its `source` asks for them.
    """
    rows = len(prompt.lengths)
    if drafter.heads and heads is None:
        raise ConfigError("strategy: needs multi-token heads and the model has none; train some or choose another")
    depth = getattr(drafter, "depth", None)
    if drafter.heads and heads is not None and depth is not None and depth > heads.depth:
        raise ConfigError(f"strategy: depth {depth}, expected at most {heads.depth}, the depth of the model's heads")
    if drafter.source is not None and (sources is None or len(sources) != rows):
        raise ShapeError(f"strategy: needs {drafter.source} token lists for {rows} rows")
    limits = limits or Limits()
    state = DecodeState(
        list(range(rows)), trunk.new_cache(rows), prompt, [limits.of(int(n)) for n in prompt.lengths.tolist()],
        [[] for _ in range(rows)], [Trace() for _ in range(rows)], trunk.unembed, eos,
    )  # fmt: skip
    if drafter.heads and heads is not None:
        state.heads, state.head_state = heads, heads.start(rows, trunk, depth)
    state.drafter_state = drafter.start(state, sources)
    while state.rows:
        _call(trunk, state, drafter, rule, record_gaps)
    return state.tokens, state.traces


def _call(trunk: Trunk, state: DecodeState, drafter: Drafter, rule: AcceptanceRule, record_gaps: bool) -> None:
    """One draft, one trunk call, one acceptance, for all live rows."""
    began = _clock(state)
    draft = drafter.propose(state)
    spent = _clock(state) - began
    drafted = draft.count
    pending = state.pending.lengths
    inputs, positions, ancestors = _lay_out(trunk, state.pending, draft)
    taps = state.heads.taps if state.heads is not None else ()
    states = trunk.extend(inputs, positions, ancestors, state.cache, taps)
    nodes = torch.arange(-1, draft.tokens.shape[1], device=pending.device)
    slots = (pending[:, None] + nodes).clamp(max=inputs.shape[1] - 1)
    hidden = states.hidden.gather(1, slots[..., None].expand(-1, -1, states.hidden.shape[-1]))
    target = trunk.unembed(hidden)
    accepted = settle(*rule.law(target, draft), draft)
    chosen = draft.tokens.gather(1, accepted.path.clamp_min(0))
    emitted = [
        [*path[:count], last]
        for path, count, last in zip(chosen.tolist(), accepted.count.tolist(), accepted.next.tolist())
    ]
    spent += _commit(state, states, inputs, positions, pending, accepted.path, accepted.count)
    for row in state.rows:
        state.traces[row].draft_seconds += spent / len(state.rows)
    gaps = _gaps(target, accepted.path, accepted.count) if record_gaps else None
    kept = _record(state, emitted, drafted.tolist(), pending.tolist(), gaps)
    state.prompted = True
    _set_pending(trunk, state, accepted.count, accepted.next)
    drafter.observe(state, emitted)
    if len(kept) < len(state.rows):
        state.keep(kept)


def _lay_out(trunk: Trunk, pending: Prompt, draft: Draft) -> tuple[Tensor, Tensor, Tensor | None]:
    """Inputs [B, Q, C], positions [B, Q] and ancestors (None: a chain) of each row's pending entries and draft."""
    size = draft.tokens.shape[1]
    if size == 0:
        return pending.embeddings, pending.positions, None
    rows, entries, width = pending.embeddings.shape
    queries = entries + size
    tokens = trunk.embed(draft.tokens.clamp_min(0)).to(pending.embeddings.dtype)
    nodes = pending.lengths[:, None] + torch.arange(size, device=draft.tokens.device)
    depth = _depths(draft)
    inputs = pending.embeddings.new_zeros(rows, queries, width)
    inputs[:, :entries] = pending.embeddings
    inputs.scatter_(1, nodes[..., None].expand(-1, -1, width), tokens)
    positions = pending.positions.new_zeros(rows, queries)
    positions[:, :entries] = pending.positions
    positions.scatter_(1, nodes, pending.next_position[:, None] + depth)
    if draft.chain:
        return inputs, positions, None
    parent = torch.arange(-1, queries - 1, device=nodes.device).repeat(rows, 1)
    parent.scatter_(1, nodes, draft.parent + pending.lengths[:, None])
    return inputs, positions, ancestors_of(parent)


def _depths(draft: Draft) -> Tensor:
    """Depth [B, P] of each node, counted from 0 under the base token."""
    steps = torch.arange(draft.tokens.shape[1], device=draft.tokens.device)
    if draft.chain:
        return steps.expand_as(draft.tokens)
    depth = torch.zeros_like(draft.tokens)
    index = torch.arange(len(depth), device=depth.device)
    for node in range(depth.shape[1]):
        above = draft.parent[:, node]
        depth[:, node] = torch.where(above < 0, 0, depth[index, above.clamp_min(0)] + 1)
    return depth


def _commit(
    state: DecodeState, states: States, inputs: Tensor, positions: Tensor, pending: Tensor, path: Tensor, count: Tensor
) -> float:
    """Keep the pending entries and the accepted path, in the cache and in the heads; the heads' seconds."""
    total = pending + count
    size = inputs.shape[1]
    steps = torch.arange(size, device=pending.device).expand(len(pending), -1)
    place = steps - pending[:, None]
    if path.shape[1]:
        nodes = path.gather(1, place.clamp(0, path.shape[1] - 1)) + pending[:, None]
        keep = torch.where((place >= 0) & (place < count[:, None]), nodes, steps)
    else:
        keep = steps
    state.cache.commit(total, keep)
    if state.heads is None:
        return 0.0
    began = _clock(state)
    state.heads.advance(state.head_state, states, inputs, positions, keep, total)
    return _clock(state) - began


def _clock(state: DecodeState) -> float:
    """Seconds; where heads draft on a GPU, it has done first what it was given."""
    if state.heads is not None and state.device.type == "cuda":
        torch.cuda.synchronize(state.device)
    return time.perf_counter()


def _gaps(target: Tensor, path: Tensor, count: Tensor) -> list[list[float]]:
    """Top-1 minus top-2 logit where each emitted token was chosen."""
    best = target.topk(2, -1).values
    gap = best[..., 0] - best[..., 1]
    parents = torch.cat([path.new_full((len(path), 1), -1), path], 1) + 1
    return [row[: n + 1] for row, n in zip(gap.gather(1, parents.clamp_min(0)).tolist(), count.tolist())]


def _record(
    state: DecodeState, emitted: list[list[int]], drafted: list[int], pending: list[int], gaps: list[list[float]] | None
) -> list[int]:
    """Trim at end tokens and limits, append, count; returns the places of rows that go on.

    `emitted` is trimmed in place, so that drafters hear what was really emitted.
    """
    kept = []
    for place, row in enumerate(state.rows):
        tokens, trace = state.tokens[row], state.traces[row]
        new = emitted[place]
        accepted = len(new) - 1
        if state.eos in new:
            del new[new.index(state.eos) + 1 :]
        del new[state.limits[row] - len(tokens) :]
        tokens.extend(new)
        trace.finished = tokens[-1:] == [state.eos]
        trace.calls += 1
        trace.prompt_calls += not state.prompted
        trace.fed += pending[place] + drafted[place]
        trace.emitted += len(new)
        if gaps is not None:
            trace.gaps.extend(gaps[place][: len(new)])
        if drafted[place]:
            kept_drafts = min(accepted, len(new))
            trace.num_drafts += 1
            trace.num_draft_tokens += drafted[place]
            trace.num_accepted_tokens += kept_drafts
            per_position = trace.num_accepted_tokens_per_pos
            per_position.extend([0] * (kept_drafts - len(per_position)))
            for position in range(kept_drafts):
                per_position[position] += 1
        if not trace.finished and len(tokens) < state.limits[row]:
            kept.append(place)
    return kept


def _set_pending(trunk: Trunk, state: DecodeState, count: Tensor, token: Tensor) -> None:
    """The next call feeds the base token just emitted."""
    position = state.pending.next_position + count
    embeddings = trunk.embed(token)[:, None].to(state.pending.embeddings.dtype)
    state.pending = Prompt(embeddings, position[:, None], torch.ones_like(position), position + 1)
