"""Trunk: any causal LM on given positions and a ready-made mask."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from speechmtp.ancestors import ancestors_of
from speechmtp.errors import CheckpointError, ConfigError, ShapeError
from speechmtp.models.cache import RaggedCache
from speechmtp.models.masks import additive_ragged_mask
from speechmtp.models.trunk import (
    PretrainedTrunkConfig,
    ScratchTrunkConfig,
    Trunk,
    build_trunk,
)

SIZES: dict[str, Any] = {
    "vocab_size": 11, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 8, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": None,
}  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize("family", tiny.TRUNKS)
def test_pitfall_16_logits_are_those_of_the_bare_model(family: str) -> None:
    trunk = tiny.trunk(0, family)
    ids = torch.randint(0, tiny.VOCAB, (2, 9), generator=tiny.generator(0))
    wanted = trunk.model(input_ids=ids).logits
    positions = torch.arange(9).expand(2, -1)
    whole = trunk.extend(trunk.embed(ids), positions, None, trunk.new_cache(2))
    torch.testing.assert_close(trunk.unembed(whole.hidden), wanted, rtol=0, atol=1e-9)
    trained = trunk(trunk.embed(ids), positions, torch.zeros(2, 9, dtype=torch.long))
    torch.testing.assert_close(trunk.unembed(trained.hidden), wanted, rtol=0, atol=1e-9)


@torch.no_grad()
@pytest.mark.parametrize("family", tiny.TRUNKS)
def test_pitfall_01_text_hears_audio_at_repeated_positions(family: str) -> None:
    """Without a mask, positions that start again would be read as another packed sequence."""
    trunk = tiny.trunk(1, family)
    prompt = tiny.prompts(trunk, [6, 6], 1)
    changed = prompt.embeddings.clone()
    changed[:, :5] += 0.5
    for run in (
        lambda x: trunk.extend(x, prompt.positions, None, trunk.new_cache(2)),
        lambda x: trunk(x, prompt.positions, torch.zeros(2, 6, dtype=torch.long)),
    ):
        moved = trunk.unembed(run(changed).hidden[:, -1]) - trunk.unembed(run(prompt.embeddings).hidden[:, -1])
        assert float(moved.abs().max(-1).values.min()) > 1e-3


@torch.no_grad()
def test_positions_are_given_and_matter() -> None:
    trunk = tiny.trunk(2)
    prompt = tiny.prompts(trunk, [6], 2)
    run = lambda positions: trunk.extend(prompt.embeddings, positions, None, trunk.new_cache(1)).hidden  # noqa: E731
    base = run(prompt.positions)
    assert not torch.allclose(run(torch.arange(6)[None]), base)
    torch.testing.assert_close(run(prompt.positions + 7), base, rtol=0, atol=1e-6)  # only differences count


@torch.no_grad()
@pytest.mark.parametrize("family", tiny.TRUNKS)
def test_training_batches_ignore_padding_and_match_decoding(family: str) -> None:
    trunk = tiny.trunk(3, family)
    prompt = tiny.prompts(trunk, [4, 9, 6], 3)
    segments = torch.where(torch.arange(9) < prompt.lengths[:, None], 0, -1)
    states = trunk(prompt.embeddings, prompt.positions, segments).hidden
    assert bool(states.isfinite().all())
    for row, size in enumerate([4, 9, 6]):
        one = prompt.row(row)
        alone = trunk.extend(one.embeddings, one.positions, None, trunk.new_cache(1)).hidden
        torch.testing.assert_close(states[row, :size], alone[0], rtol=0, atol=1e-9)


@torch.no_grad()
@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("tree", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_mask_is_additive_and_finite(ragged: bool, tree: bool, dtype: torch.dtype) -> None:
    cache = RaggedCache(2, 3)
    cache.rewind([4, 1, 0] if ragged else [4, 4, 4])
    cache.begin(3)
    ancestors = ancestors_of(torch.tensor([[-1, 0, 0], [-1, -1, 1], [-1, 0, 1]])) if tree else None
    mask = additive_ragged_mask(cache, 3, ancestors, dtype)
    assert mask.shape == (3, 1, 3, 7) and mask.dtype == dtype
    assert bool(mask.isfinite().all()) and set(mask.unique().tolist()) == {0.0, torch.finfo(dtype).min}
    for row, length in enumerate(cache.lengths.tolist()):
        for query in range(3):
            for slot in range(7):
                new = slot - length
                related = new <= query if ancestors is None else new in range(3) and bool(ancestors[row, query, new])
                assert bool(mask[row, 0, query, slot] == 0) == (new < 0 or related), (row, query, slot)


def test_ancestors_are_closed() -> None:
    _, parent = tiny.random_tree(tiny.generator(0), 5, 12)
    seen = ancestors_of(parent)
    for row, parents in enumerate(parent.tolist()):
        for node in range(12):
            assert seen[row, node].nonzero()[:, 0].tolist() == tiny.path_to(parents, node)


@torch.no_grad()
@pytest.mark.parametrize("family", tiny.TRUNKS)
def test_both_attention_forms_agree(family: str) -> None:
    """Training uses written-out attention, decoding the fused one; a tree goes through both alike."""
    trunk = tiny.trunk(4, family)
    prompt = tiny.prompts(trunk, [5, 5], 4)
    ancestors = ancestors_of(torch.tensor([[-1, 0, 0, 1, 2], [-1, -1, 1, 0, 2]]))
    results = {}
    for mode in (False, True):
        trunk.train(mode)
        results[trunk.model.config._attn_implementation] = trunk.extend(
            prompt.embeddings, prompt.positions, ancestors, trunk.new_cache(2)
        ).hidden
    assert set(results) == {"sdpa", "eager"}
    # The written-out form takes its softmax in float32.
    torch.testing.assert_close(results["sdpa"], results["eager"], rtol=0, atol=1e-5)


@torch.no_grad()
def test_fault_27_taps_are_the_layers_asked_for_in_that_order() -> None:
    trunk = tiny.trunk(5)
    prompt = tiny.prompts(trunk, [5], 5)
    states = trunk.extend(prompt.embeddings, prompt.positions, None, trunk.new_cache(1), (1, 0))
    assert states.taps is not None and states.taps.shape == (1, 5, 2, tiny.WIDTH)
    assert torch.equal(states.taps[:, :, 1], prompt.embeddings), "0 is what goes into the first layer"
    assert not torch.allclose(states.taps[:, :, 0], states.taps[:, :, 1])
    assert trunk.extend(prompt.embeddings, prompt.positions, None, trunk.new_cache(1)).taps is None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: MistralForCausalLM(MistralConfig(**SIZES, sliding_window=8)),
            "MistralForCausalLM has sliding_attention",
        ),
        (lambda: Gemma3ForCausalLM(Gemma3TextConfig(**SIZES)), "Gemma3ForCausalLM has sliding_attention"),
        (
            lambda: Qwen3ForCausalLM(
                Qwen3Config(**SIZES, use_sliding_window=True, sliding_window=8, max_window_layers=1)
            ),
            "sliding_attention",
        ),
        (
            lambda: BloomForCausalLM(BloomConfig(vocab_size=11, hidden_size=16, n_layer=1, n_head=2)),
            "takes no position ids",
        ),
    ],
)
def test_unsupported_trunks_are_refused_with_one_line(make: Callable[[], PreTrainedModel], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        Trunk(make())
    assert "\n" not in str(caught.value)


def test_grouped_keys_and_windowless_mistral_are_taken() -> None:
    trunk = Trunk(MistralForCausalLM(MistralConfig(**SIZES, sliding_window=None))).eval().double()
    x = torch.randn(1, 4, 16, dtype=torch.float64)
    whole = trunk.extend(x, torch.arange(4)[None], None, trunk.new_cache(1)).hidden
    cache = trunk.new_cache(1)
    trunk.extend(x[:, :3], torch.arange(3)[None], None, cache)
    cache.commit(torch.tensor([3]))
    last = trunk.extend(x[:, 3:], torch.tensor([[3]]), None, cache).hidden
    torch.testing.assert_close(last, whole[:, 3:], rtol=0, atol=1e-9)


def test_errors_name_what_was_found() -> None:
    trunk = tiny.trunk(0)
    with pytest.raises(ShapeError, match=r"trunk: embeddings \(1, 2, 5\).* expected \[B, Q, 16\]"):
        trunk.extend(torch.zeros(1, 2, 5).double(), torch.zeros(1, 2, dtype=torch.long), None, trunk.new_cache(1))
    with pytest.raises(ShapeError, match="cache of 3 rows"):
        trunk.extend(torch.zeros(1, 2, 16).double(), torch.zeros(1, 2, dtype=torch.long), None, trunk.new_cache(3))
    with pytest.raises(ConfigError, match="trunk: width 10 must be an even multiple of heads 3"):
        build_trunk(ScratchTrunkConfig(width=10, heads=3), 11)


def test_pretrained_folders_load_and_are_frozen(tmp_path: Path) -> None:
    tiny.trunk(7, "qwen3").model.save_pretrained(tmp_path)
    loaded = build_trunk(PretrainedTrunkConfig(name=str(tmp_path)), 11)
    assert loaded.width == tiny.WIDTH and not any(weight.requires_grad for weight in loaded.parameters())
    full = build_trunk(PretrainedTrunkConfig(name=str(tmp_path), train="full"), 11)
    assert all(weight.requires_grad for weight in full.parameters())
    for size in (5, 12):
        with pytest.raises(CheckpointError, match=f"has 11 tokens, the tokenizer {size}"):
            build_trunk(PretrainedTrunkConfig(name=str(tmp_path)), size)
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        build_trunk(PretrainedTrunkConfig(name=str(tmp_path / "none")), 11)
