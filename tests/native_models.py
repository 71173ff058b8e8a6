"""Tiny decoders in float32 of every kind that runs natively, with weights of every form that is packed."""

from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import tiny
import torch
import transformers
from torch import Tensor, nn

from speechmtp.kernels.cpu.decoder import NativeDecoder
from speechmtp.kernels.cpu.int8_linear import quantise
from speechmtp.kernels.cpu.library import find_native
from speechmtp.models.bases.native import use_native
from speechmtp.models.seq2seq import Seq2SeqTrunk
from speechmtp.models.trunk import Trunk

FORMS = ("half", "int8", "float", "mixed")
MODELS = 12  # of each family
NATIVE = pytest.mark.skipif(find_native().library is None, reason="the native library cannot be had here")


@dataclass(frozen=True)
class Sizes:
    """Sizes of a tiny decoder."""

    width: int = 24
    heads: int = 2
    kv_heads: int = 2
    dim: int = 12
    ff: int = 40
    vocab: int = 37
    layers: int = 2


# Widths that fill no panel, heads narrower than a vector, wider than five vectors, and in groups.
CAUSAL = (
    Sizes(), Sizes(20, 4, 2, 6, 36, 33), Sizes(64, 4, 1, 16, 52, 48), Sizes(40, 2, 1, 72, 44, 50, 1),
    Sizes(72, 2, 2, 36, 80, 65), Sizes(24, 6, 2, 2, 30, 5, 3), Sizes(64, 2, 2, 32, 96, 64),
    Sizes(66, 1, 1, 64, 48, 16, 1), Sizes(33, 3, 1, 8, 17, 19),
)  # fmt: skip
SPLIT = tuple(size for size in CAUSAL if size.width == size.heads * size.dim)  # Moonshine and Whisper know no others
GROUPED = Sizes(48, 4, 2, 12, 36, 41)
ODD = Sizes(16, 2, 2, 8, 24, 11)  # Moonshine rotates 0.9 of 8 numbers, which are 8 then
FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "moonshine", "whisper")


def causal(family: str, size: Sizes, seed: int) -> nn.Module:
    """A causal LM of transformers; biases where the family can have them, half of the time."""
    sizes: dict[str, Any] = {
        "vocab_size": size.vocab, "hidden_size": size.width, "intermediate_size": size.ff, "head_dim": size.dim,
        "num_hidden_layers": size.layers, "num_attention_heads": size.heads, "num_key_value_heads": size.kv_heads,
        "tie_word_embeddings": bool(seed % 2), "pad_token_id": None, "bos_token_id": 1, "eos_token_id": 2,
        "rope_parameters": {"rope_type": "default", "rope_theta": 100.0},
    }  # fmt: skip
    if family == "mistral":
        sizes["sliding_window"] = None
    if family in ("llama", "qwen3"):
        sizes["attention_bias"] = seed % 3 == 0
    if family == "llama":
        sizes["mlp_bias"] = seed % 3 == 1
    name = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3"}[family]
    built: nn.Module = getattr(transformers, f"{name}ForCausalLM")(getattr(transformers, f"{name}Config")(**sizes))
    return built


def speech(family: str, size: Sizes) -> nn.Module:
    """A speech model of transformers with a decoder of this size."""
    if family == "whisper":
        return transformers.WhisperForConditionalGeneration(transformers.WhisperConfig(
            vocab_size=size.vocab, d_model=size.width, num_mel_bins=8, decoder_layers=size.layers, encoder_layers=1,
            decoder_attention_heads=size.heads, encoder_attention_heads=size.heads, encoder_ffn_dim=8,
            max_source_positions=9, decoder_ffn_dim=size.ff, max_target_positions=40, bos_token_id=1, eos_token_id=2,
            decoder_start_token_id=1, pad_token_id=2, suppress_tokens=None, begin_suppress_tokens=None,
        ))  # fmt: skip
    return transformers.MoonshineForConditionalGeneration(transformers.MoonshineConfig(
        vocab_size=size.vocab, hidden_size=size.width, intermediate_size=size.ff, encoder_num_hidden_layers=1,
        decoder_num_hidden_layers=size.layers, encoder_num_attention_heads=size.heads, bos_token_id=1, eos_token_id=2,
        decoder_num_attention_heads=size.heads, decoder_num_key_value_heads=size.kv_heads, decoder_start_token_id=1,
        encoder_num_key_value_heads=size.heads, pad_token_id=2, max_position_embeddings=64,
    ))  # fmt: skip


def stored(weight: Tensor, form: str) -> Tensor:
    """Weights [out, in] near the given ones that are packed in this form."""
    if form == "half":
        return weight.half().float()
    if form == "int8":
        integers, scale = quantise(weight)
        return integers * scale[:, None]
    return weight


def as_stored(module: nn.Module, form: str, seed: int) -> None:
    """Let all matrices of a model be such that they are packed in this form; `mixed`: each in another."""
    forms = torch.randint(3, (len(list(module.parameters())),), generator=tiny.generator(seed)).tolist()
    with torch.no_grad():
        for chosen, weight in zip(forms, module.parameters()):
            if weight.dim() == 2:
                weight.copy_(stored(weight, FORMS[chosen] if form == "mixed" else form))


def built(family: str, size: Sizes = CAUSAL[0], form: str = "float", seed: int = 0, gain: float = 1.5) -> Trunk:
    """A trunk in float32 that cannot be trained; nobody has asked for its native step."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        split = family in ("moonshine", "whisper")
        model: Any = speech(family, size) if split else causal(family, size, seed)
        tiny.randomise(model, seed, gain)
        model.float().requires_grad_(False)
        as_stored(model, form, seed)
        return (Seq2SeqTrunk(model) if split else Trunk(model)).eval()


@cache
def native(family: str, number: int) -> tuple[Trunk, NativeDecoder]:
    """A trunk of the family, one of `MODELS`, and its native step."""
    sizes = CAUSAL if family not in ("moonshine", "whisper") else SPLIT + (GROUPED, ODD) * (family == "moonshine")
    trunk = built(family, sizes[number % len(sizes)], FORMS[number % len(FORMS)], number)
    use_native(trunk)
    assert trunk.native is not None, trunk.native_problem
    return trunk, trunk.native
