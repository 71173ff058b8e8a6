"""Small block drafters, batches for their training, and rows that decode with them; seeded."""

from dataclasses import replace
from typing import Any

import tiny
import torch
from torch import Tensor

from speechmtp.heads.block import BlockHeads, BlockHeadsConfig
from speechmtp.heads.contract import TrainBatch
from speechmtp.heads.table import build_heads
from speechmtp.models.trunk import Trunk
from speechmtp.types import States

DEPTH = 4
LENGTHS = [5, 2, 1]  # prompt entries
AUDIO = 6  # width of an audio memory
INSIDE = ("bidirectional", "causal")
CORRECTION = ("none", "gru")


def block(trunk: Trunk, seed: int = 1, audio: bool = False, **settings: Any) -> BlockHeads:
    """Random heads of DEPTH, float64, eval."""
    shape = replace(trunk.shape, memory_width=AUDIO if audio else None)
    with torch.random.fork_rng():
        built = build_heads(BlockHeadsConfig(**({"depth": DEPTH} | settings)), shape)
    tiny.randomise(built, seed)
    with torch.no_grad():
        built.mask.copy_(torch.randn(tiny.WIDTH, generator=tiny.generator(seed)))
    assert isinstance(built, BlockHeads)
    return built


def random_batch(
    trunk: Trunk, segments: Tensor, taps: tuple[int, ...] = (2,), anchors: Tensor | None = None, seed: int = 5
) -> TrainBatch:
    """Random states and inputs that gradients can be taken to."""
    rng = tiny.generator(seed)
    rows, size = segments.shape
    states, inputs = (
        torch.randn(*shape, tiny.WIDTH, generator=rng, dtype=torch.float64).requires_grad_()
        for shape in ((rows, size, len(taps)), (rows, size))
    )
    positions = torch.arange(size).repeat(rows, 1)
    ids = torch.randint(0, tiny.VOCAB, (rows, size), generator=rng)
    hidden = torch.randn(rows, size, tiny.WIDTH, generator=rng, dtype=torch.float64)
    return TrainBatch(
        States(hidden, states), inputs, ids, positions, segments, trunk.embed, trunk.unembedding(), anchors=anchors
    )  # fmt: skip


def trained(heads: BlockHeads, batch: TrainBatch) -> Tensor:
    """Features [B, A, D, C]."""
    return torch.stack(list(heads.train_depths(batch)), 2)


class Decoding:
    """Rows decoding known token lists, and what teacher forcing says of them."""

    def __init__(self, trunk: Trunk, heads: BlockHeads, depth: int = DEPTH, audio: bool = False) -> None:
        rng = tiny.generator(3)
        self.trunk, self.heads, self.depth = trunk, heads, depth
        self.prompt = tiny.prompts(trunk, LENGTHS)
        self.lengths = list(LENGTHS)
        self.tokens = [torch.randint(0, tiny.VOCAB, (60,), generator=rng) for _ in LENGTHS]
        self.done = [-1 for _ in LENGTHS]  # committed tokens; -1: not even the prompt
        self.memory = torch.randn(3, 4, AUDIO, generator=rng, dtype=torch.float64) if audio else None
        self.memory_lengths = torch.tensor([4, 1, 3]) if audio else None
        self.rows = [0, 1, 2]  # of the prompt
        self.state = heads.start(3, trunk, depth, self.memory, self.memory_lengths)
        self.cache = trunk.new_cache(3)

    def commit(self, accepted: list[int]) -> None:
        """One trunk call, of which the base token and `accepted` drafts of each row are kept; the prompt first."""
        if self.done[0] < 0:
            inputs, positions, count = self.prompt.embeddings, self.prompt.positions, self.prompt.lengths
            self.done = [0 for _ in self.done]
        else:
            size = DEPTH + 1
            inputs = self.trunk.embed(torch.stack([t[n : n + size] for t, n in zip(self.tokens, self.done)]))
            positions = torch.tensor(self.done)[:, None] + 1 + torch.arange(size)
            count = torch.tensor(accepted) + 1
            self.done = [n + a + 1 for n, a in zip(self.done, accepted)]
        states = self.trunk.extend(inputs, positions, None, self.cache, self.heads.taps)
        self.cache.commit(count)
        keep = torch.arange(inputs.shape[1]).repeat(len(inputs), 1)
        self.heads.advance(self.state, states, inputs, positions, keep, count)

    def select(self, rows: list[int]) -> None:
        """Keep these rows everywhere."""
        index = torch.tensor(rows)
        self.cache.select(index)
        self.state.select(index)
        for name in ("tokens", "done", "rows", "lengths"):
            setattr(self, name, [getattr(self, name)[row] for row in rows])

    def draft(self, given: Tensor | None = None) -> Tensor:
        """Features [B, depth, C], each row's true tokens being handed in."""
        levels = []
        for d in range(1, self.depth + 1):
            tokens = torch.stack([t[n + d - 1 : n + d] for t, n in zip(self.tokens, self.done)])
            parent = torch.zeros_like(tokens)
            levels.append(self.heads.expand(self.state, d, tokens, parent, given if d == 1 else None))
        return torch.cat(levels, 1)

    def taught(self) -> Tensor:
        """The same from one uncached pass over each row."""
        return torch.cat([self._taught(place) for place in range(len(self.rows))])

    def _taught(self, place: int) -> Tensor:
        row, length = self.rows[place], self.lengths[place]
        tokens = self.tokens[place][: self.done[place] + DEPTH]
        inputs = torch.cat([self.prompt.embeddings[row, :length], self.trunk.embed(tokens)])[None]
        positions = torch.cat([self.prompt.positions[row, :length], 1 + torch.arange(len(tokens))])[None]
        ids = torch.cat([torch.full((length,), -1), tokens])[None]
        states = self.trunk(inputs, positions, torch.ones_like(ids, dtype=torch.bool), self.heads.taps)
        memory = None if self.memory is None else self.memory[row : row + 1]
        sizes = None if self.memory_lengths is None else self.memory_lengths[row : row + 1]
        batch = TrainBatch(
            states, inputs, ids, positions, torch.zeros_like(ids), self.trunk.embed, self.trunk.unembedding(), memory,
            sizes, torch.tensor([[length + self.done[place] - 1]]),
        )  # fmt: skip
        return trained(self.heads, batch)[:, 0, : self.depth]
