"""Teacher forcing of residual, layer, vocalnet and hydra: what a feature may read, packing, anchors, gradients."""

from dataclasses import replace

import pytest
import tiny
import torch
from rollout import CASES, DEPTH, batch_of, features_of, heads_of
from torch import Tensor

from speechmtp.heads.contract import HeadSet, TrainBatch
from speechmtp.heads.vocalnet import VocalnetHeadsConfig
from speechmtp.types import States

each = pytest.mark.parametrize("name", CASES)


def affected(name: str, t: int, d: int, changed: int) -> bool:
    """Whether the feature of depth d at index t reads entry `changed`."""
    if name.startswith("residual"):
        return t == changed
    if name.startswith("hydra"):
        return t <= changed <= t + d
    return t >= changed


@torch.no_grad()
@each
def test_a_feature_reads_the_entries_it_may_and_no_later_one(name: str) -> None:
    trunk = tiny.trunk(0)
    heads = heads_of(trunk, CASES[name])
    prompt = tiny.prompts(trunk, [8])
    batch = batch_of(trunk, heads, prompt.embeddings, prompt.positions)
    before = features_of(heads, batch)
    for changed in range(8):
        hidden, inputs = batch.states.hidden.clone(), batch.inputs.clone()
        taps = None if batch.states.taps is None else batch.states.taps.clone()
        for values in (hidden, inputs, taps):
            if values is not None:
                values[:, changed] += torch.arange(values.shape[-1]) * 0.1
        after = features_of(heads, replace(batch, states=States(hidden, taps), inputs=inputs))
        moved = (after - before).abs().amax((0, 3)) > 1e-9
        for t in range(8):
            for d in range(1, DEPTH + 1):
                if t + d < 8:  # beyond, hydra would read tokens that do not exist
                    assert bool(moved[t, d - 1]) == affected(name, t, d, changed), (changed, t, d)


@torch.no_grad()
@each
def test_packed_samples_are_the_samples_alone(name: str) -> None:
    trunk = tiny.trunk(0)
    heads = heads_of(trunk, CASES[name])
    sizes = [6, 1, 5]
    prompt = tiny.prompts(trunk, sizes)
    alone = [
        batch_of(trunk, heads, prompt.embeddings[i : i + 1, :n], prompt.positions[i : i + 1, :n])
        for i, n in enumerate(sizes)
    ]
    rubbish = batch_of(trunk, heads, 5 * prompt.embeddings[:1, :3], prompt.positions[:1, :3])
    parts = [*alone, rubbish]
    taps = None if not heads.taps else torch.cat([b.states.taps for b in parts if b.states.taps is not None], 1)
    packed = replace(
        alone[0], states=States(torch.cat([b.states.hidden for b in parts], 1), taps),
        inputs=torch.cat([b.inputs for b in parts], 1), positions=torch.cat([b.positions for b in parts], 1),
        ids=torch.cat([b.ids for b in parts], 1),
        segments=torch.cat([torch.full((1, n), s) for n, s in zip([*sizes, 3], [0, 1, 2, -1])], 1),
    )  # fmt: skip
    features = features_of(heads, packed)
    start = 0
    for n, batch in zip(sizes, alone):
        own = features_of(heads, batch)
        for d in range(1, DEPTH + 1):
            known = max(0, n - d)
            mine = features[:, start : start + known, d - 1]
            torch.testing.assert_close(mine, own[:, :known, d - 1], rtol=0, atol=1e-10)
        start += n


@torch.no_grad()
@each
def test_anchors_pick_from_all_indices(name: str) -> None:
    trunk = tiny.trunk(0)
    heads = heads_of(trunk, CASES[name])
    prompt = tiny.prompts(trunk, [7, 7])
    batch = batch_of(trunk, heads, prompt.embeddings, prompt.positions)
    anchors = torch.tensor([[5, 0, 3], [1, 1, 6]])
    picked = features_of(heads, replace(batch, anchors=anchors))
    wanted = features_of(heads, batch)[torch.arange(2)[:, None], anchors]
    torch.testing.assert_close(picked, wanted, rtol=0, atol=1e-10)


def gradients(heads: HeadSet, batch: TrainBatch, one_by_one: bool) -> list[Tensor]:
    """Gradients of a loss over all depths, by a backward pass a depth or by one."""
    heads.zero_grad()
    losses = []
    for d, features in enumerate(heads.train_depths(batch), 1):
        loss = heads.logits(features, d, batch.unembed).logsumexp(-1).pow(2).mean()
        if one_by_one:
            loss.backward()
        losses.append(loss)
    if not one_by_one:
        torch.stack(losses).sum().backward()
    return [w.grad.clone() for w in heads.parameters() if w.grad is not None]


@pytest.mark.parametrize("name", ["residual", "residual-own", "layer", "layer-taps", "hydra"])
def test_depths_can_go_backward_one_after_another(name: str) -> None:
    trunk = tiny.trunk(0).requires_grad_(False)
    heads = heads_of(trunk, CASES[name])
    prompt = tiny.prompts(trunk, [6])
    batch = batch_of(trunk, heads, prompt.embeddings, prompt.positions)
    together = gradients(heads, batch, False)
    for one, other in zip(gradients(heads, batch, True), together, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_recomputed_vocalnet_depths_have_the_same_gradients() -> None:
    trunk = tiny.trunk(0).requires_grad_(False)
    prompt = tiny.prompts(trunk, [6])
    found = []
    for checkpoint in (True, False):
        heads = heads_of(trunk, VocalnetHeadsConfig(depth=DEPTH, checkpoint=checkpoint))
        batch = batch_of(trunk, heads, prompt.embeddings, prompt.positions)
        found.append(gradients(heads, replace(batch, anchors=torch.tensor([[1, 4]])), False))
    assert len(found[0]) == len(list(heads.parameters()))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)
