"""A distribution of two equally likely blocks: what a family can say of two words at once.

Behind one base token come "panda bamboo" or "lion meat". Heads that choose each word alone put a quarter of their
mass on each of the mixed blocks; those that know the first word, or a joint distribution, next to none.
"""

from typing import Any

import pytest
import tiny
import torch
import torch.nn.functional as F
from torch import Tensor

from speechmtp.heads.contract import HeadSet, TrainBatch
from speechmtp.heads.table import FAMILIES, build_heads
from speechmtp.models.trunk import Trunk

BASE, PANDA, BAMBOO, LION, MEAT = 3, 4, 5, 6, 7
IDS = torch.tensor([[tiny.BOS, BASE, PANDA, BAMBOO], [tiny.BOS, BASE, LION, MEAT]])
ALONE = ("latent", "linear", "residual", "layer", "vocalnet")  # each word from the state alone
TOGETHER = ("joint", "chain", "hydra")
OPTIONS: dict[str, dict[str, Any]] = {
    "joint": {"rank": 2}, "chain": {"checkpoint": False}, "vocalnet": {"checkpoint": False}
}  # fmt: skip
KINDS: dict[str, Any] = {config.kind: config for config in FAMILIES}  # type: ignore[attr-defined]


def trained(kind: str) -> tuple[Trunk, HeadSet]:
    """Heads of depth 2 behind a frozen trunk, trained by cross-entropy of both depths at the start token."""
    trunk = tiny.trunk(0).requires_grad_(False)
    heads = build_heads(KINDS[kind](depth=2, **OPTIONS.get(kind, {})), trunk.shape).double()
    heads.start_from(trunk)
    inputs, positions = trunk.embed(IDS), torch.arange(4).repeat(2, 1)
    segments = torch.zeros_like(IDS)
    states = trunk(inputs, positions, segments, heads.taps)
    batch = TrainBatch(
        states, inputs, IDS, positions, segments, trunk.embed, heads.narrow(trunk), anchors=torch.zeros(2, 1).long()
    )
    optimiser = torch.optim.Adam(heads.parameters(), lr=0.02)
    for _ in range(120):
        loss = heads.regulariser(batch)
        loss = torch.zeros(()).double() if loss is None else loss
        for d, features in enumerate(heads.train_depths(batch), 1):
            loss = loss + F.cross_entropy(heads.logits(features[:, 0], d, batch.unembed), IDS[:, 1 + d])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return trunk, heads.eval()


@torch.no_grad()
def blocks(trunk: Trunk, heads: HeadSet) -> Tensor:
    """Mass [2, 2] of the blocks panda or lion, then bamboo or meat, as a draft behind the base token sees them."""
    state, cache = heads.start(1, trunk), trunk.new_cache(1)
    inputs, zero = trunk.embed(IDS[:1, :1]), torch.zeros(1, 1, dtype=torch.long)
    states = trunk.extend(inputs, zero, None, cache, heads.taps)
    heads.advance(state, states, inputs, zero, zero, torch.ones(1, dtype=torch.long))
    first = heads.logits(heads.expand(state, 1, zero + BASE, zero), 1, state.unembed)[0, 0].softmax(-1)
    words = torch.tensor([PANDA, LION])
    second = heads.logits(heads.expand(state, 2, words[None], zero.expand(1, 2)), 2, state.unembed)[0].softmax(-1)
    return first[words, None] * second[:, [BAMBOO, MEAT]]


@pytest.mark.parametrize("kind", [kind for kind in ALONE if kind in KINDS])
def test_words_chosen_alone_mix_the_blocks(kind: str) -> None:
    mass = blocks(*trained(kind))
    assert float((mass - 0.25).abs().max()) < 0.03


@pytest.mark.parametrize("kind", [kind for kind in TOGETHER if kind in KINDS])
def test_words_chosen_together_do_not_mix_the_blocks(kind: str) -> None:
    mass = blocks(*trained(kind))
    assert float(mass[0, 1] + mass[1, 0]) < 0.02
    assert abs(float(mass[0, 0]) - 0.5) < 0.03 and abs(float(mass[1, 1]) - 0.5) < 0.03
