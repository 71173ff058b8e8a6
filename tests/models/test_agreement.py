"""A trunk is its model: what transformers' classes do to logits is done, and what a trunk cannot do is refused."""

from collections.abc import Callable
from typing import Any

import pytest
import tiny
import torch
import transformers
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, LlamaModel, PreTrainedModel

from speechmtp.errors import ConfigError
from speechmtp.heads.chain import ChainHeadsConfig
from speechmtp.heads.latent import LatentHeadsConfig
from speechmtp.heads.table import build_heads
from speechmtp.models.trunk import Trunk

SIZES: dict[str, Any] = {
    "vocab_size": 23, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2, "head_dim": 8, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
    "tie_word_embeddings": False,
}  # fmt: skip
LATENT = {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8}
FULL = {"layer_types": ["full_attention"] * 2, "sliding_window": 4}
CONFIGS = {"Gemma3n": "Gemma3nTextConfig"}
GEMMA3N = {
    "hidden_size_per_layer_input": 4, "vocab_size_per_layer_input": 23, "num_kv_shared_layers": 0, "laurel_rank": 4,
    "activation_sparsity_pattern": [0.0, 0.0], "intermediate_size": [24, 24], **FULL,
}  # fmt: skip
TAILED: list[tuple[str, dict[str, Any]]] = [
    ("Granite", {"logits_scaling": 5.0}),
    ("GraniteMoe", {"logits_scaling": 3.0, "num_local_experts": 2, "num_experts_per_tok": 1}),
    ("Cohere", {"logit_scale": 0.2}),
    ("Cohere2", {"logit_scale": 0.7, **FULL}),
    ("HyperCLOVAX", {"logits_scaling": 1.5}),
    ("MiniCPM3", {"dim_model_base": 4, **LATENT}),
    ("NanoChat", {"final_logit_softcapping": 2.0}),
    ("Gemma2", {"final_logit_softcapping": 3.0, "attn_logit_softcapping": 1.0, **FULL}),
]


def built(name: str, seed: int = 0, **given: Any) -> PreTrainedModel:
    """A model of SIZES and `given` with random weights, in float64."""
    torch.manual_seed(seed)
    config = getattr(transformers, CONFIGS.get(name, f"{name}Config"))(**SIZES | given)
    config._experts_implementation = "eager"
    model: PreTrainedModel = getattr(transformers, f"{name}ForCausalLM")(config)
    tiny.randomise(model, seed, 2.0)
    return model


@torch.no_grad()
@pytest.mark.parametrize(("name", "given"), TAILED, ids=[name for name, _ in TAILED])
def test_logits_are_the_models_own_behind_the_unembedding_too(name: str, given: dict[str, Any]) -> None:
    model = built(name, **given)
    ids = torch.randint(3, 23, (2, 7), generator=tiny.generator(1))
    wanted = model(input_ids=ids).logits
    trunk = Trunk(model).eval()
    raw = trunk.unembedding()(hidden := trunk.extend(
        trunk.embed(ids), torch.arange(7).expand(2, -1), None, trunk.new_cache(2)).hidden)  # fmt: skip
    torch.testing.assert_close(trunk.unembed(hidden), wanted, rtol=0, atol=1e-6)
    assert float((raw - wanted).abs().max()) > 0.1, "the tail has to matter"
    heads = build_heads(LatentHeadsConfig(2), trunk.shape).double()
    torch.testing.assert_close(heads.narrow(trunk)(hidden), trunk.unembed(hidden))


@torch.no_grad()
def test_heads_in_8_bits_have_the_tail_too() -> None:
    trunk = Trunk(built("NanoChat", final_logit_softcapping=0.5).float()).eval()
    heads = build_heads(LatentHeadsConfig(2, shortlist=9), trunk.shape)
    hidden = torch.randn(3, 16, generator=tiny.generator(0))
    wanted = heads.narrow(trunk)(hidden)
    heads.draft_in_int8(trunk)
    torch.testing.assert_close(heads.narrow(trunk)(hidden), wanted, rtol=0, atol=0.05)
    assert float(wanted.abs().max()) > 0.3


class _Adds(LlamaForCausalLM):
    """A constant behind the unembedding, of which its configuration says nothing."""

    def forward(self, *args: Any, **given: Any) -> Any:
        out = super().forward(*args, **given)
        out.logits = out.logits + torch.arange(23.0)
        return out


class _ReadsIds(LlamaForCausalLM):
    """States that depend on token ids."""

    def forward(self, input_ids: Tensor, **given: Any) -> Any:
        embeddings = self.get_input_embeddings()(input_ids) + 0.3 * (input_ids % 3)[..., None]
        return super().forward(inputs_embeds=embeddings, **given)


class _Changed(LlamaForCausalLM):
    """Other arguments for its decoder than those given."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.model.__class__ = self.decoder_class  # type: ignore[attr-defined]


class _CountingModel(LlamaModel):
    def forward(self, position_ids: Any = None, cache: Any = None, **given: Any) -> Any:  # type: ignore[override]
        size = (given.get("input_ids") if given.get("input_ids") is not None else given["inputs_embeds"]).shape[1]
        done = 0 if cache is None else cache.get_seq_length()
        positions = torch.arange(done, done + size)[None]
        return super().forward(position_ids=positions, cache=cache, **given)


class _Counting(_Changed):
    """Positions that are counted from the cache."""

    decoder_class = _CountingModel


class _MasklessModel(LlamaModel):
    def forward(self, position_ids: Any = None, attention_mask: Any = None, cache: Any = None, **given: Any) -> Any:
        return super().forward(position_ids=position_ids, attention_mask=None, cache=cache, **given)


class _Maskless(_Changed):
    """A mask that is not read."""

    decoder_class = _MasklessModel


class _Cacheless(LlamaForCausalLM):
    """Hidden states that need more than keys and values."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.model.norm = _Sums()


