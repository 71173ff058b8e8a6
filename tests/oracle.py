"""References without any cache, batch, draft or loop of the package: one row, one full forward a token."""

from dataclasses import dataclass

import torch
from torch import Tensor

from speechmtp.heads.contract import IndependentHeads
from speechmtp.models.trunk import Trunk
from speechmtp.types import Prompt


@dataclass(frozen=True)
class Plain:
    """Plain greedy decoding of one row: `tokens`, the gap of each choice, and for every emitted token the trunk
    state [C] that it was chosen from."""

    tokens: list[int]
    gaps: list[float]
    hidden: Tensor


def full_states(trunk: Trunk, prompt: Prompt, tokens: list[int]) -> Tensor:
    """Trunk states [P + n, C] of one row's prompt and n tokens behind it, by a single forward."""
    size = int(prompt.lengths[0])
    ids = torch.tensor(tokens, dtype=torch.long)
    embeddings = torch.cat([prompt.embeddings[:, :size], trunk.embed(ids)[None]], 1)
    text = prompt.next_position[0] + torch.tensor(
        [prompt.output_positions.offset(i) for i in range(len(tokens))], dtype=torch.long
    )
    positions = torch.cat([prompt.positions[:, :size], text[None]], 1)
    segments = torch.zeros(1, embeddings.shape[1], dtype=torch.long)
    return trunk(embeddings, positions, segments).hidden[0]


@torch.no_grad()
def plain_greedy(trunk: Trunk, prompt: Prompt, eos: int, limit: int) -> Plain:
    """Decode one unpadded row until `eos` (kept) or `limit` tokens."""
    tokens: list[int] = []
    gaps: list[float] = []
    states: list[Tensor] = []
    while len(tokens) < limit and tokens[-1:] != [eos]:
        states.append(full_states(trunk, prompt, tokens)[-1])
        best = trunk.unembed(states[-1]).topk(2)
        tokens.append(int(best.indices[0]))
        gaps.append(float(best.values[0] - best.values[1]))
    return Plain(tokens, gaps, torch.stack(states) if states else torch.zeros(0))


def head_logits(heads: IndependentHeads, trunk: Trunk, hidden: Tensor) -> Tensor:
    """Logits [..., D, V] of heads that read trunk states [..., C] alone, a depth at a time."""
    depths = range(1, heads.depth + 1)
    logits = [heads.logits(heads.depth_features(hidden, d), d, trunk.unembedding()) for d in depths]
    return torch.stack(logits, -2)


def matched(draft: list[int], truth: list[int]) -> int:
    """Length of the common prefix."""
    count = 0
    while count < min(len(draft), len(truth)) and draft[count] == truth[count]:
        count += 1
    return count


def edit_distance(first: list[int], second: list[int]) -> int:
    """Levenshtein distance by the whole table."""
    row = list(range(len(second) + 1))
    for i, a in enumerate(first, 1):
        above, row = row, [i]
        for j, b in enumerate(second, 1):
            row.append(min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (a != b)))
    return row[-1]
