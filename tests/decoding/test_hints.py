"""Hints in decoding: the trunk reads them where it should, and drafted tokens are those of plain decoding."""

from dataclasses import replace

import pytest
import torch
from families import CONFIGS
from hint_scenes import DRAWN, RULES, HintScene, engine_run, full_forward, hint_scene, with_draft_model

from speechmtp.decoding.sampling import SamplingConfig
from speechmtp.heads.native import use_native as draft_natively
from speechmtp.models.bases.native import use_native
from speechmtp.models.prefix import with_prefix
from speechmtp.types import Prompt, Request, stack_prompts

GREEDY = SamplingConfig()
HEADS = "verify:depth=3"


@pytest.mark.parametrize("seed", range(6))
def test_plain_decoding_is_that_of_whole_rows(seed: int) -> None:
    scene = hint_scene(seed)
    assert scene.run("ar", GREEDY) == [full_forward(scene, request) for request in scene.requests]


@pytest.mark.parametrize("seed", range(50))
def test_drafted_tokens_are_the_plain_ones(seed: int) -> None:
    """With sampling and without, in batches whose rows join and pause, and each row alone."""
    scene = hint_scene(seed)
    for sampling in (DRAWN, GREEDY):
        plain = scene.run("ar", sampling)
        assert scene.run(HEADS, sampling) == plain
        assert engine_run(scene, HEADS, sampling, seed) == plain
    assert [scene.run(HEADS, GREEDY, [row])[0] for row in range(len(plain))] == plain
    assert [len(tokens) for tokens in plain] == [request.limit for request in scene.requests]


@pytest.mark.parametrize("strategy", ["marginal:depth=3", "tree", "dynamic-tree", "jacobi", "lookup"])
@pytest.mark.parametrize("seed", [1, 2])
def test_other_drafters_give_the_plain_tokens_too(strategy: str, seed: int) -> None:
    scene = hint_scene(seed, "chain-shared-ttt" if seed == 1 else "hydra")
    for sampling in (DRAWN, GREEDY):
        assert scene.run(strategy, sampling) == scene.run("ar", sampling)


def test_a_drafter_that_runs_the_trunk_foresees_every_token() -> None:
    """The trunk's own distribution begins with the greedy token in every call, so that none is refused; without the
    hints it would not."""
    scene = hint_scene(4)
    _, traces = scene.traced("marginal:depth=1", GREEDY)
    assert sum(t.num_draft_tokens for t in traces) > 10
    assert sum(t.num_accepted_tokens for t in traces) == sum(t.num_draft_tokens for t in traces)


@pytest.mark.parametrize("strategy", ["draft-model:depth=3", "draft-model:depth=1"])
def test_a_draft_model_reads_its_own_hints(strategy: str) -> None:
    scene = with_draft_model(hint_scene(5))
    tokens, traces = scene.traced(strategy, GREEDY)
    assert tokens == scene.run("ar", GREEDY)
    assert sum(t.num_accepted_tokens for t in traces) == sum(t.num_draft_tokens for t in traces) > 10


def test_rows_with_and_without_hints_decode_together() -> None:
    scene = hint_scene(8)
    mixed = [r if i % 2 else Request(Prompt(*_bare(r.prompt)), RULES, r.limit) for i, r in enumerate(scene.requests)]
    both = HintScene(scene.runner, scene.family, mixed)
    alone = [both.run("ar", GREEDY, [row])[0] for row in range(len(mixed))]
    assert both.run(HEADS, GREEDY) == alone and alone != scene.run("ar", GREEDY)


def _bare(prompt: Prompt) -> tuple[torch.Tensor, ...]:
    return prompt.embeddings, prompt.positions, prompt.lengths, prompt.next_position


def test_stacked_prompts_keep_each_row_s_hints() -> None:
    scene = hint_scene(9)
    stacked = stack_prompts([r.prompt for r in scene.requests])
    for row, request in enumerate(scene.requests):
        own = stacked.row(row)
        assert request.prompt.hints is not None and own.hints is not None
        assert torch.equal(own.hints, request.prompt.hints)


@pytest.mark.parametrize("cut", [1, 3])
def test_a_row_goes_on_behind_a_prefix_under_the_hints_that_are_left(cut: int) -> None:
    scene = hint_scene(12)
    long = [r for r in scene.requests if r.limit is not None and r.limit > cut + 1]
    assert long
    for request in long:
        alone = HintScene(scene.runner, scene.family, [request])
        plain = alone.run("ar", GREEDY)[0]
        behind = with_prefix(request, plain[:cut], scene.runner.trunk)
        for strategy in ("ar", HEADS):
            assert HintScene(scene.runner, scene.family, [behind]).run(strategy, GREEDY)[0] == plain[cut:]


def test_hints_change_the_output() -> None:
    """Of every family's scene, so that none of the tests above is empty."""
    for seed, family in enumerate(CONFIGS):
        scene = hint_scene(seed, family)
        bare = [Request(Prompt(*_bare(r.prompt)), RULES, r.limit) for r in scene.requests]
        if sum(map(len, scene.run("ar", GREEDY))) > 12:
            assert HintScene(scene.runner, family, bare).run("ar", GREEDY) != scene.run("ar", GREEDY)


@pytest.mark.parametrize("seed", [2, 6])
def test_native_drafts_give_the_plain_tokens(seed: int) -> None:
    """In float32 with kernels: whole drafts are drawn in one call, under hints."""
    scene = hint_scene(seed, "chain-shared-ttt")
    runner, heads = scene.runner, scene.runner.heads["own"].float()
    runner.trunk.float()
    requests = [replace(r, prompt=replace(r.prompt, embeddings=r.prompt.embeddings.float())) for r in scene.requests]
    single = HintScene(runner, scene.family, requests)
    by_modules = {sampling: single.traced(HEADS, sampling) for sampling in (DRAWN, GREEDY)}
    use_native(runner.trunk)
    draft_natively(heads, runner.trunk)
    if heads.native is None:
        pytest.skip(heads.native_problem)
    for sampling, (tokens, traces) in by_modules.items():
        found, counted = single.traced(HEADS, sampling)
        assert found == tokens == single.run("ar", sampling)
        assert [t.num_accepted_tokens for t in counted] == [t.num_accepted_tokens for t in traces]
