"""The layout of a trunk call (inputs, positions, ancestors), cuts of drafts, and drafts and outcomes of several
strategies merged into one."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from speechmtp.ancestors import ancestors_of
from speechmtp.decoding.state import Batch
from speechmtp.types import Accepted, Draft, TokenRules


def lay_out(batch: Batch, draft: Draft) -> tuple[Tensor, Tensor, Tensor | None]:
    """Inputs [B, Q, C], positions [B, Q] and ancestors bool [B, Q, Q] (None: a chain) of a call over each row's pending
    entries and its draft."""
    size = draft.tokens.shape[1]
    if batch.prompt is None:
        return _behind_base(batch, draft, size)
    prompt, entries = batch.prompt, batch.entries
    if size == 0:
        return prompt.entries, prompt.positions, None
    known = prompt.entries
    depth = None if draft.chain else draft.depth
    tokens = batch.embed(draft.tokens.clamp_min(0), 0, depth).to(known.dtype)
    places = _places(batch.ahead, draft)
    longest = known.shape[1]
    if min(entries) == longest:  # no padding: the draft begins at the same index in all rows
        inputs, positions = torch.cat([known, tokens], 1), torch.cat([prompt.positions, places], 1)
        return inputs, positions, None if draft.chain else _behind(draft.ancestors, longest)
    rows, _, width = known.shape
    queries = longest + size
    nodes = prompt.lengths[:, None] + torch.arange(size, device=tokens.device)
    inputs = known.new_zeros(rows, queries, width)
    inputs[:, :longest] = known
    inputs.scatter_(1, nodes[..., None].expand(-1, -1, width), tokens)
    positions = prompt.positions.new_zeros(rows, queries)
    positions[:, :longest] = prompt.positions
    positions.scatter_(1, nodes, places)
    if draft.chain:
        return inputs, positions, None
    parent = torch.arange(-1, queries - 1, device=nodes.device).repeat(rows, 1)
    parent.scatter_(1, nodes, draft.parent + prompt.lengths[:, None])
    return inputs, positions, ancestors_of(parent)


def node_counts(draft: Draft) -> Tensor:
    """How many nodes [B] of each row's draft, from the first on, hold all that are there."""
    size, tokens = draft.tokens.shape[1], draft.tokens
    if not size:
        return tokens.new_zeros(len(tokens))
    return ((tokens >= 0) * torch.arange(1, size + 1, device=tokens.device)).amax(1)


def _behind_base(batch: Batch, draft: Draft, size: int) -> tuple[Tensor, Tensor, Tensor | None]:
    """The layout of each row's base token and its draft."""
    assert batch.base is not None
    base = batch.base[:, None]
    tokens = torch.cat([base, draft.tokens.clamp_min(0)], 1) if size else base
    if draft.chain:
        return batch.embed(tokens, -1), batch.ahead(1 + size, -1), None
    depth = F.pad(draft.depth + 1, (1, 0))
    positions = batch.ahead(1 + size, -1).gather(1, depth)
    return batch.embed(tokens, -1, depth), positions, _behind(draft.ancestors, 1)


def _places(ahead: Callable[[int], Tensor], draft: Draft) -> Tensor:
    """Positions [B, P] of the drafted nodes, which depend on their depth."""
    places = ahead(draft.tokens.shape[1])
    return places if draft.chain else places.gather(1, draft.depth)


def _behind(ancestors: Tensor, entries: int) -> Tensor:
    """Ancestors [B, Q, Q] of nodes that follow a chain of `entries` entries."""
    seen = F.pad(F.pad(ancestors, (entries, 0), value=True), (0, 0, entries, 0), value=False)
    seen[:, :entries, :entries] = True
    return seen if entries == 1 else seen.tril_()


def slots_behind(batch: Batch, hidden: Tensor, size: int) -> Tensor:
    """Select the states [B, P + 1, C] of each row's last pending entry and its draft from those of the call, `hidden`
    [B, Q, C]."""
    if batch.prompt is None:
        return hidden
    if min(batch.entries) + size == hidden.shape[1]:
        return hidden[:, -size - 1 :]
    slots = batch.prompt.lengths[:, None] + torch.arange(-1, size, device=hidden.device)
    return hidden.gather(1, slots.clamp_(max=hidden.shape[1] - 1)[..., None].expand(-1, -1, hidden.shape[-1]))


def committed(entries: Sequence[int], paths: Sequence[Sequence[int]]) -> list[list[int]]:
    """The indices in the call of the entries that each row keeps: its pending ones, then its accepted path. Rows are
    padded with 0 to one length."""
    kept = [[*range(own), *(own + node for node in path)] for own, path in zip(entries, paths)]
    longest = max(map(len, kept))
    return [row + [0] * (longest - len(row)) for row in kept]


