"""Every family of heads in its variants, teacher-forced features of them, and rows that decode beside them."""

from collections.abc import Sequence
from functools import lru_cache

import tiny
import torch
from torch import Tensor
from torch.nn.functional import pad

from speechmtp.heads.block import BlockHeadsConfig
from speechmtp.heads.chain import ChainHeadsConfig
from speechmtp.heads.contract import HeadSet, TrainBatch
from speechmtp.heads.hydra import HydraHeadsConfig
from speechmtp.heads.joint import JointHeadsConfig
from speechmtp.heads.latent import LatentHeadsConfig
from speechmtp.heads.layer import LayerHeadsConfig
from speechmtp.heads.linear import LinearHeadsConfig
from speechmtp.heads.residual import ResidualHeadsConfig
from speechmtp.heads.table import HeadsConfig
from speechmtp.heads.vocalnet import VocalnetHeadsConfig
from speechmtp.models.trunk import Trunk

D = 3
CONFIGS: dict[str, HeadsConfig] = {
    "latent": LatentHeadsConfig(D),
    "latent-taps": LatentHeadsConfig(D, taps=(0, 1), shortlist=7),
    "latent-weighted": LatentHeadsConfig(D, taps=(1, 0), mix="weighted"),
    "linear": LinearHeadsConfig(D),
    "linear-taps": LinearHeadsConfig(D, taps=(1,), shortlist=7),
    "residual": ResidualHeadsConfig(D, blocks=2),
    "residual-own": ResidualHeadsConfig(D, taps=(0, 2), unembedding="own"),
    "layer": LayerHeadsConfig(D),
    "layer-taps": LayerHeadsConfig(D, taps=(1,), mix="weighted", shortlist=7),
    "chain-own-roll": ChainHeadsConfig(D, layers="own"),
    "chain-own-roll-taps": ChainHeadsConfig(D, taps=(0, 1), layers="own", order="hidden_first"),
    "chain-shared-roll": ChainHeadsConfig(D),
    "chain-shared-roll-weighted": ChainHeadsConfig(D, taps=(1,), mix="weighted", order="hidden_first"),
    "chain-shared-ttt": ChainHeadsConfig(D, attention="ttt"),
    "chain-shared-ttt-taps": ChainHeadsConfig(D, taps=(0, 1), shortlist=7, attention="ttt", order="hidden_first"),
    "hydra": HydraHeadsConfig(D, blocks=2),
    "hydra-own": HydraHeadsConfig(D, taps=(1,), unembedding="own", shortlist=7),
    "vocalnet": VocalnetHeadsConfig(D),
    "vocalnet-shared": VocalnetHeadsConfig(D, taps=(0, 1), unembedding="shared", mix="weighted"),
    "joint": JointHeadsConfig(D),
    "joint-taps": JointHeadsConfig(D, taps=(1,), rank=2, shortlist=7),
    "block": BlockHeadsConfig(D),
    "block-taps": BlockHeadsConfig(D, taps=(0, 1), layers=2, inside="causal"),
    "block-gru": BlockHeadsConfig(D, taps=(1,), mix="weighted", correction="gru", shortlist=7),
}
NAMES = tuple(CONFIGS)


def kind_of(name: str) -> str:
    """The family of a variant."""
    return CONFIGS[name].kind


def tokens_read(name: str, d: int) -> set[int]:
    """Offsets from t of the tokens behind the anchor that depth d must read; it must read no others."""
    kind = kind_of(name)
    if kind in ("chain", "hydra") or name == "block-gru":
        return set(range(1, d + 1))
    if kind == "block":
        return {1}  # the anchor alone
    if kind == "joint":
        return set(range(2, d + 1))  # depth 0 is not in the mixture
    return set()


@lru_cache
def trunk_of(name: str) -> Trunk:
    """One of two trunks."""
    return tiny.trunk(NAMES.index(name), tiny.TRUNKS[NAMES.index(name) % 2])


def heads_of(name: str, seed: int = 1) -> HeadSet:
    """The variant with random weights."""
    built: HeadSet = tiny.random_heads(CONFIGS[name], seed, trunk_of(name).shape)
    return built


def batch_of(
    trunk: Trunk, heads: HeadSet, inputs: Tensor, ids: Tensor, positions: Tensor, segments: Tensor | None = None,
    anchors: Tensor | None = None,
) -> TrainBatch:  # fmt: skip
    """A teacher-forced batch; without `segments` all rows are full."""
    segments = torch.zeros_like(ids) if segments is None else segments
    states = trunk(inputs, positions, segments, heads.taps)
    return TrainBatch(
        states, inputs, ids, positions, segments, trunk.embed, heads.narrow(trunk), anchors=anchors
    )  # fmt: skip


def features_of(heads: HeadSet, batch: TrainBatch) -> Tensor:
    """Teacher-forced features [B, A, D, F] of all depths."""
    return torch.stack(list(heads.train_depths(batch)), 2)


