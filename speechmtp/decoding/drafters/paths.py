"""Trees of candidate continuations, which a trunk scores level by level without committing anything to its cache."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from speechmtp.decoding.sampling import Prefixes, processed
from speechmtp.decoding.state import DecodeState, Row
from speechmtp.decoding.step import in_float32, ruled
from speechmtp.errors import ConfigError
from speechmtp.models.cache import RaggedCache
from speechmtp.models.hints import hinted, hints_after
from speechmtp.models.trunk import Trunk
from speechmtp.types import Draft, Prompt, TokenRules

MAX_NODES = 4096


@dataclass(frozen=True)
class Paths:
    """Candidate paths of each row, `ends` [B, n, d] int64: n paths of d tokens, which end in the last n nodes of the
    tree `draft`."""

    draft: Draft
    ends: Tensor

    @classmethod
    def none(cls, rows: int, device: torch.device) -> "Paths":
        """One path without tokens per row."""
        empty = torch.zeros(rows, 0, dtype=torch.long, device=device)
        seen = torch.zeros(rows, 0, 0, dtype=torch.bool, device=device)
        return cls(Draft(empty, empty, chain=False, seen=seen), empty[:, None])

    def grow(self, tokens: Tensor, above: Tensor) -> "Paths":
        """Add one level: `tokens` [B, m], each of which continues the path with index `above` [B, m]."""
        old, size, new = self.draft, self.draft.tokens.shape[1], tokens.shape[1]
        parent = size - self.ends.shape[1] + above
        itself = torch.eye(new, dtype=torch.bool, device=tokens.device).expand(len(tokens), -1, -1)
        rows = torch.arange(len(tokens), device=tokens.device)[:, None]
        behind = old.ancestors[rows, parent] if size else itself[..., :0]
        seen = torch.cat([torch.nn.functional.pad(old.ancestors, (0, new)), torch.cat([behind, itself], 2)], 1)
        draft = Draft(torch.cat([old.tokens, tokens], 1), torch.cat([old.parent, parent], 1), chain=False, seen=seen)
        return Paths(draft, torch.cat([self.ends[rows, above], tokens[..., None]], 2))


def check_size(who: str, depth: int, top: int | None, size: int) -> None:
    """Raise ConfigError if the paths of `depth` tokens, with the `top` most probable of `size` tokens (None: all) after
    each node, make a tree of more than `MAX_NODES` nodes. The last tokens of the paths are not nodes. `who` starts the
    message."""
    for nodes in tree_sizes(depth, top, size):
        if nodes > MAX_NODES:
            raise ConfigError(
                f"{who}: depth={depth} and top={top or f'{size} (all tokens)'} make more than {MAX_NODES} nodes; "
                f"lower depth or top"
            )


def tree_sizes(depth: int, top: int | None, size: int) -> Iterator[int]:
    """The number of nodes of the tree of paths of 0, 1, .. `depth` - 1 tokens, with the `top` most probable of `size`
    tokens (None: all) after each node."""
    width = min(top or size, size)
    return accumulate((width**level for level in range(1, depth)), initial=0)


def children(nodes: int, each: int, like: Tensor) -> Tensor:
    """Parent indices [B, nodes * each] of the next level, if each node has `each` children."""
    return (torch.arange(nodes * each, device=like.device) // each).expand(len(like), -1)


@torch.no_grad()
def logits_behind(
    trunk: Trunk, cache: RaggedCache, pending: Prompt, paths: Paths, ahead: Callable[[int], Tensor] | None = None,
    rules: Sequence[TokenRules] = (),
) -> Tensor:  # fmt: skip
    """Logits [B, n, V] after the n paths, in float32 at least; the paths follow the committed and the `pending` entries
    of each row. `ahead` gives the positions [B, n] of the entries to come (None: those of the prompt's
    `output_positions`). The tokens that `rules` suppress get the lowest finite number."""
    draft, lengths, device = paths.draft, pending.lengths, pending.embeddings.device
    size, last = draft.tokens.shape[1], paths.ends.shape[1]
    slots = lengths[:, None] + torch.arange(size, device=device)
    inputs, positions, ancestors = pending.entries, pending.positions, None
    if size:
        inputs = torch.nn.functional.pad(inputs, (0, 0, 0, size))
        hints = hints_after(pending, paths.ends.shape[2])
        nodes = hinted(trunk.embed(draft.tokens), hints, draft.depth).to(inputs.dtype)
        inputs = inputs.scatter(1, slots[..., None].expand(-1, -1, trunk.width), nodes)
        positions = torch.nn.functional.pad(positions, (0, size))
        if ahead is None:
            steps = torch.tensor([pending.output_positions.offset(i) for i in range(size)], device=device)
            places = pending.next_position[:, None] + steps
        else:
            places = ahead(size)
        positions = positions.scatter(1, slots, places.gather(1, draft.depth))
        queries = inputs.shape[1]
        place = torch.arange(queries, device=device) - lengths[:, None]
        seen = draft.ancestors.gather(2, place.clamp(0, size - 1)[:, None].expand(-1, size, -1))
        seen = (place < 0)[:, None] | (seen & ((place >= 0) & (place < size))[:, None])
        chain = torch.ones(queries, queries, dtype=torch.bool, device=device).tril_().repeat(len(lengths), 1, 1)
        ancestors = chain.scatter_(1, slots[..., None].expand(-1, -1, queries), seen)
    states = trunk.extend(inputs, positions, ancestors, cache)
    ends = lengths[:, None] + torch.arange(size - last, size, device=device)
    logits = in_float32(trunk.unembed(states.hidden.gather(1, ends[..., None].expand(-1, -1, trunk.width))))
    return ruled(logits, rules, False)


def prefixes_behind(rows: Sequence[Row], ends: Tensor) -> Prefixes:
    """A function that returns the tokens before the next one for each of the paths `ends` [B, n, d] of some rows."""
    return lambda: [[row.prefix + path for path in paths] for row, paths in zip(rows, ends.tolist())]


def log_probs_of(state: DecodeState, rows: Sequence[Row], logits: Tensor, ends: Tensor) -> Tensor:
    """Processed log probabilities [B, n, V] after each path. After an end token only the end token has a probability,
    1, so that ended paths can be compared with those that continue."""
    if state.processes or any(row.request.processors for row in rows):
        logits = processed(rows, state.processors, logits, ends.shape[2], prefixes_behind(rows, ends))
    log_probs = logits.log_softmax(-1)
    if not ends.shape[2]:
        return log_probs
    ended = ends_text(ends[..., -1], state.ends)[..., None]
    certain = torch.full_like(log_probs[:1, :1], -torch.inf)
    certain[..., state.eos] = 0.0
    return torch.where(ended, certain, log_probs)


def ends_text(tokens: Tensor, ends: Sequence[int]) -> Tensor:
    """Whether each of the tokens [..] is an end token, bool [..]."""
    if len(ends) == 1:
        return tokens == ends[0]
    return torch.isin(tokens, torch.tensor(ends, dtype=tokens.dtype, device=tokens.device))


def up_to_end(tokens: Tensor, end_tokens: Sequence[int]) -> Tensor:
    """Tokens [B, P] with -1 in place of those after the first end token."""
    ends = ends_text(tokens, end_tokens).long()
    return tokens.masked_fill(ends.cumsum(1) > ends, -1)
