"""Where the native step must not run, the model's own modules do; and a step that threads share gives what each has
alone."""

import copy
import pickle
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import native_models
import pytest
import tiny
import torch
import transformers
from native_models import NATIVE, Sizes
from native_scenes import CLOSE, apart
from test_native_chain import Scene as Drafts
from test_native_chain import head_set
from torch import Tensor, nn

from speechmtp.errors import ShapeError
from speechmtp.heads.native import use_native as draft_natively
from speechmtp.kernels.cpu import decoder
from speechmtp.models.bases import native as native_form
from speechmtp.models.bases.native import use_native
from speechmtp.models.seq2seq import Seq2SeqTrunk
from speechmtp.models.trunk import Trunk
from speechmtp.types import Prompt, States

pytestmark = NATIVE
FAMILY = pytest.mark.parametrize("family", ["qwen3", "moonshine", "whisper"])


def made(family: str, native: bool = True) -> Trunk:
    """A trunk of its own, natively."""
    trunk = native_models.built(family, Sizes(), "float", 1)
    if native:
        use_native(trunk)
        assert trunk.native is not None and trunk.native_problem == ""
    return trunk


def called(
    trunk: Trunk, seed: int = 0, far: int = 30, dtype: torch.dtype = torch.float32,
    between: Callable[[], None] = lambda: None,
) -> States:  # fmt: skip
    """States and logits of a call behind a prompt, both by a seed; `between` is called between them."""
    rng = tiny.generator(seed)
    cache, first = trunk.new_cache(0), torch.zeros(2, dtype=torch.long)
    values = torch.randn(3, 2, 5, trunk.width, generator=rng).to(dtype)
    memory = values[2] if isinstance(trunk, Seq2SeqTrunk) else None
    trunk.join(cache, Prompt(values[0], first[:, None], first, first, memory))
    positions = torch.randint(0, far, (2, 2, 5), generator=rng)
    trunk.extend(values[0], positions[0], None, cache)
    cache.commit([5, 3])
    between()
    states = trunk.extend(values[1], positions[1], None, cache, (0, 1))
    return States(states.hidden, trunk.unembed(states.hidden))


def by_modules(trunk: Trunk, seed: int = 0, far: int = 30, dtype: torch.dtype = torch.float32) -> States:
    """The same by the model's own modules."""
    native, trunk.native = trunk.native, None
    try:
        return called(trunk, seed, far, dtype)
    finally:
        trunk.native = native


def same(mine: States, theirs: States) -> bool:
    """Whether two calls gave the same bits."""
    assert mine.taps is not None and theirs.taps is not None
    return torch.equal(mine.hidden, theirs.hidden) and torch.equal(mine.taps, theirs.taps)


@torch.inference_mode()
@FAMILY
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_models_in_other_dtypes_run_on_modules(family: str, dtype: torch.dtype) -> None:
    trunk = made(family, False).to(dtype)
    use_native(trunk)
    assert trunk.native is None and "float32" in trunk.native_problem
    late = made(family).to(dtype)  # after the native step was made
    assert late.native is not None
    assert same(called(late, dtype=dtype), called(trunk, dtype=dtype))
    assert late.choose(torch.zeros(1, late.width, dtype=dtype)) is None


@FAMILY
def test_gradients_flow_through_modules(family: str) -> None:
    trunk = made(family).requires_grad_(True)
    states = called(trunk)
    assert states.hidden.requires_grad and same(states, by_modules(trunk))
    with torch.no_grad():
        assert apart(called(trunk).hidden, states.hidden) <= CLOSE and not same(called(trunk), states)


@torch.no_grad()
@FAMILY
def test_changed_weights_are_those_of_now(family: str) -> None:
    trunk = made(family)
    before = called(trunk)
    for weight in (trunk._decoder.layers[-1].self_attn.q_proj.weight, trunk.unembedding().weight):
        weight.mul_(-1.5)
        assert same(called(trunk), by_modules(trunk)) and not same(called(trunk), before)
    use_native(trunk)
    assert apart(called(trunk).hidden, by_modules(trunk).hidden) <= CLOSE
    trunk.load_state_dict({name: weight / 2 for name, weight in trunk.state_dict().items()})
    assert same(called(trunk), by_modules(trunk))


