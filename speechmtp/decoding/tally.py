"""What a call emitted: trimming at end tokens and limits, and the counts of the traces."""

import torch
from torch import Tensor

from speechmtp.decoding.acceptance import law_of
from speechmtp.decoding.state import Batch, DecodeState
from speechmtp.types import Accepted, Draft


def record(batch: Batch, draft: Draft, accepted: Accepted, target: Tensor) -> tuple[list[list[int]], list[int]]:
    """Append and count what is emitted, trimmed at end tokens and limits, an end token winning over a limit; that, a
    live row each, and the places of the rows that go on."""
    gaps = _gaps(target, accepted) if batch.record_gaps else None
    logprobs = _logprobs(target, draft, accepted) if batch.record_logprobs else None
    drafts, paths = draft.tokens.tolist(), accepted.path.tolist()
    drafted = [len(row) - row.count(-1) for row in drafts]
    counts, following = accepted.count.tolist(), accepted.next.tolist()
    emitted, kept = [], []
    for place, row in enumerate(batch.rows):
        tokens, trace, count = batch.tokens[row], batch.traces[row], counts[place]
        new = [*(drafts[place][node] for node in paths[place][:count]), following[place]]
        last = next((at for at, token in enumerate(new) if token in batch.ends), len(new))
        del new[last + 1 :]
        del new[batch.limits[row] - len(tokens) :]
        tokens.extend(new)
        emitted.append(new)
        trace.finished = bool(tokens) and tokens[-1] in batch.ends
        trace.calls += 1
        trace.prompt_calls += not batch.prompted
        trace.fed += batch.entries[place] + drafted[place]
        trace.emitted += len(new)
        if gaps is not None:
            trace.gaps.extend(gaps[place][: len(new)])
        if logprobs is not None:
            trace.logprobs.extend(logprobs[place][: len(new)])
        if drafted[place]:
            kept_drafts = min(count, len(new))
            trace.num_drafts += 1
            trace.num_draft_tokens += drafted[place]
            trace.num_accepted_tokens += kept_drafts
            per_position = trace.num_accepted_tokens_per_pos
            per_position.extend([0] * (kept_drafts - len(per_position)))
            for position in range(kept_drafts):
                per_position[position] += 1
        if not trace.finished and len(tokens) < batch.limits[row]:
            kept.append(place)
    return emitted, kept


def _gaps(target: Tensor, accepted: Accepted) -> list[list[float]]:
    """Top-1 minus top-2 logit where each emitted token was chosen."""
    best = target.topk(2, -1).values
    gap = best[..., 0] - best[..., 1]
    path = accepted.path
    parents = torch.cat([path.new_full((len(path), 1), -1), path], 1) + 1
    return [row[: n + 1] for row, n in zip(gap.gather(1, parents.clamp_min(0)).tolist(), accepted.count.tolist())]


def _logprobs(target: Tensor, draft: Draft, accepted: Accepted) -> list[list[float]]:
    """Log probability of each emitted token under the target where it was chosen."""
    law = target.log_softmax(-1, dtype=torch.promote_types(target.dtype, torch.float32))
    path, count, following = accepted.path, accepted.count[:, None], accepted.next[:, None]
    slots = torch.cat([path.new_full((len(path), 1), -1), path], 1) + 1
    chosen = torch.cat([draft.tokens.gather(1, path.clamp_min(0)), following], 1).scatter(1, count, following)
    rows = torch.arange(len(path), device=path.device)[:, None]
    found = law[rows, slots.clamp_min(0), chosen.clamp_min(0)]
    return [row[: n + 1] for row, n in zip(found.tolist(), accepted.count.tolist())]


def record_overlap(state: DecodeState, target: Tensor, draft: Draft, accepted: Accepted) -> None:
    """Add, where a first child was asked (behind the base token and each accepted node), sum over v of min(p, q): the
    rate at which a single draw from q stays under the ratio rule."""
    law = law_of(target)
    for place, row in enumerate(state.rows):
        trace, parents = state.batch.traces[row], draft.parent[place].tolist()
        path = accepted.path[place, : int(accepted.count[place])].tolist()
        for above in (-1, *path):
            child = next((n for n, p in enumerate(parents) if p == above and int(draft.tokens[place, n]) >= 0), None)
            if child is None:
                break
            p = law[place, above + 1]
            if draft.q is None:
                shared = p[draft.tokens[place, child]]
            else:
                shared = torch.minimum(p, draft.q[place, child].to(p.dtype)).sum()
            trace.examined += 1
            trace.overlap += float(shared)
