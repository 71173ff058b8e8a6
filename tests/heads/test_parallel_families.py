"""Families whose depths need no chain of tokens (residual, layer, vocalnet), and hydra, which reads tokens by a path:
sizes, starting points, and cached drafting against teacher forcing."""

from dataclasses import replace
from typing import Any

import pytest
import tiny
import torch
from rollout import CASES, DEPTH, LAYERED, MEMORY, Rollout, batch_of, features_of, heads_of
from torch import Tensor

from speechmtp.errors import ConfigError
from speechmtp.heads.contract import HeadSet
from speechmtp.heads.hydra import HydraHeadsConfig
from speechmtp.heads.layer import LayerHeadsConfig
from speechmtp.heads.residual import ResidualHeadsConfig
from speechmtp.heads.table import build_heads
from speechmtp.heads.vocalnet import VocalnetHeadsConfig

each = pytest.mark.parametrize("name", CASES)
layered = pytest.mark.parametrize("name", LAYERED)


def size(heads: HeadSet) -> int:
    """Number of weights."""
    return sum(weight.numel() for weight in heads.parameters())


def test_parameter_counts_are_those_of_the_formulas() -> None:
    shape = tiny.trunk(0).shape
    c, v, f, k, n = shape.width, shape.vocab_size, shape.ff_width, 4, 3
    layer = 4 * c * c + 3 * c * f + 2 * c  # with its two norms
    shared = k * n * (c * c + c)
    assert size(build_heads(ResidualHeadsConfig(depth=k, blocks=n), shape)) == shared
    assert size(build_heads(ResidualHeadsConfig(depth=k, blocks=n, unembedding="own"), shape)) == shared + k * c * v
    assert size(build_heads(LayerHeadsConfig(depth=k), shape)) == k * (layer + c)
    assert size(build_heads(VocalnetHeadsConfig(depth=k), shape)) == k * (layer + c + c * v + v)
    assert size(build_heads(VocalnetHeadsConfig(depth=k, unembedding="shared"), shape)) == k * (layer + c)
    mlp = sum(2 * ((d + 1) * c * c + c) for d in range(1, k + 1)) + k * (n - 1) * (c * c + c)
    assert size(build_heads(HydraHeadsConfig(depth=k, blocks=n), shape)) == mlp
    assert size(build_heads(HydraHeadsConfig(depth=k, blocks=n, unembedding="own"), shape)) == mlp + k * c * v
    short = ResidualHeadsConfig(depth=k, unembedding="own", shortlist=5)
    assert size(build_heads(short, shape)) == k * (c * c + c + 5 * c)


def matrices(heads: Any) -> list[list[Tensor]]:
    """The square weights of each depth, block by block."""
    if hasattr(heads, "weight"):
        return [list(depth) for depth in heads.weight]
    return [[w for _, w in module.named_parameters() if w.dim() == 2] for module in heads.modules_]


@pytest.mark.parametrize("name", ["residual", "layer", "vocalnet", "hydra"])
def test_fault_06_every_block_and_depth_has_weights_of_its_own(name: str) -> None:
    trunk = tiny.trunk(0)
    config = CASES[name]
    if isinstance(config, ResidualHeadsConfig | HydraHeadsConfig):
        config = replace(config, blocks=3)
    heads = heads_of(trunk, config)
    prompt = tiny.prompts(trunk, [6])
    with torch.no_grad():
        batch = batch_of(trunk, heads, prompt.embeddings, prompt.positions)
    pointers = [w.data_ptr() for depth in matrices(heads) for w in depth]
    assert len(set(pointers)) == len(pointers) and len(matrices(heads)) == DEPTH
    if isinstance(config, ResidualHeadsConfig | HydraHeadsConfig):
        assert all(len(depth) >= 3 for depth in matrices(heads))
    before = features_of(heads, batch).detach()
    for d, depth in enumerate(matrices(heads)):
        for weight in depth:  # each weight moves its own depth, and none above it
            with torch.no_grad():
                weight += 0.1
            moved = (features_of(heads, batch).detach() - before).abs().amax((0, 1, 3)) > 1e-9
            with torch.no_grad():
                weight -= 0.1
            assert moved[d] and not moved[:d].any()
            assert bool(moved[d + 1 :].any()) == (name == "vocalnet" and d + 1 < DEPTH)


