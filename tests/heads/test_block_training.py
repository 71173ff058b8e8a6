"""The block drafter in training: who sees whom, chunks of anchors, revealed prefixes, where it starts."""

from dataclasses import replace
from typing import Any

import pytest
import tiny
import torch
from blocks import CORRECTION, DEPTH, INSIDE, block, random_batch, trained
from torch import Tensor

from speechmtp.errors import ConfigError
from speechmtp.heads.block import BlockHeads, BlockHeadsConfig
from speechmtp.heads.table import build_heads
from speechmtp.types import States


@pytest.mark.parametrize("inside", INSIDE)
@pytest.mark.parametrize("correction", CORRECTION)
@pytest.mark.parametrize("reveal", [0.0, 1.0])
def test_features_read_the_context_up_to_the_anchor_and_the_tokens_they_may(
    inside: str, correction: str, reveal: float
) -> None:
    """Exact patterns of the gradient: states of the own segment up to t; x_{t+1}, the revealed tokens (in a causal
    block those before), and for the correction the tokens before the place."""
    torch.manual_seed(0)
    trunk = tiny.trunk()
    heads = block(trunk, layers=2, inside=inside, correction=correction, reveal=reveal).train()
    segments = torch.tensor([[0] * 6 + [1] * 8 + [-1]])
    anchors = torch.tensor([[0, 3, 5, 6, 8, 9]])
    batch = random_batch(trunk, segments, anchors=anchors)
    features = trained(heads, batch)
    counts = [0] * 6 if heads.revealed_count is None else heads.revealed_count[0].tolist()
    assert (heads.revealed_count is None) == (reveal == 0) and (reveal == 0 or max(counts) > 1)
    taps = batch.states.taps
    assert taps is not None
    for place, t in enumerate(anchors[0].tolist()):
        for d in range(1, DEPTH + 1):
            to_taps, to_inputs = torch.autograd.grad(
                features[0, place, d - 1].square().sum(), (taps, batch.inputs), retain_graph=True
            )
            first = 0 if t < 6 else 6
            assert moved(to_taps.flatten(2)) == list(range(first, t + 1))
            told = counts[place] if inside == "bidirectional" else min(counts[place], d)
            known = max(told + 1, d if correction == "gru" else 0)
            assert moved(to_inputs) == list(range(t + 1, t + 1 + known))


def moved(gradient: Tensor) -> list[int]:
    """Indices of the first row with any gradient."""
    return gradient[0].abs().amax(-1).nonzero()[:, 0].tolist()


def test_packed_samples_are_strangers() -> None:
    """A sample says the same alone and behind another, and the other's values do not matter."""
    trunk = tiny.trunk()
    heads = block(trunk, correction="gru")
    packed = random_batch(trunk, torch.tensor([[0] * 6 + [1] * 9]), anchors=torch.tensor([[6, 8, 9]]))
    assert packed.states.taps is not None
    alone = replace(
        packed, states=States(packed.states.hidden[:, 6:], packed.states.taps[:, 6:]), inputs=packed.inputs[:, 6:],
        ids=packed.ids[:, 6:], positions=packed.positions[:, 6:], segments=packed.segments[:, 6:],
        anchors=torch.tensor([[0, 2, 3]]),
    )  # fmt: skip
    torch.testing.assert_close(trained(heads, packed), trained(heads, alone), rtol=0, atol=1e-12)


@pytest.mark.parametrize("inside", INSIDE)
@pytest.mark.parametrize("correction", CORRECTION)
def test_chunks_of_anchors_change_nothing(inside: str, correction: str) -> None:
    trunk = tiny.trunk()
    segments = torch.tensor([[0] * 5 + [1] * 6, [0] * 7 + [-1] * 4])
    found = []
    for chunk in (3, 100):
        heads = block(trunk, layers=2, inside=inside, correction=correction, taps=(1,), chunk=chunk)
        batch = random_batch(trunk, segments, (1, 2))
        features = trained(heads, batch)
        assert features.shape == (2, 11, DEPTH, tiny.WIDTH)
        weight = torch.randn(features.shape, generator=tiny.generator(2), dtype=torch.float64)
        names = [name for name, _ in heads.named_parameters()]
        gradients = torch.autograd.grad(
            (features * weight).sum(), [*heads.parameters(), batch.states.taps, batch.inputs]
        )
        found.append((features, *gradients))
    assert all(g.abs().max() > 0 for g in found[0]), "every weight and input takes part"
    for name, small, whole in zip(["features", *names, "taps", "inputs"], *found):
        torch.testing.assert_close(small, whole, rtol=0, atol=1e-10, msg=lambda text, name=name: f"{name}: {text}")


