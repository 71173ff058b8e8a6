"""Head families: starting points, the one contract, and depths that count from one."""

from dataclasses import replace

import pytest
import tiny
import torch

from speechmtp.errors import ConfigError
from speechmtp.heads.contract import HeadSet, HeadState, TrainBatch
from speechmtp.heads.labels import shifted_labels
from speechmtp.heads.latent import LatentHeadsConfig
from speechmtp.heads.linear import LinearHeadsConfig
from speechmtp.heads.table import HeadsConfig, build_heads
from speechmtp.types import States

KINDS = ("latent", "linear")


def hidden(seed: int = 0, rows: int = 3, size: int = 5) -> torch.Tensor:
    """Random trunk states [rows, size, C]."""
    return torch.randn(rows, size, tiny.WIDTH, generator=tiny.generator(seed), dtype=torch.float64)


TRUNK = tiny.trunk(9)


def unembed(states: torch.Tensor) -> torch.Tensor:
    """An unembedding of random weights."""
    return TRUNK.unembed(states)


def batch(states: torch.Tensor, anchors: torch.Tensor | None = None) -> TrainBatch:
    """Teacher-forced states; these families read nothing else."""
    none = torch.zeros(states.shape[:2], dtype=torch.long)
    return TrainBatch(States(states), states, none, none, none, TRUNK.embed, unembed, anchors=anchors)


def depths(heads: HeadSet, states: torch.Tensor) -> torch.Tensor:
    """Logits [B, L, D, V] of all depths by the way of training."""
    return heads.all_logits(torch.stack(list(heads.train_depths(batch(states))), 2), unembed)


def test_the_tiny_shape_is_that_of_the_tiny_trunk() -> None:
    assert tiny.trunk(0).shape == tiny.SHAPE
    assert tiny.trunk(0, "qwen3").shape == replace(tiny.SHAPE, qk_norm=True)


@torch.no_grad()
@pytest.mark.parametrize("config", [LatentHeadsConfig(depth=4), LinearHeadsConfig(depth=4)])
def test_families_start_as_the_base_head(config: HeadsConfig) -> None:
    heads = build_heads(config, TRUNK.shape).double()
    heads.start_from(TRUNK)
    states = hidden()
    logits = depths(heads, states)
    assert logits.shape == (3, 5, 4, tiny.VOCAB)
    for d in range(4):
        torch.testing.assert_close(logits[:, :, d], TRUNK.unembed(states), rtol=0, atol=1e-12)


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("depth", [0, 1, 3])
def test_one_pass_expansion_training_and_drafting_agree(kind: str, depth: int) -> None:
    heads = tiny.heads(kind, depth)
    states = hidden()
    trained = list(heads.train_depths(batch(states)))
    assert len(trained) == depth and heads.one_pass
    assert all(features.shape == (3, 5, tiny.WIDTH) for features in trained)
    for asked in range(1, depth + 1):  # a draft may be shorter than the set
        state = HeadState(TRUNK.embed, unembed, asked, states[:, 2])
        together = heads.all_logits(heads.all_features(state), unembed)
        assert together.shape == (3, asked, tiny.VOCAB)
        nodes = torch.zeros(3, 4, dtype=torch.long)
        for d in range(1, asked + 1):
            one = heads.expand(state, d, nodes, nodes)
            assert one.shape == (3, 4, tiny.WIDTH), "one feature for every node of the level before"
            logits = heads.logits(one, d, unembed)
            teacher = heads.logits(trained[d - 1][:, 2], d, unembed)
            torch.testing.assert_close(together[:, d - 1], teacher, rtol=0, atol=1e-12)
            for node in range(4):
                torch.testing.assert_close(logits[:, node], teacher, rtol=0, atol=1e-12)


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_depth_d_reads_its_own_weights(kind: str) -> None:
    heads = tiny.heads(kind, 3)
    before = depths(heads, hidden())
    heads.weight[1] += 1
    after = depths(heads, hidden())
    moved = (after - before).abs().amax((0, 1, 3)) > 1e-6
    assert moved.tolist() == [False, True, False]


@pytest.mark.parametrize("kind", KINDS)
def test_fault_06_depths_share_no_weights(kind: str) -> None:
    heads = build_heads(LatentHeadsConfig(depth=3) if kind == "latent" else LinearHeadsConfig(depth=3), tiny.SHAPE)
    weight = heads.get_parameter("weight")
    assert len({weight[d].data_ptr() for d in range(3)}) == 3
    assert weight.stride(0) == weight[0].numel(), "no view that repeats one matrix"


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_state_is_that_of_the_last_committed_entry(kind: str) -> None:
    heads = tiny.heads(kind, 2)
    states = hidden(1, rows=3, size=6)
    state = heads.start(3, TRUNK)
    nothing = torch.zeros(0)
    keep = torch.arange(6).repeat(3, 1)
    heads.advance(state, States(states), nothing, nothing, keep, torch.tensor([6, 1, 3]))
    assert torch.equal(state.hidden, states[torch.arange(3), torch.tensor([5, 0, 2])])
    before = state.hidden.clone()
    more = hidden(2, rows=3, size=4)
    keep = torch.tensor([[0, 3, 1, 1], [0, 1, 2, 3], [0, 2, 3, 3]])
    heads.advance(state, States(more), nothing, nothing, keep, torch.tensor([2, 0, 3]))
    assert torch.equal(state.hidden[0], more[0, 3]), "the second kept entry was entry 3 of the call"
    assert torch.equal(state.hidden[1], before[1]), "a row that committed nothing keeps its state"
    assert torch.equal(state.hidden[2], more[2, 3])
    state.select(torch.tensor([2, 0]))
    assert torch.equal(state.hidden, torch.stack([more[2, 3], more[0, 3]]))


@torch.no_grad()
def test_pitfall_13_heads_that_know_a_sentence_say_it_with_the_right_shift() -> None:
    """States are one-hot in time; weights are written from the label table; head d at t must say x_{t+1+d}."""
    ids = torch.tensor([[3, 8, 5, 10, 7, 4, 9, 2]])
    labels = shifted_labels(ids, torch.zeros_like(ids), 3)
    heads = tiny.heads("linear", 3)
    heads.weight.zero_()
    for t in range(8):
        for d in range(1, 4):
            if int(labels[0, t, d]) >= 0:
                heads.weight[d - 1, labels[0, t, d], t] = 1
    states = torch.eye(tiny.WIDTH, dtype=torch.float64)[None, :8]
    said = depths(heads, states).argmax(-1)[0]
    for t in range(8):
        for d in range(1, 4):
            if t + 1 + d < 8:
                assert int(said[t, d - 1]) == int(ids[0, t + 1 + d])


def test_wrong_depths_are_named() -> None:
    for kind, depth in ((LatentHeadsConfig, -1), (LinearHeadsConfig, 2000)):
        with pytest.raises(ConfigError, match=rf"heads: depth={depth}, expected 0 to 64"):
            kind(depth=depth)