@torch.no_grad()
@each
def test_every_depth_starts_as_the_base_head(name: str) -> None:
    trunk = tiny.trunk(0)
    heads = build_heads(CASES[name], trunk.shape).double().eval()
    if heads.shortlist is not None:
        heads.shortlist.copy_(torch.tensor([2, 9, 4, 0, 7]))
    heads.start_from(trunk)
    rollout = Rollout(trunk, heads, [5, 2])
    batch = batch_of(trunk, heads, rollout.prompt.embeddings, rollout.prompt.positions)
    base = trunk.unembed(batch.states.hidden)
    wanted = base if heads.shortlist is None else base[..., heads.shortlist]
    features = features_of(heads, batch)
    together = heads.all_logits(features, batch.unembed)
    for d in range(1, DEPTH + 1):
        logits = heads.logits(features[:, :, d - 1], d, batch.unembed)
        torch.testing.assert_close(logits, wanted, rtol=0, atol=1e-5)
        torch.testing.assert_close(together[:, :, d - 1], logits, rtol=0, atol=1e-12)
    drafted = heads.all_logits(rollout.draft(), rollout.state.unembed)
    last = wanted[torch.arange(2), rollout.prompt.lengths - 1]
    torch.testing.assert_close(drafted, last[:, None].expand(-1, DEPTH, -1), rtol=0, atol=1e-5)


@torch.no_grad()
@each
def test_logits_of_random_weights_agree_one_by_one_and_together(name: str) -> None:
    trunk = tiny.trunk(0)
    heads = heads_of(trunk, CASES[name])
    features = torch.randn(2, 3, DEPTH, tiny.WIDTH, generator=tiny.generator(0), dtype=torch.float64)
    unembed = heads.narrow(trunk)
    one = torch.stack([heads.logits(features[:, :, d], d + 1, unembed) for d in range(DEPTH)], 2)
    torch.testing.assert_close(heads.all_logits(features, unembed), one, rtol=0, atol=1e-12)
    assert one.shape[-1] == heads.vocab_size
    less = heads.all_logits(features[:, :, :2], unembed)
    torch.testing.assert_close(less, one[:, :, :2], rtol=0, atol=1e-12)


@torch.no_grad()
@pytest.mark.parametrize("family", ["llama", "qwen3"])
@each
def test_cached_drafting_is_teacher_forcing_after_every_acceptance(name: str, family: str) -> None:
    trunk = tiny.trunk(0, family)
    rollout = Rollout(trunk, heads_of(trunk, CASES[name]), [5, 2, 1])
    rollout.check()
    for step in range(DEPTH + 1):  # each row meets each acceptance 0..D, never all the same one
        rollout.accept(1 + (step + torch.arange(3)) % (DEPTH + 1))
        rollout.check(2 if step == 1 else None)


@torch.no_grad()
@each
def test_calls_without_a_draft_between_leave_the_cache_whole(name: str) -> None:
    trunk = tiny.trunk(0)
    rollout = Rollout(trunk, heads_of(trunk, CASES[name]), [4, 1, 3])
    rollout.accept(torch.tensor([2, 4, 1]))
    rollout.accept(torch.tensor([1, 3, 2]))
    rollout.check()
    rollout.draft()
    rollout.check()


@torch.no_grad()
@pytest.mark.parametrize("drafted", [False, True])
@each
def test_a_row_that_commits_nothing_keeps_its_features(name: str, drafted: bool) -> None:
    trunk = tiny.trunk(0)
    rollout = Rollout(trunk, heads_of(trunk, CASES[name]), [4, 1, 3])
    for count in ([2, 0, 1], [0, 0, 3], [1, 2, 0]):
        rollout.accept(torch.tensor(count))
        if drafted:
            rollout.check()
    rollout.check()


@torch.no_grad()
@pytest.mark.parametrize("moment", ["before", "after"])
@each
def test_rows_can_be_selected_before_and_after_drafting(name: str, moment: str) -> None:
    trunk = tiny.trunk(0)
    rollout = Rollout(trunk, heads_of(trunk, CASES[name]), [4, 1, 3, 2])
    rollout.accept(torch.tensor([2, 4, 1, 3]))
    if moment == "after":
        rollout.draft()
    rollout.select([3, 0, 1])
    rollout.check()
    rollout.accept(torch.tensor([3, 1, 2]))
    if moment == "after":
        rollout.draft()
    rollout.select([2, 1])
    rollout.check()
    rollout.accept(torch.tensor([1, 0]))
    rollout.check()