def test_anchors_are_rows_of_the_whole() -> None:
    trunk = tiny.trunk()
    heads = block(trunk)
    segments = torch.zeros(2, 9, dtype=torch.long)
    anchors = torch.tensor([[0, 7, 2], [8, 8, 4]])
    whole, some = (trained(heads, random_batch(trunk, segments, anchors=a)) for a in (None, anchors))
    torch.testing.assert_close(some, whole[torch.arange(2)[:, None], anchors], rtol=0, atol=1e-12)
    none = random_batch(trunk, segments, anchors=anchors[:, :0])
    assert trained(heads, none).shape == (2, 0, DEPTH, tiny.WIDTH)


def test_a_sample_shorter_than_the_block() -> None:
    trunk = tiny.trunk()
    features = trained(block(trunk, correction="gru"), random_batch(trunk, torch.zeros(1, 2, dtype=torch.long)))
    assert features.shape == (1, 2, DEPTH, tiny.WIDTH) and bool(features.isfinite().all())


def test_how_often_and_how_much_is_revealed() -> None:
    torch.manual_seed(0)
    trunk = tiny.trunk()
    anchors = torch.zeros(50, 80, dtype=torch.long)
    counts = block(trunk, reveal=0.5).train()._draw_revealed(anchors)
    assert counts is not None
    share = torch.bincount(counts.flatten(), minlength=DEPTH).double() / counts.numel()
    torch.testing.assert_close(share, torch.tensor([0.625, 0.125, 0.125, 0.125]).double(), rtol=0, atol=0.03)
    assert block(trunk, reveal=0.0).train()._draw_revealed(anchors) is None
    assert block(trunk, reveal=0.5)._draw_revealed(anchors) is None


def test_start_copies_the_last_layer_and_takes_the_mean_embedding() -> None:
    trunk = tiny.trunk()
    heads = block(trunk, layers=2, audio=True)
    heads.start_from(trunk)
    last = trunk.last_layer()
    for i in range(2):
        own = dict(heads.at_layer(i).named_parameters())
        for name, weight in last.items():
            assert name == "final_norm.weight" or torch.equal(own[name], weight), name
        assert own["encoder_attn.o_proj.weight"].abs().max() > 0
    assert torch.equal(heads.norm.weight, last["final_norm.weight"])
    mean = trunk.embed(torch.arange(tiny.VOCAB)).mean(0)
    torch.testing.assert_close(heads.mask, mean, rtol=0, atol=1e-12)


@torch.no_grad()
def test_a_fresh_correction_adds_nothing() -> None:
    trunk = tiny.trunk()
    plain, corrected = block(trunk), block(trunk, correction="gru")
    corrected.load_state_dict(plain.state_dict(), strict=False)
    assert corrected.correction is not None
    batch = random_batch(trunk, torch.zeros(1, 6, dtype=torch.long))
    assert not torch.allclose(trained(corrected, batch), trained(plain, batch))
    fresh = build_heads(BlockHeadsConfig(depth=DEPTH, correction="gru"), trunk.shape)
    assert isinstance(fresh, BlockHeads) and fresh.correction is not None
    corrected.correction.load_state_dict(fresh.correction.state_dict())
    assert torch.equal(trained(corrected, batch), trained(plain, batch))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layers": 0}, "heads: layers=0, expected 1 to 1024"),
        ({"chunk": 0}, "heads: chunk=0, expected 1 to 65536"),
        ({"reveal": 1.5}, "heads: reveal=1.5, expected a number from 0 to 1"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        BlockHeadsConfig(**settings)
