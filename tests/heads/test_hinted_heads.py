"""Heads under hints: what is drafted is what was trained, at the end of the hints too."""

import families
import pytest
import tiny
import torch
from torch import Tensor

from speechmtp.heads.contract import HeadSet, TrainBatch
from speechmtp.models.hints import hints_by_entry
from speechmtp.models.trunk import Trunk

PROMPTS, KNOWN, SIZE = [4, 1, 2], [30, 6, 9], 24
READERS = [name for name in families.NAMES if families.kind_of(name) in ("chain", "block", "hydra")]


class Hinted:
    """Rows that decode known tokens under hints, of which each row has another number."""

    def __init__(self, trunk: Trunk, heads: HeadSet, known: list[int] | None = None) -> None:
        rng = tiny.generator(9)
        self.trunk, self.heads = trunk, heads
        prompt = tiny.prompts(trunk, PROMPTS)
        self.lengths, rows = prompt.lengths, len(PROMPTS)
        self.tokens = torch.randint(0, tiny.VOCAB, (rows, SIZE), generator=rng)
        self.hints = torch.randn(rows, 30, tiny.WIDTH, generator=rng, dtype=torch.float64)
        for row, count in enumerate(known or KNOWN):
            self.hints[row, count:] = 0
        size = int(self.lengths.max()) + SIZE
        # The whole rows, written entry by entry: prompt, then tokens, each with the hint that predicts the next.
        self.inputs = torch.zeros(rows, size, tiny.WIDTH, dtype=torch.float64)
        self.added, self.positions = torch.zeros_like(self.inputs), torch.zeros(rows, size, dtype=torch.long)
        for row, length in enumerate(PROMPTS):
            end = length + SIZE
            self.inputs[row, :length] = prompt.embeddings[row, :length]
            self.inputs[row, length:end] = trunk.embed(self.tokens[row])
            self.added[row, length - 1 : end] = self.hints[row, : SIZE + 1]
            self.positions[row, :length] = prompt.positions[row, :length]
            self.positions[row, length:end] = prompt.next_position[row] + torch.arange(SIZE)
        self.done = torch.zeros(rows, dtype=torch.long)  # committed tokens
        self.cache, self.state = trunk.new_cache(rows), heads.start(rows, trunk)
        self.state.hints = self.ahead
        self.call(torch.zeros(rows, dtype=torch.long), int(self.lengths.max()), self.lengths)

    def ahead(self, count: int) -> Tensor:
        """The hints of the base token and of what follows it."""
        padded = torch.nn.functional.pad(self.hints, (0, 0, 0, 20))
        return torch.stack([row[n + 1 : n + 1 + count] for row, n in zip(padded, self.done.tolist())])

    def call(self, first: Tensor, count: int, kept: Tensor) -> None:
        """One trunk call over `count` entries from `first` on, of which `kept` are committed."""
        index = first[:, None] + torch.arange(count)
        rows = torch.arange(len(index))[:, None]
        inputs, positions = (self.inputs + self.added)[rows, index], self.positions[rows, index]
        states = self.trunk.extend(inputs, positions, None, self.cache, self.heads.taps)
        self.cache.commit(kept)
        keep = torch.arange(count).repeat(len(index), 1)
        self.heads.advance(self.state, states, inputs, positions, keep, kept)

    def accept(self, kept: list[int]) -> None:
        """Commit so many tokens of each row."""
        count = torch.tensor(kept)
        self.call(self.lengths + self.done, max(kept) + 1, count)
        self.done = self.done + count

    def drafted(self) -> Tensor:
        """Features [B, D, F] behind each row's true tokens."""
        levels, none = [], torch.zeros(len(self.tokens), 1, dtype=torch.long)
        for d in range(1, self.heads.depth + 1):
            levels.append(self.heads.expand(self.state, d, self.tokens.gather(1, self.done[:, None] + d - 1), none))
        return torch.cat(levels, 1)

    def taught(self, row: int) -> Tensor:
        """Features [D, F] of one row from a pass without a cache."""
        end = PROMPTS[row] + int(self.done[row]) + self.heads.depth
        inputs, hints = (self.inputs + self.added)[row, None, :end], self.added[row, None, :end]
        positions = self.positions[row, None, :end]
        ids = torch.cat([torch.full((PROMPTS[row],), -1), self.tokens[row]])[None, :end]
        segments = torch.zeros_like(ids)
        states = self.trunk(inputs, positions, segments, self.heads.taps)
        batch = TrainBatch(
            states, inputs, ids, positions, segments, self.trunk.embed, self.heads.narrow(self.trunk),
            anchors=torch.tensor([[PROMPTS[row] + int(self.done[row]) - 1]]), hints=hints,
        )  # fmt: skip
        return torch.stack(list(self.heads.train_depths(batch)), 2)[0, 0]


@torch.no_grad()
@pytest.mark.parametrize("name", families.NAMES)
def test_drafted_features_are_the_teacher_forced_ones(name: str) -> None:
    rows = Hinted(families.trunk_of(name), families.heads_of(name))
    for kept in ([1, 2, 1], [3, 1, 2], [2, 1, 1], [1, 4, 3]):
        drafted = rows.drafted()
        for row in range(len(PROMPTS)):
            torch.testing.assert_close(drafted[row], rows.taught(row), rtol=0, atol=1e-9)
        rows.accept(kept)
    assert int(rows.done[1]) > KNOWN[1], "a row has gone past its hints"


@torch.no_grad()
@pytest.mark.parametrize("name", READERS)
def test_a_draft_reads_the_hint_of_each_of_its_tokens(name: str) -> None:
    """Level d of a family that embeds tokens depends on the hint of x_{t+d}, the last before the token drafted; level
    d of a block on that of its own mask."""
    trunk, heads = families.trunk_of(name), families.heads_of(name)
    for d in range(1, heads.depth + 1):
        plain, other = Hinted(trunk, heads), Hinted(trunk, heads)
        other.hints[:, d] += 1.0  # of the entry of output token d - 1 while none is committed
        changed = (plain.drafted() != other.drafted()).any(-1)
        assert changed[:, d - 1].all()
        if families.kind_of(name) != "block":
            assert not changed[:, : d - 1].any()


def test_hints_are_laid_beside_their_entries() -> None:
    hints = torch.arange(1.0, 9).view(2, 4, 1)
    found = hints_by_entry(hints, torch.tensor([2, 1]), 5)[..., 0]
    assert found.tolist() == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 0]]
