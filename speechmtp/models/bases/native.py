"""Which trunks run natively on a CPU, and their layers as the native library takes them.

Only layers that are known by name (`FORMS`) run natively, and only if on a short text they give what the model's own
modules give.
"""

import ctypes
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from speechmtp.ancestors import ancestors_of
from speechmtp.errors import ShapeError
from speechmtp.kernels.cpu.decoder import NativeDecoder, RotaryTable
from speechmtp.kernels.cpu.library import native_library, native_reason
from speechmtp.kernels.cpu.structs import Builder, bind
from speechmtp.models.native_layers import LayerForm, LayerParts
from speechmtp.models.norms import final_norm
from speechmtp.models.trunk import Trunk
from speechmtp.types import Prompt

MAX_WEIGHTS = 100_000_000  # of layers and unembedding; larger trunks are left to PyTorch, unmeasured
TOLERANCE = 1e-4  # largest difference of states on a short text, relative to the largest state


_CAUSAL = LayerForm(("input_layernorm", "post_attention_layernorm"))
FORMS = {
    "LlamaDecoderLayer": _CAUSAL,
    "MistralDecoderLayer": _CAUSAL,
    "Qwen2DecoderLayer": _CAUSAL,
    "Qwen3DecoderLayer": _CAUSAL,
    "MoonshineDecoderLayer": LayerForm(
        ("input_layernorm", "post_attention_layernorm", "final_layernorm"), gates="joined", rotary="neighbours"
    ),
    "WhisperDecoderLayer": LayerForm(
        ("self_attn_layer_norm", "encoder_attn_layer_norm", "final_layer_norm"), out="out_proj", gates="none",
        rotary="none", activation="gelu",
    ),
}  # fmt: skip


def use_native(trunk: Trunk) -> None:
    """Let a trunk run natively from now on, if it can; `trunk.native_problem` says why it cannot. ConfigError if
    `SPEECHMTP_KERNELS` is unknown, or asks for a library that cannot be had."""
    trunk.native, trunk.native_problem = None, _problem(trunk)
    if trunk.native_problem:
        return
    library = native_library()
    if library is None:
        trunk.native_problem = native_reason()
        return
    native = _built(trunk, bind(library))
    problem = _difference(trunk, native)
    trunk.native, trunk.native_problem = None if problem else native, problem


def _problem(trunk: Trunk) -> str:
    """Why a trunk cannot run natively, as far as is known without running it; empty if it can."""
    decoder: Any = trunk._decoder
    weights = [*decoder.parameters(), *trunk.unembedding().parameters()]
    form = FORMS.get(type(decoder.layers[0]).__name__) if trunk.layers else None
    if form is None:
        return f"{type(trunk.model).__name__} has layers that the native step does not know"
    if any(not w.is_cpu or w.dtype != torch.float32 for w in weights):
        return "it computes in another dtype than float32 or on another device than a CPU"
    if sum(w.numel() for w in {id(w): w for w in weights}.values()) > MAX_WEIGHTS:
        return f"it has more than {MAX_WEIGHTS // 1_000_000} million weights"
    config = trunk.model.config.get_text_config(decoder=True)
    names = ("hidden_act", "decoder_hidden_act", "activation_function")
    said = {getattr(config, name) for name in names if getattr(config, name, None)}
    if said != {form.activation}:
        return f"its activation is {', '.join(sorted(said)) or 'not named'}, not {form.activation}"
    modules = [module for layer in decoder.layers for module in layer.modules() if hasattr(module, "weight")]
    if any(hasattr(module, "base_layer") for module in modules):
        return "it has adapters that are not merged"
    if getattr(config, "pad_head_dim_to_multiple_of", None):
        return "its heads are padded"
    if form.rotary != "none" and _turned(_angles(decoder)) > trunk.shape.head_dim:
        return "its rotary positions are wider than its heads"
    return ""


def _built(trunk: Trunk, library: ctypes.CDLL) -> NativeDecoder:
    decoder: Any = trunk._decoder
    form = FORMS[type(decoder.layers[0]).__name__]
    builder = Builder(library.speechmtp_cpu_panel())
    angles = None if form.rotary == "none" else _angles(decoder)
    parts = LayerParts(builder, form, trunk.shape, 0 if angles is None else _turned(angles))
    layers = [parts.layer(layer) for layer in decoder.layers]
    rotary = None if angles is None else RotaryTable(angles)
    norm, output = final_norm(decoder), trunk.unembedding()
    behind = builder.norm("none", trunk.width) if norm is None else parts.norm(norm, trunk.width)
    unembedding = builder.linear(output.weight, output.bias)
    learned = next((m.weight for n, m in decoder.named_children() if isinstance(m, nn.Embedding) and "position" in n),
                   None)  # fmt: skip
    return NativeDecoder(library, layers, behind, unembedding, builder, rotary, learned, output,
                         list(decoder.parameters()))  # fmt: skip


def _angles(decoder: Any) -> Callable[[int], tuple[Tensor, Tensor]]:
    """Return the function that gives the cosines and sines of the decoder's own rotary positions."""
    module = decoder.rotary_emb

    def angles(positions: int) -> tuple[Tensor, Tensor]:
        with torch.inference_mode():
            like = torch.zeros(1, 1, 1, dtype=torch.float32, device="cpu")
            cosines, sines = module(like, torch.arange(positions, device="cpu")[None])
        half = cosines.shape[-1] // 2
        return cosines[0, :, :half], sines[0, :, :half]

    return angles


def _turned(angles: Callable[[int], tuple[Tensor, Tensor]]) -> int:
    """How many numbers of each head are rotated: the model's own table says it, whatever the settings round to."""
    return 2 * angles(1)[0].shape[1]


@torch.inference_mode()
def _difference(trunk: Trunk, native: NativeDecoder) -> str:
    """Say how native states differ from those of the model's own modules on two short texts; empty if they do not."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(trunk.vocab_size, (2, 8), generator=generator)
    steps = torch.arange(8).expand(2, -1)
    memory = torch.randn(2, 8, trunk.width, generator=generator, dtype=torch.float32)
    prompt = Prompt(trunk.embed(ids), steps, steps[:, -1] + 1, steps[:, -1] + 1, memory)
    parent = torch.tensor([[-1, -1, 1, 0]] * 2)  # a tree behind 4 and 3 entries
    found = []
    try:
        for decoder in (None, native):
            trunk.native = decoder
            cache = trunk.new_cache(2, prompt)
            first = trunk.extend(prompt.embeddings[:, :4], steps[:, :4], None, cache, (trunk.layers,))
            cache.commit([4, 3])
            behind = trunk.extend(prompt.embeddings[:, 4:], steps[:, 3:7], ancestors_of(parent), cache)
            assert first.taps is not None
            found.append(torch.cat([first.hidden, first.taps[:, :, 0], behind.hidden, trunk.unembed(behind.hidden)], 2))
    except (RuntimeError, TypeError, AttributeError, ShapeError) as error:
        return f"a short text cannot be run ({' '.join(str(error).split())[:200]})"
    finally:
        trunk.native = None
    apart = float((found[0] - found[1]).abs().max() / found[0].abs().max())
    return "" if apart <= TOLERANCE else f"its states differ by {apart:.1e} from those of the model's own modules"