def copies(count: int) -> Tensor:
    """Indices 0, 1, ... [count]."""
    return torch.arange(count)


class Rows:
    """Rows of known tokens that are decoded piece by piece, and what teacher forcing says of any draft in them.

    `done` [B] tokens are committed; the base token is the one behind them. Drafts may go off the known tokens.
    """

    def __init__(self, trunk: Trunk, heads: HeadSet, prompts: list[int], depth: int | None = None) -> None:
        rng = tiny.generator(5)
        rows = len(prompts)
        self.trunk, self.heads = trunk, heads
        self.depth = heads.depth if depth is None else depth
        self.prompt = tiny.prompts(trunk, prompts)
        self.tokens = torch.randint(0, tiny.VOCAB, (rows, 60), generator=rng)
        self.rows, self.done = copies(rows), torch.zeros(rows, dtype=torch.long)
        self.cache, self.state = trunk.new_cache(rows), heads.start(rows, trunk, depth)
        self._call(self.prompt.embeddings, self.prompt.positions, self.prompt.lengths)

    def _call(self, inputs: Tensor, positions: Tensor, count: Tensor) -> None:
        states = self.trunk.extend(inputs, positions, None, self.cache, self.heads.taps)
        self.cache.commit(count)
        keep = copies(inputs.shape[1]).repeat(len(inputs), 1)
        self.heads.advance(self.state, states, inputs, positions, keep, count)

    def path(self, right: Sequence[int], size: int) -> Tensor:
        """The base token and `size` drafted ones [B, 1 + size], of which the first `right[b]` are row b's own."""
        own = self.tokens[self.rows].gather(1, self.done[:, None] + copies(1 + size))
        wrong = copies(1 + size) > torch.tensor(right)[:, None]
        return torch.where(wrong, (own + 1 + copies(1 + size)) % tiny.VOCAB, own)

    def accept(self, path: Tensor, right: Sequence[int]) -> None:
        """One trunk call over a path: the base token and `right[b]` drafted ones stay."""
        positions = self.done[:, None] + 1 + copies(path.shape[1])
        count = 1 + torch.tensor(right)
        self._call(self.trunk.embed(path), positions, count)
        self.done = self.done + count

    def select(self, kept: list[int]) -> None:
        """Keep these rows, in this order."""
        index = torch.tensor(kept)
        self.rows, self.done = self.rows[index], self.done[index]
        self.cache.select(index)
        self.state.select(index)

    def draft(self, path: Tensor, depth: int) -> Tensor:
        """Features [B, depth, F] of levels 1 to `depth` under a path."""
        none = torch.zeros(len(path), 1, dtype=torch.long)
        levels = [self.heads.expand(self.state, d, path[:, d - 1 : d], none) for d in range(1, depth + 1)]
        return torch.cat(levels, 1)

    def expected(self, paths: Tensor) -> Tensor:
        """Features [B, N, D, F] under paths [B, N, 1 + size] of each row, from one forward without a cache."""
        count = paths.shape[1]
        paths = pad(paths, (0, max(0, self.heads.depth + 1 - paths.shape[2])))
        parts: list[tuple[Tensor, ...]] = []
        for place, (row, done) in enumerate(zip(self.rows.tolist(), self.done.tolist())):
            size = int(self.prompt.lengths[row])
            text = torch.cat([self.tokens[row, :done].repeat(count, 1), paths[place]], 1)
            heard = self.prompt.embeddings[row, :size].repeat(count, 1, 1)
            inputs = torch.cat([heard, self.trunk.embed(text)], 1)
            ids = torch.cat([torch.full((count, size), -1), text], 1)
            positions = torch.cat([self.prompt.positions[row, :size], 1 + copies(text.shape[1])]).repeat(count, 1)
            parts.append((inputs, ids, positions, torch.zeros_like(ids)))
        longest = max(part[1].shape[1] for part in parts)
        padded = [torch.cat([pad_entries(value, longest - value.shape[1], filling) for value in column])
                  for column, filling in zip(zip(*parts), (3.0, 3, 3, -1))]  # fmt: skip
        features = features_of(self.heads, batch_of(self.trunk, self.heads, *padded))
        last = (self.prompt.lengths[self.rows] + self.done - 1).repeat_interleave(count)
        return features[copies(len(last)), last].unflatten(0, (len(self.rows), count))

    def check(self, path: Tensor, depth: int) -> None:
        """What is drafted under a path is what teacher forcing says."""
        wanted = self.expected(path[:, None])[:, 0, :depth]
        torch.testing.assert_close(self.draft(path, depth), wanted, rtol=0, atol=1e-9)


def pad_entries(values: Tensor, count: int, filling: float) -> Tensor:
    """Values [N, L, ...] with `count` entries of rubbish behind them."""
    return torch.cat([values, values.new_full((len(values), count, *values.shape[2:]), filling)], 1)