@torch.no_grad()
def test_a_changed_bias_of_the_unembedding_is_that_of_now() -> None:
    trunk = made("llama", False)
    output = nn.Linear(trunk.width, trunk.vocab_size).requires_grad_(False)
    trunk.model.set_output_embeddings(output)
    use_native(trunk)
    hidden = torch.randn(1, trunk.width, generator=tiny.generator(0))
    output.bias[3] = 100.0
    assert trunk.choose(hidden) is None and int(trunk.unembed(hidden).argmax()) == 3


@torch.no_grad()
def test_heads_whose_weights_changed_draft_by_modules() -> None:
    trunk = made("moonshine")
    heads = head_set(trunk, 2)
    scene = Drafts(trunk, heads, heads.native, 0)
    scene.states = scene.started()
    heads.native, base = scene.native, torch.zeros(len(scene.states[0].fresh.counts), dtype=torch.long)
    heads.at_depth(1).eh_proj.weight.mul_(2.0)
    assert heads.draft_chain(scene.states[0], base, 2) is None
    draft_natively(heads, trunk)
    assert heads.draft_chain(scene.states[0], base, 2) is not None


def test_copies_have_no_packed_weights_until_asked() -> None:
    trunk = made("moonshine")
    heads = head_set(trunk, 0)
    for other, others in (copy.deepcopy((trunk, heads)), pickle.loads(pickle.dumps((trunk, heads)))):
        assert other.native is None and others.native is None
        use_native(other)
        with torch.inference_mode():
            assert other.native is not None and same(called(other), called(trunk))


def test_unknown_layers_say_so() -> None:
    config = transformers.GemmaConfig(
        vocab_size=12, hidden_size=16, intermediate_size=20, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, pad_token_id=0,
    )  # fmt: skip
    trunk = Trunk(transformers.GemmaForCausalLM(config).eval().requires_grad_(False))
    use_native(trunk)
    assert trunk.native is None
    assert trunk.native_problem == "GemmaForCausalLM has layers that the native step does not know"


def test_too_many_weights_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_form, "MAX_WEIGHTS", 1000)
    trunk = made("llama", False)
    use_native(trunk)
    assert trunk.native is None and "million weights" in trunk.native_problem


def otherwise(trunk: Trunk, what: str) -> None:
    """Let known layers compute something else than their class does."""
    layers: Any = trunk._decoder.layers
    for layer in layers:
        if what == "scale":
            layer.self_attn.scaling *= 1.01
        elif what == "activation":
            layer.mlp.act_fn = nn.ReLU()
        elif what == "norm":
            layer.input_layernorm.register_forward_hook(lambda module, given, out: out * 1.01)
        elif what == "named activation":
            trunk.model.config.hidden_act = "gelu"


@pytest.mark.parametrize("what", ["scale", "activation", "norm", "named activation"])
def test_layers_that_compute_something_else_are_refused(what: str) -> None:
    trunk = made("llama", False)
    otherwise(trunk, what)
    use_native(trunk)
    assert trunk.native is None
    assert "activation is gelu" in trunk.native_problem if what == "named activation" else (
        "its states differ by" in trunk.native_problem
    )  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
@FAMILY
def test_the_default_dtype_changes_nothing(family: str, dtype: torch.dtype) -> None:
    """Whoever changes it gets no memory of another size."""
    trunk = made(family)
    heads = head_set(trunk, 2)
    hidden = torch.randn(40, trunk.width, generator=tiny.generator(0))

    def all_of() -> list[Any]:
        states = called(trunk, 0, 2000 if trunk.last_position is None else 30)
        scene = Drafts(trunk, heads, heads.native, 0)
        scene.ways = (heads.native,)
        state = scene.started()[0]
        base = torch.zeros(len(state.fresh.counts), dtype=torch.long)
        return [states.hidden, states.taps, trunk.choose(hidden), *heads.draft_chain(state, base, 3)]

    with torch.inference_mode():
        expected, before = all_of(), torch.get_default_dtype()
        draw, torch.randn = torch.randn, partial(torch.randn, dtype=torch.float32)
        torch.set_default_dtype(dtype)
        use_native(trunk)
        draft_natively(heads, trunk)
        try:
            for mine, theirs in zip(all_of(), expected):
                assert mine.dtype == theirs.dtype and apart(mine, theirs) <= CLOSE
        finally:
            torch.set_default_dtype(before)
            torch.randn = draw