def trim(draft: Draft, limits: Sequence[int]) -> Draft:
    """A draft without the nodes that are deeper than their row's limit; a limit is the most tokens on a path."""
    size = draft.tokens.shape[1]
    if draft.chain and min(limits) >= size:
        return draft
    max_depth = torch.tensor(list(limits), device=draft.tokens.device)[:, None]
    return pruned(draft, draft.depth < max_depth)


def allowed(draft: Draft, rules: Sequence[TokenRules], begin: bool) -> Draft:
    """A draft without suppressed tokens and their descendants, for acceptance rules that may keep tokens of probability
    0. With `begin`, for the call that runs the prompts, the first tokens must not be among `begin_suppress` either."""
    tokens, bad = draft.tokens, torch.zeros_like(draft.tokens, dtype=torch.bool)
    for row, rule in enumerate(rules):
        if rule.suppress:
            bad[row] |= torch.isin(tokens[row], tokens.new_tensor(rule.suppress))
        if begin and rule.begin_suppress:
            bad[row] |= torch.isin(tokens[row], tokens.new_tensor(rule.begin_suppress)) & (draft.depth[row] == 0)
    if draft.chain:
        return replace(draft, tokens=tokens.masked_fill(bad.cumsum(1) > 0, -1))
    return pruned(draft, ~(draft.ancestors & bad[:, None]).any(-1))


def pruned(draft: Draft, keep: Tensor) -> Draft:
    """A draft with only the nodes marked in `keep`, bool [B, P], which must include all of their ancestors."""
    size = draft.tokens.shape[1]
    keep = keep & (draft.tokens >= 0)
    width = int(keep.sum(1).max()) if len(keep) else 0
    tokens = draft.tokens.masked_fill(~keep, -1)
    confidence, q = draft.confidence, draft.q
    if draft.chain:
        cut = [None if x is None else x[:, :width] for x in (confidence, q)]
        return Draft(tokens[:, :width], draft.parent[:, :width], cut[0], q=cut[1])
    order = (~keep).long().sort(dim=1, stable=True).indices[:, :width]
    steps = torch.arange(width, device=order.device).expand_as(order)
    new = order.new_zeros(len(order), size + 1).scatter_(1, order + 1, steps)
    parent = draft.parent.gather(1, order)
    parent = torch.where(parent < 0, -1, new.gather(1, parent + 1))
    rows = torch.arange(len(order), device=order.device)[:, None]
    return Draft(
        tokens[rows, order], parent, None if confidence is None else confidence[rows, order], False,
        None if q is None else q[rows, order], draft.ancestors[rows[..., None], order[:, :, None], order[:, None]],
    )  # fmt: skip


def merge_drafts(drafts: Sequence[Draft], parts: Sequence[Sequence[int]]) -> Draft:
    """Merge the drafts of several strategies; rows `parts[i]` of the result are those of `drafts[i]`. It is for the
    trunk call only and has no confidence and no `q`, since each strategy judges its own draft."""
    rows, size = sum(map(len, parts)), max(draft.tokens.shape[1] for draft in drafts)
    tokens = drafts[0].tokens.new_full((rows, size), -1)
    for draft, part in zip(drafts, parts):
        tokens[list(part), : draft.tokens.shape[1]] = draft.tokens
    if all(draft.chain for draft in drafts):
        return Draft(tokens, torch.arange(-1, size - 1, device=tokens.device).expand_as(tokens))
    parent = torch.full_like(tokens, -1)
    seen = torch.eye(size, dtype=torch.bool, device=tokens.device).repeat(rows, 1, 1)
    for draft, part in zip(drafts, parts):
        own, at = draft.tokens.shape[1], torch.tensor(list(part), device=tokens.device)
        parent[at, :own] = draft.parent
        seen[at[:, None], torch.arange(own, device=at.device), :own] = draft.ancestors
    return Draft(tokens, parent, chain=False, seen=seen)


def merge_accepted(verdicts: Sequence[Accepted], parts: Sequence[Sequence[int]], size: int) -> Accepted:
    """Merge the outcomes of several strategies in the order of the live rows; paths are padded with -1 to `size`."""
    rows = sum(map(len, parts))
    path = verdicts[0].path.new_full((rows, size), -1)
    count, token = (path.new_zeros(rows) for _ in range(2))
    for verdict, part in zip(verdicts, parts):
        at = list(part)
        path[at, : verdict.path.shape[1]] = verdict.path
        count[at], token[at] = verdict.count, verdict.next
    return Accepted(path, count, token)


def path_prefixes(live: Sequence[list[int]], draft: Draft) -> list[list[list[int]]]:
    """For every row, the tokens up to and including its base token (`live`), and those up to and including each
    node."""
    found = []
    for prefix, tokens, parents in zip(live, draft.tokens.tolist(), draft.parent.tolist()):
        row = [prefix]
        for token, above in zip(tokens, parents):
            # The prefix of an absent node is never read.
            row.append([*row[above + 1], token] if token >= 0 else prefix)
        found.append(row)
    return found
