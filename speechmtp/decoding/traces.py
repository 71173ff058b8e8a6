"""The outcome of a call: copied to the host, trimmed at end tokens and limits, and counted in the traces; and flags for
outputs that look wrong."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from speechmtp.decoding.rules.contract import probs_of
from speechmtp.decoding.state import Batch, DecodeState
from speechmtp.types import Accepted, Draft


@dataclass(frozen=True)
class CallOutcome:
    """The outcome of a call on the host, one item per row: the drafted `tokens` (-1: absent), the node indices of the
    accepted `paths`, their `counts`, and the token `next` that follows them."""

    tokens: list[list[int]]
    paths: list[list[int]]
    counts: list[int]
    next: list[int]


def read_outcome(draft: Draft, accepted: Accepted) -> CallOutcome:
    """Copy all that the host needs of a call in one packed tensor."""
    size = draft.tokens.shape[1]
    parts = [accepted.count[:, None], accepted.next[:, None], draft.tokens]
    rows = torch.cat(parts if draft.chain else [*parts, accepted.path], 1).tolist()
    counts = [row[0] for row in rows]
    if draft.chain:
        paths = [list(range(count)) for count in counts]
    else:
        paths = [row[2 + size : 2 + size + count] for row, count in zip(rows, counts)]
    return CallOutcome([row[2 : 2 + size] for row in rows], paths, counts, [row[1] for row in rows])


def record_outcome(batch: Batch, said: CallOutcome) -> list[list[int]]:
    """Append each row's new tokens and update its trace; return the new tokens of each row. They are cut after the
    first end token and at the row's limit; a row is finished if an end token is among what remains."""
    emitted = []
    counts = [len(drafts) - drafts.count(-1) for drafts in said.tokens]
    unused = len(said.tokens[0]) - max(counts)  # nodes that no row has: they are fed, and are not padding of any row
    for row, entries, drafts, drafted, path, following in zip(
        batch.rows, batch.entries, said.tokens, counts, said.paths, said.next
    ):
        trace, ends = row.trace, row.request.rules.eos
        new = [*(drafts[node] for node in path), following]
        for place, token in enumerate(new):
            if token in ends:
                del new[place + 1 :]
                break
        del new[row.limit - len(row.tokens) :]
        row.tokens.extend(new)
        emitted.append(new)
        trace.finished = row.complete or (row.tokens[-1:] != [] and row.tokens[-1] in ends)
        trace.calls += 1
        trace.prompt_calls += not batch.prompted
        trace.fed += entries + drafted + unused
        trace.emitted += len(new)
        for values in (trace.gaps, trace.logprobs):
            # `record_scores` has added values for the whole accepted path; drop those of tokens that were cut.
            del values[len(row.tokens) :]
        if drafted:
            kept = min(len(path), len(new))
            trace.num_drafts += 1
            trace.num_draft_tokens += drafted
            trace.num_accepted_tokens += kept
            per_position = trace.num_accepted_tokens_per_pos
            per_position.extend([0] * (kept - len(per_position)))
            for position in range(kept):
                per_position[position] += 1
    return emitted


def record_scores(state: DecodeState, target: Tensor, draft: Draft, accepted: Accepted) -> None:
    """Record, if asked for, the top-1 minus top-2 logit and the log probability of each token that a call chose.
    `record_outcome` drops those of tokens that are not emitted."""
    wanted = state.batch.recorded
    if wanted.gaps:
        counts = accepted.count.tolist()
        slots = torch.cat([accepted.path.new_full((len(accepted.path), 1), -1), accepted.path], 1) + 1
        best = target.topk(2, -1).values
        gaps = (best[..., 0] - best[..., 1]).gather(1, slots.clamp_min(0)).tolist()
        for row, values, count in zip(state.rows, gaps, counts):
            row.trace.gaps.extend(values[: count + 1])
    if wanted.logprobs:
        record_logprobs(state, lambda rows, slots: target[rows, slots], draft, accepted)


def record_logprobs(
    state: DecodeState, logits: Callable[[Tensor, Tensor], Tensor], draft: Draft, accepted: Accepted
) -> None:
    """Record the log probability of each token that a call chose; `logits` gives those [n, V] of slots [n] of the rows
    [n] of the lane."""
    tokens, following = draft.tokens.tolist(), accepted.next.tolist()
    said = list[tuple[int, int, int]]()  # row, slot and token
    counts = accepted.count.tolist()
    for row, (path, count) in enumerate(zip(accepted.path.tolist(), counts)):
        slots = [0, *(node + 1 for node in path[:count])]
        chosen = [*(tokens[row][node] for node in path[:count]), following[row]]
        said += [(row, slot, token) for slot, token in zip(slots, chosen)]
    at = torch.tensor(said, device=draft.tokens.device)  # [n, 3]
    sure = logits(at[:, 0], at[:, 1]).log_softmax(-1).gather(1, at[:, 2:])[:, 0].tolist()
    for one, count in zip(state.rows, counts):
        one.trace.logprobs.extend(sure[: count + 1])
        del sure[: count + 1]


def record_overlap(state: DecodeState, target: Tensor, draft: Draft, accepted: Accepted) -> None:
    """Add to the trace, for the first child of the base token and of each accepted node, the sum over v of min(p(v),
    q(v)): the expected acceptance rate of a single sample from q under the ratio rule. For a draft without q, add p of
    the child."""
    probs = probs_of(target)
    for place, row in enumerate(state.rows):
        trace, parents = row.trace, draft.parent[place].tolist()
        path = accepted.path[place, : int(accepted.count[place])].tolist()
        for above in (-1, *path):
            child = next((n for n, p in enumerate(parents) if p == above and int(draft.tokens[place, n]) >= 0), None)
            if child is None:
                break
            p = probs[place, above + 1]
            if draft.q is None:
                shared = p[draft.tokens[place, child]]
            else:
                shared = torch.minimum(p, draft.q[place, child].to(p.dtype)).sum()
            trace.examined += 1
            trace.overlap += float(shared)


LONGEST_PERIOD, REPEATS, MIN_TOKENS = 16, 4, 12


def flags_of(
    tokens: Sequence[int], ends: Sequence[int], complete: bool = False, may_repeat: Sequence[int] = ()
) -> tuple[str, ...]:
    """Flags of an output. `empty`: no token before the end; `limit`: no end token, unless it is `complete` without one;
    `repetition`: the output ends in at least 4 repetitions of the same up to 16 tokens, 12 tokens or more, which are
    not all in `may_repeat`."""
    found = []
    text = [token for token in tokens if token not in ends]
    if not text:
        found.append("empty")
    if tokens and not complete and tokens[-1] not in ends:
        found.append("limit")
    if _repeats(text, set(may_repeat)):
        found.append("repetition")
    return tuple(found)


def _repeats(tokens: Sequence[int], allowed: set[int]) -> bool:
    for period in range(1, LONGEST_PERIOD + 1):
        size = max(REPEATS * period, MIN_TOKENS)
        if allowed.issuperset(tokens[-period:]):
            continue
        if len(tokens) >= size and all(tokens[-i] == tokens[-i - period] for i in range(1, size - period + 1)):
            return True
    return False