@torch.inference_mode()
@FAMILY
def test_keys_that_modules_wrote_under_autocast_are_read_as_they_are(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    trunk = made(family)
    expected = called(trunk)
    monkeypatch.setattr("speechmtp.models.trunk.NATIVE_ENTRIES", 4)

    def changed() -> None:
        monkeypatch.setattr("speechmtp.models.trunk.NATIVE_ENTRIES", 5)

    with torch.autocast("cpu", torch.bfloat16):
        mixed = called(trunk, between=changed)
    assert 0 < apart(mixed.hidden, expected.hidden) <= 0.1


def test_large_working_memory_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder, "KEPT", 1 << 16)
    first = decoder.working(1 << 20)
    assert decoder.working(1 << 20) == first and decoder._HERE.work.numel() == 1 << 20
    decoder.working(5)
    assert decoder._HERE.work.numel() == 1 << 16


@torch.inference_mode()
@pytest.mark.parametrize("size", [Sizes(), Sizes(12, 2, 2, 6)])
def test_a_row_that_hears_nothing_adds_nothing(size: Sizes) -> None:
    trunk = native_models.built("moonshine", size)
    use_native(trunk)
    rng, found = tiny.generator(0), []
    memory, entries = (torch.randn(2, 3, size.width, generator=rng) for _ in range(2))
    for rows in (slice(0, 2), slice(1, 2)):
        cache, lengths = trunk.new_cache(0), torch.tensor([0, 3])[rows]
        trunk.join(cache, Prompt(entries[rows], lengths[:, None], lengths, lengths, memory[rows], lengths))
        found.append(trunk.extend(entries[rows], torch.arange(3).expand(len(lengths), 3), None, cache).hidden)
    assert bool(found[0].isfinite().all()) and torch.equal(found[0][1:], found[1])


@torch.inference_mode()
def test_positions_below_0_are_an_error() -> None:
    trunk = made("llama")
    with pytest.raises(ShapeError, match="position -1, expected 0 or more"):
        trunk.extend(torch.zeros(1, 1, trunk.width), torch.tensor([[-1]]), None, trunk.new_cache(1))


@torch.inference_mode()
def test_long_prompts_run_on_modules_and_what_follows_natively(monkeypatch: pytest.MonkeyPatch) -> None:
    trunk = made("qwen3")
    expected = by_modules(trunk)
    monkeypatch.setattr("speechmtp.models.trunk.NATIVE_ENTRIES", 4)
    assert same(called(trunk), expected)
    monkeypatch.setattr("speechmtp.models.trunk.NATIVE_ENTRIES", 5)
    assert apart(called(trunk).hidden, expected.hidden) <= CLOSE and not same(called(trunk), expected)


@FAMILY
def test_threads_that_share_a_step_have_what_each_has_alone(family: str) -> None:
    """Also while one of them lengthens the table of rotary positions, which all read."""
    alone, shared, wrong = made(family), made(family), []
    fars = [30 if alone.last_position is not None else 30 + 40 * seed for seed in range(40)]
    with torch.inference_mode():
        expected = [called(alone, seed, far) for seed, far in enumerate(fars)]

    def run(seeds: list[int]) -> None:
        with torch.inference_mode():
            for seed in seeds:
                if not same(called(shared, seed, fars[seed]), expected[seed]):
                    wrong.append(seed)

    orders = ([*range(0, 40)], [*range(39, -1, -1)])
    threads = [threading.Thread(target=run, args=(order,)) for order in orders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_threads_that_share_heads_draft_what_each_does_alone() -> None:
    trunk = made("moonshine")
    heads = head_set(trunk, 2)

    def draft(seed: int) -> tuple[Tensor, Tensor]:
        scene = Drafts(trunk, heads, heads.native, seed)
        scene.ways, scene.far = (heads.native,), 30 + 300 * seed
        with torch.inference_mode():
            state = scene.started()[0]
            base = torch.full((len(state.fresh.counts),), seed % trunk.vocab_size)
            found = heads.draft_chain(state, base, 4)
        assert found is not None
        return found

    expected, wrong = [draft(seed) for seed in range(20)], []
    draft_natively(heads, trunk)  # with a short table again

    def run(seeds: list[int]) -> None:
        for seed in seeds:
            if not all(map(torch.equal, draft(seed), expected[seed])):
                wrong.append(seed)

    threads = [threading.Thread(target=run, args=(order,)) for order in ([*range(20)], [*range(19, -1, -1)])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