@torch.no_grad()
@each
def test_drafts_may_be_shallower_than_the_heads(name: str) -> None:
    trunk = tiny.trunk(0)
    rollout = Rollout(trunk, heads_of(trunk, CASES[name]), [4, 1])
    deep = rollout.draft()
    for depth in (0, 1, 2):
        state = rollout.heads.start(2, trunk, depth)
        prompt = rollout.prompt
        states = trunk.extend(prompt.embeddings, prompt.positions, None, trunk.new_cache(2), rollout.heads.taps)
        keep = torch.arange(4).repeat(2, 1)
        rollout.heads.advance(state, states, prompt.embeddings, prompt.positions, keep, prompt.lengths)
        for d in range(1, depth + 1):
            tokens = rollout.tokens[:, d - 1 : d]
            features = rollout.heads.expand(state, d, tokens, torch.zeros_like(tokens))
            torch.testing.assert_close(features[:, 0], deep[:, d - 1], rtol=0, atol=1e-10)
        if depth and rollout.heads.one_pass:
            assert rollout.heads.all_features(state).shape[1] == depth


@torch.no_grad()
@layered
def test_the_audio_memory_is_read_alike_in_training_and_drafting(name: str) -> None:
    trunk = tiny.trunk(0)
    heads = heads_of(trunk, CASES[name], shape=replace(trunk.shape, memory_width=MEMORY))
    rollout = Rollout(trunk, heads, [3, 1, 2, 4], memory=True)
    rollout.check()
    rollout.accept(torch.tensor([2, 1, 4, 3]))
    rollout.select([2, 0])
    rollout.check()
    other = Rollout(trunk, heads, [3, 1, 2, 4])
    assert (other.draft() - Rollout(trunk, heads, [3, 1, 2, 4], memory=True).draft()).abs().max() > 1e-6


@torch.no_grad()
@pytest.mark.parametrize("name", ["hydra", "layer", "vocalnet"])
def test_rows_can_be_selected_between_two_levels(name: str) -> None:
    trunk = tiny.trunk(0)
    rollout = Rollout(trunk, heads_of(trunk, CASES[name]), [4, 1, 3])
    rollout.accept(torch.tensor([2, 1, 3]))
    rollout.draft(1)
    rollout.select([2, 0])
    tokens = rollout.tokens[rollout.rows].gather(1, rollout.done[:, None] + 1)
    features = rollout.heads.expand(rollout.state, 2, tokens, torch.zeros_like(tokens))
    for place in range(2):
        torch.testing.assert_close(features[place, 0], rollout.expected(place)[1], rtol=0, atol=1e-9)


@torch.no_grad()
@pytest.mark.parametrize("name", ["hydra", "hydra-own"])
def test_hydra_nodes_of_a_tree_are_their_paths_alone(name: str) -> None:
    trunk = tiny.trunk(0)
    heads = heads_of(trunk, CASES[name])
    rollout = Rollout(trunk, heads, [4, 1])
    base = torch.tensor([[3], [8]])
    levels = [
        (base, torch.zeros(2, 1, dtype=torch.long)),
        (torch.tensor([[1, 5, 7], [6, 2, 2]]), torch.zeros(2, 3, dtype=torch.long)),
        (torch.tensor([[4, 9, 0, 4], [1, 1, 10, 3]]), torch.tensor([[2, 0, 2, 1], [1, 0, 0, 2]])),
    ]
    tree = [heads.expand(rollout.state, d, *level) for d, level in enumerate(levels, 1)]
    for row in range(2):
        for node in range(4):
            above = int(levels[2][1][row, node])
            path = [base[row, 0], levels[1][0][row, above], levels[2][0][row, node]]
            alone = Rollout(trunk, heads, [4, 1])
            for d, token in enumerate(path, 1):
                tokens = token.expand(2, 1)
                features = heads.expand(alone.state, d, tokens, torch.zeros_like(tokens))
                place = (0, above, node)[d - 1]
                torch.testing.assert_close(tree[d - 1][row, place], features[row, 0], rtol=0, atol=1e-12)
    spread = (tree[2][:, :, None] - tree[2][:, None]).abs().amax(-1)
    assert (spread + torch.eye(4) > 1e-6).all(), "different paths give different features"


@pytest.mark.parametrize("make", [ResidualHeadsConfig, HydraHeadsConfig])
def test_a_family_of_blocks_needs_one(make: Any) -> None:
    with pytest.raises(ConfigError, match="blocks=0, expected 1 to 1024"):
        make(blocks=0)
