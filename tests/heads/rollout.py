"""Rows that decode given tokens beside any head set, so that what was drafted can be held against teacher forcing;
and the cases of the families residual, layer, vocalnet and hydra."""

import tiny
import torch
from torch import Tensor

from speechmtp.ancestors import ancestors_of
from speechmtp.heads.contract import HeadSet, TrainBatch
from speechmtp.heads.hydra import HydraHeadsConfig
from speechmtp.heads.layer import LayerHeadsConfig
from speechmtp.heads.residual import ResidualHeadsConfig
from speechmtp.heads.table import HeadsConfig, build_heads
from speechmtp.heads.vocalnet import VocalnetHeadsConfig
from speechmtp.models.shape import TrunkShape
from speechmtp.models.trunk import Trunk

DEPTH = 3
MEMORY = 6
CASES: dict[str, HeadsConfig] = {
    "residual": ResidualHeadsConfig(depth=DEPTH, blocks=2),
    "residual-own": ResidualHeadsConfig(depth=DEPTH, unembedding="own", taps=(0, 1)),
    "layer": LayerHeadsConfig(depth=DEPTH),
    "layer-taps": LayerHeadsConfig(depth=DEPTH, taps=(1,), shortlist=5),
    "vocalnet": VocalnetHeadsConfig(depth=DEPTH),
    "vocalnet-shared": VocalnetHeadsConfig(depth=DEPTH, unembedding="shared", taps=(1,), mix="weighted"),
    "vocalnet-short": VocalnetHeadsConfig(depth=DEPTH, shortlist=5),
    "hydra": HydraHeadsConfig(depth=DEPTH, blocks=2),
    "hydra-own": HydraHeadsConfig(depth=DEPTH, unembedding="own", shortlist=5),
}
LAYERED = ("layer", "layer-taps", "vocalnet", "vocalnet-shared")


def heads_of(trunk: Trunk, config: HeadsConfig, seed: int = 1, shape: TrunkShape | None = None) -> HeadSet:
    """A head set with random weights in float64."""
    built = build_heads(config, shape or trunk.shape)
    tiny.randomise(built, seed)
    return built


def batch_of(
    trunk: Trunk, heads: HeadSet, embeddings: Tensor, positions: Tensor, memory: Tensor | None = None,
    memory_lengths: Tensor | None = None,
) -> TrainBatch:  # fmt: skip
    """A teacher-forced batch of rows without padding."""
    segments = torch.zeros_like(positions)
    states = trunk(embeddings, positions, segments, heads.taps)
    return TrainBatch(
        states=states, inputs=embeddings, ids=torch.full_like(positions, -1), positions=positions,
        segments=segments, embed=trunk.embed, unembed=heads.narrow(trunk), memory=memory,
        memory_lengths=memory_lengths,
    )  # fmt: skip


def features_of(heads: HeadSet, batch: TrainBatch) -> Tensor:
    """Features [B, A, D, C] of all depths."""
    return torch.stack(list(heads.train_depths(batch)), 2)


class Rollout:
    """Rows that decode given token lists; every call carries a sibling of each drafted token that is rejected."""

    def __init__(self, trunk: Trunk, heads: HeadSet, lengths: list[int], memory: bool = False) -> None:
        rng = tiny.generator(5)
        rows = len(lengths)
        self.trunk, self.heads = trunk, heads
        self.prompt = tiny.prompts(trunk, lengths)
        self.tokens = torch.randint(0, tiny.VOCAB, (rows, 40), generator=rng)
        self.done = torch.zeros(rows, dtype=torch.long)
        self.rows = torch.arange(rows)
        self.cache = trunk.new_cache(rows)
        self.memory = torch.randn(rows, 5, MEMORY, generator=rng, dtype=torch.float64) if memory else None
        self.memory_lengths = torch.tensor([5, 3, 1, 4])[:rows] if memory else None
        self.state = heads.start(rows, trunk, None, self.memory, self.memory_lengths)
        embeddings, positions = self.prompt.embeddings, self.prompt.positions
        keep = torch.arange(positions.shape[1]).repeat(rows, 1)
        self._call(embeddings, positions, None, keep, self.prompt.lengths)

    def _call(
        self, inputs: Tensor, positions: Tensor, ancestors: Tensor | None, keep: Tensor, count: Tensor
    ) -> None:  # fmt: skip
        states = self.trunk.extend(inputs, positions, ancestors, self.cache, self.heads.taps)
        self.cache.commit(count, keep)
        self.heads.advance(self.state, states, inputs, positions, keep, count)

    def accept(self, count: Tensor) -> None:
        """Commit `count` [B] further tokens a row, from one call over a tree."""
        rows, depth = len(self.rows), self.heads.depth
        parent = torch.tensor([-1, *(p for i in range(depth) for p in (2 * i, 2 * i))]).repeat(rows, 1)
        steps = torch.tensor([0, *(i + 1 for i in range(depth) for _ in "ab")])
        tokens = self.tokens[self.rows].gather(1, self.done[:, None] + steps)
        tokens[:, 1::2] = (tokens[:, 1::2] + 1) % tiny.VOCAB  # the siblings, which come first
        positions = 1 + self.done[:, None] + steps
        keep = (2 * torch.arange(depth + 1)).repeat(rows, 1)
        self._call(self.trunk.embed(tokens), positions, ancestors_of(parent), keep, count)
        self.done = self.done + count

    def select(self, kept: list[int]) -> None:
        """Keep these rows."""
        index = torch.tensor(kept)
        self.rows, self.done = self.rows[index], self.done[index]
        self.cache.select(index)
        self.state.select(index)

    def draft(self, depth: int | None = None) -> Tensor:
        """Features [B, depth, C] behind each row's true tokens."""
        found = []
        for d in range(1, (depth or self.heads.depth) + 1):
            tokens = self.tokens[self.rows].gather(1, self.done[:, None] + d - 1)
            found.append(self.heads.expand(self.state, d, tokens, torch.zeros_like(tokens)))
        return torch.cat(found, 1)

    def expected(self, place: int) -> Tensor:
        """Teacher-forced features [D, C] of a live row, computed alone and without a cache."""
        row, done = int(self.rows[place]), int(self.done[place])
        size = int(self.prompt.lengths[row])
        behind = torch.arange(done + self.heads.depth)
        embeddings = torch.cat([self.prompt.embeddings[row, :size], self.trunk.embed(self.tokens[row, behind])])
        positions = torch.cat([self.prompt.positions[row, :size], 1 + behind])
        memory = None if self.memory is None else self.memory[row : row + 1]
        lengths = None if self.memory_lengths is None else self.memory_lengths[row : row + 1]
        batch = batch_of(self.trunk, self.heads, embeddings[None], positions[None], memory, lengths)
        return features_of(self.heads, batch)[0, size + done - 1]

    def check(self, depth: int | None = None) -> None:
        """Drafted features are the teacher-forced ones."""
        drafted = self.draft(depth)
        for place in range(len(self.rows)):
            torch.testing.assert_close(drafted[place], self.expected(place)[:depth], rtol=0, atol=1e-9)