class _Sums(nn.Module):
    def forward(self, hidden: Tensor) -> Tensor:
        return hidden.cumsum(1)


class _Headless(LlamaForCausalLM):
    def get_output_embeddings(self) -> Any:
        return None


class _Fails(LlamaForCausalLM):
    def forward(self, input_ids: Any = None, pictures: Any = None, **given: Any) -> Any:
        raise ValueError("pictures are\nneeded")


def _damaged() -> PreTrainedModel:
    model = built("Llama")
    with torch.no_grad():
        model.lm_head.weight[3] = torch.nan
    return model


def _odd(kind: type[PreTrainedModel]) -> PreTrainedModel:
    torch.manual_seed(0)
    model = kind(LlamaConfig(**SIZES))
    tiny.randomise(model, 0, 2.0)
    return model


def _gpt2() -> PreTrainedModel:
    return GPT2LMHeadModel(GPT2Config(vocab_size=23, n_layer=1, n_head=2, n_embd=16))


ROPE = {"rope_theta": 10000.0, "factor": 2.0, "original_max_position_embeddings": 8}
REFUSED: list[tuple[str, Callable[[], PreTrainedModel], str]] = [
    ("adds", lambda: _odd(_Adds), r"_Adds's own forward gives other logits .*differ by .* of the largest"),
    ("ids", lambda: _odd(_ReadsIds), "own forward gives other logits"),
    ("positions", lambda: _odd(_Counting), "own forward gives other logits|cannot be run on embeddings"),
    ("mask", lambda: _odd(_Maskless), "own forward gives other logits"),
    ("cache", lambda: _odd(_Cacheless), "own forward gives other logits"),
    ("no output layer", lambda: _odd(_Headless), "_Headless cannot be a trunk|_Headless does not run"),
    ("fails", lambda: _odd(_Fails), r"_Fails does not run on two short texts \(ValueError: pictures are needed\)"),
    ("damaged", _damaged, "LlamaForCausalLM gives logits that are not finite"),
    ("dynamic", lambda: built("Llama", rope_parameters=ROPE | {"rope_type": "dynamic"}), "positions of type dynamic"),
    (
        "longrope",
        lambda: built("Phi3", rope_parameters=ROPE | {
            "rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4}),
        "positions of type longrope",
    ),
    ("layers that read token ids", lambda: built("Gemma3n", **GEMMA3N), "own forward gives other logits"),
    ("keys", lambda: built("Doge", keep_window_size=4), "chooses the keys that a query sees"),
    ("no layers", _gpt2, "has no list `layers` to read"),
]  # fmt: skip


@pytest.mark.parametrize(("what", "make", "message"), REFUSED, ids=[what for what, _, _ in REFUSED])
def test_what_a_trunk_cannot_do_is_refused_in_one_line(
    what: str, make: Callable[[], PreTrainedModel], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        Trunk(make())
    assert "\n" not in str(caught.value) and str(caught.value).startswith("trunk: ")


def test_looking_changes_nothing() -> None:
    model = built("Llama", attention_dropout=0.5)
    model.set_attn_implementation("eager")
    model.train()
    model.model.layers[0].eval()
    state = torch.random.get_rng_state()
    Trunk(model)
    assert model.training and not model.model.layers[0].training and model.config._attn_implementation == "eager"
    assert torch.equal(state, torch.random.get_rng_state()) and not model.lm_head._forward_hooks


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("Gemma2", {"attn_logit_softcapping": 0.5, **FULL}),
        ("VaultGemma", {"attn_logit_softcapping": 0.5, **FULL}),
        ("GptOss", {"num_local_experts": 2, "num_experts_per_tok": 1, **FULL}),
    ],
)
def test_attention_that_sdpa_lacks_stays_eager(name: str, given: dict[str, Any]) -> None:
    trunk = Trunk(built(name, **given))
    if trunk.model._supports_sdpa:
        pytest.skip("this version of transformers runs it with SDPA")
    prompt = tiny.prompts(trunk, [5], 2)
    found = []
    for mode in (True, False):
        trunk.train(mode)
        assert trunk.model.config._attn_implementation == "eager"
        found.append(trunk.extend(prompt.embeddings, prompt.positions, None, trunk.new_cache(1)).hidden)
    torch.testing.assert_close(found[0], found[1])


@torch.no_grad()
def test_norms_without_weights_and_layers_of_two_attentions() -> None:
    trunk = Trunk(built("NanoChat")).eval()
    build_heads(ChainHeadsConfig(2), trunk.shape).start_from(trunk)
    assert "final_norm.weight" not in trunk.last_layer()
    given = {"num_layers": 2, "n_routed_experts": 2, "zero_expert_num": 1, "moe_topk": 2, "ffn_hidden_size": 24}
    trunk = Trunk(built("LongcatFlash", num_hidden_layers=4, expert_ffn_hidden_size=8, **LATENT, **given)).eval()
    ids = torch.tensor([[4, 7, 5]])
    states = trunk.extend(trunk.embed(ids), torch.arange(3)[None], None, trunk.new_cache(1), (2,))
    torch.testing.assert_close(trunk.unembed(states.hidden), trunk.model(input_ids=ids).logits, rtol=0, atol=1e-6)
    assert states.taps is not None and trunk.layers == 2
