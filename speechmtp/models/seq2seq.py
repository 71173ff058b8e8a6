"""The decoder of an encoder-decoder speech model of transformers (Moonshine, Whisper) as a trunk.

Every layer attends to the encoder outputs (`memory`), which are fixed for a row; self-attention runs on the ragged
cache. The cross-attention keys and values are computed by the model's own layers when a row joins, and then kept.
"""

import inspect
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from speechmtp.errors import ConfigError, ShapeError
from speechmtp.kernels.cpu.decoder import slots_of
from speechmtp.models.cache import RaggedCache
from speechmtp.models.lean_model import LeanModel
from speechmtp.models.masks import memory_mask
from speechmtp.models.memory_cache import MemoryCache
from speechmtp.models.shape import TrunkShape
from speechmtp.models.taps import lay_hook, reading
from speechmtp.models.trunk import Trunk
from speechmtp.types import Prompt

# Names of a decoder layer's parts in Moonshine and Whisper, and in the layers of heads.
_RENAMED = (
    {"post_attention_layernorm": "encoder_attn_layernorm", "final_layernorm": "post_attention_layernorm"},
    {
        "self_attn_layer_norm": "input_layernorm", "encoder_attn_layer_norm": "encoder_attn_layernorm",
        "final_layer_norm": "post_attention_layernorm",
    },
)  # fmt: skip


class Seq2SeqTrunk(Trunk):
    """`embed`, `extend`, `unembed` over the decoder of `model`. `never` are ids that the model itself never emits;
    only `teacher_logits` suppresses them, in decoding the request's rules do. `model` is a transformers model or a
    `LeanModel`."""

    never: Tensor | None

    def __init__(self, model: Any, never: tuple[int, ...] = ()) -> None:
        super().__init__(model, tried=True)
        decoder: Any = self._decoder
        # Whisper's decoder attends to all encoder outputs and takes no mask for them.
        self._masks_memory = "encoder_attention_mask" in inspect.signature(type(decoder).forward).parameters
        self.register_buffer("never", torch.tensor(never, dtype=torch.long) if never else None, persistent=False)

    @cached_property
    def _embedding(self) -> nn.Module:
        embedding: nn.Module = self._decoder.embed_tokens  # type: ignore[assignment]
        return embedding

    @cached_property
    def _cache_type(self) -> type[MemoryCache]:
        if isinstance(self.model, LeanModel):
            return MemoryCache
        from speechmtp.models.hub_cache import HubMemoryCache

        return HubMemoryCache

    @property
    def shape(self) -> TrunkShape:
        """Sizes that heads need."""
        config: Any = self.model.config
        attention: Any = self._decoder.layers[-1].self_attn  # type: ignore[index, union-attr]
        heads = int(getattr(config, "decoder_attention_heads", None) or config.decoder_num_attention_heads)
        size = self.width // heads
        rope = getattr(config, "rope_parameters", None) or {}
        norm: Any = self._norm
        groups, turned = getattr(attention, "num_key_value_groups", 1), float(rope.get("partial_rotary_factor", 1.0))
        return TrunkShape(
            self.width, self.vocab_size, self.layers, heads, heads // groups, size,
            int(getattr(config, "decoder_ffn_dim", None) or config.intermediate_size),
            float(rope.get("rope_theta", 10000.0)), float(norm.eps), memory_width=self.width, norm="layer",
            norm_bias=norm.bias is not None, rotary_dim=int(size * turned) // 2 * 2,
        )  # fmt: skip

    @property
    def _norm(self) -> nn.Module:
        decoder: Any = self._decoder
        norm: nn.Module = decoder.norm if hasattr(decoder, "norm") else decoder.layer_norm
        return norm

    def last_layer(self) -> dict[str, Tensor]:
        """Return the weights of the last layer, named as in the heads' layers, and those of the final norm."""
        layer: Any = self._decoder.layers[-1]  # type: ignore[index]
        weights = dict(_renamed({name: weight.detach() for name, weight in layer.state_dict().items()}))
        if self.last_position is None:  # Moonshine rotates pairs of neighbours, the heads' layers rotate halves
            order = _halves(self.shape).to(weights["self_attn.q_proj.weight"].device)
            for name in ("self_attn.q_proj.weight", "self_attn.k_proj.weight"):
                weights[name] = weights[name].unflatten(0, (-1, len(order)))[:, order].flatten(0, 1)
        return weights | {f"final_norm.{name}": weight.detach() for name, weight in self._norm.named_parameters()}

    def teacher_logits(self, hidden: Tensor) -> Tensor:
        """Return logits [..., V] of trunk states [..., C], the lowest finite number at ids in `never`."""
        logits: Tensor = self.unembed(hidden)
        if self.never is None:
            return logits
        return logits.index_fill(-1, self.never, torch.finfo(logits.dtype).min)

    def new_cache(self, rows: int, prompt: Prompt | None = None, slots: int = 0) -> RaggedCache:
        """Return an empty cache for `rows` rows with the encoder outputs of `prompt`; without a prompt those of
        `silence`, for timing."""
        weight = self.unembedding().weight
        cache = self._cache_type(self.layers, weight.device, slots or rows)
        if rows:
            silent = prompt is None or prompt.memory is None
            memory = self.silence(rows) if prompt is None or silent else prompt.memory
            assert memory is not None
            self._remember(cache, memory, None if prompt is None or silent else prompt.memory_lengths)
        return cache

    @torch.no_grad()
    def attention_shares(self, ids: Sequence[int], memory: Tensor, heads: Sequence[tuple[int, int]]) -> Tensor:
        """Return the shares [Q, S] of cross-attention to encoder outputs `memory` [1, S, E] that the entries of token
        `ids` [Q] give, in the mean of `heads`, pairs of layer and head; never natively. ConfigError for a head that
        does not exist."""
        layers: Any = self._decoder.layers
        shape, total = self.shape, torch.zeros(len(ids), memory.shape[1], device=memory.device)
        wrong = [f"{layer}.{head}" for layer, head in heads if not (layer < self.layers and head < shape.heads)]
        if wrong:
            raise ConfigError(
                f"trunk: no cross-attention head {wrong[0]}, expected {self.layers} layers of {shape.heads}"
            )
        chosen = sorted({layer for layer, _ in heads})
        for layer in chosen:
            lay_hook(layers[layer].encoder_attn.q_proj, -1 - layer)  # positive numbers are those of taps
        tokens = torch.tensor([list(ids)], device=memory.device)
        entries = self.embed(tokens).to(memory.dtype)
        with reading(entries) as found:
            self(entries, torch.arange(len(ids), device=memory.device)[None], torch.zeros_like(tokens), memory=memory)
        for layer in chosen:
            mine = [head for number, head in heads if number == layer]
            keys = layers[layer].encoder_attn.k_proj(memory)[0].unflatten(-1, (shape.kv_heads, -1)).transpose(0, 1)
            keys = keys.repeat_interleave(shape.heads // shape.kv_heads, 0)[mine]
            queries = found[-1 - layer][0].unflatten(-1, (shape.heads, -1)).transpose(0, 1)[mine]
            scale = layers[layer].encoder_attn.scaling
            total += (torch.matmul(queries, keys.mT).float() * scale).softmax(-1).sum(0)
        return total / len(heads)

    def silence(self, rows: int) -> Tensor:
        """Return zeros [B, S, E] as encoder outputs: 1500 steps (30 s) for Whisper, 400 (10 s) for Moonshine."""
        return self.unembedding().weight.new_zeros(rows, 400 if self._masks_memory else 1500, self.width)

    def join(self, cache: RaggedCache, prompt: Prompt, memory_sizes: Sequence[int] | None = None) -> None:
        """Append rows for a batch of prompts; the model's own layers compute their cross-attention keys and values."""
        assert isinstance(cache, MemoryCache) and prompt.memory is not None
        self._remember(cache, prompt.memory, prompt.memory_lengths if memory_sizes is None else memory_sizes)

    def _remember(self, cache: MemoryCache, memory: Tensor, lengths: Tensor | Sequence[int] | None) -> None:
        rows, size, _ = memory.shape
        sizes = [size] * rows if lengths is None else lengths.tolist() if isinstance(lengths, Tensor) else list(lengths)
        self._check([*cache.memory.known, *sizes])
        shape, states = self.shape, self._native_keys(memory, sizes)
        layers: Any = self._decoder.layers
        for layer in layers if not states else ():
            parts = (layer.encoder_attn.k_proj(memory), layer.encoder_attn.v_proj(memory))
            keys, values = (part.view(rows, size, shape.kv_heads, -1).transpose(1, 2) for part in parts)
            states.append((keys, values))
        cache.memory.join(states, sizes)
        cache.add(rows)

    def _native_keys(self, memory: Tensor, sizes: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
        """Every layer's keys and values of encoder outputs [B, S, E] natively; nothing where that cannot be."""
        native = self._usable(memory)
        return [] if native is None else native.remember(memory, sizes)

    def _check(self, sizes: Sequence[int]) -> None:
        if not self._masks_memory and len(set(sizes)) > 1:
            raise ShapeError(
                f"trunk: encoder outputs of {sorted(set(sizes))} entries in a batch, expected one length: "
                f"{type(self.model).__name__} looks at padding; pad the audio itself"
            )

    def _native_memory(self, cache: RaggedCache) -> tuple[Any, Tensor | None, int]:
        """The native step's cross-attention slots, their lengths [B] and the longest."""
        assert isinstance(cache, MemoryCache)
        lengths = cache.memory.known[cache.first : cache.last]
        return slots_of(cache.memory.states, cache.first), torch.tensor(lengths, device="cpu"), max(lengths)

    def _arguments(
        self, positions: Tensor, cache: RaggedCache | None, memory: Tensor | None, memory_lengths: Tensor | None
    ) -> dict[str, Any]:
        """Return the decoder's arguments besides entries and mask; with a cache, it has the cross-attention keys."""
        positions = self._within(positions, cache)
        if cache is not None:
            assert isinstance(cache, MemoryCache)
            # Its keys and values are cached; the decoder only checks that it is given, and its length.
            memory = self.unembedding().weight.new_zeros(1).expand(cache.count, cache.entries, self.width)
            mask, extra = cache.mask, {self._cache_name: cache.pair, "use_cache": True}
        else:
            assert memory is not None
            self._check([memory.shape[1], *([] if memory_lengths is None else memory_lengths.tolist())])
            mask, extra = memory_mask(memory, memory_lengths), {"use_cache": False}
        return {"position_ids": positions, "encoder_hidden_states": memory, **extra,
                **({"encoder_attention_mask": mask} if self._masks_memory else {})}  # fmt: skip


def _renamed(weights: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Yield weights under the names of the heads' layers; a gated MLP's first matrix holds values, then gates."""
    names = _RENAMED["self_attn_layer_norm.weight" in weights]
    for name, weight in weights.items():
        part, dot, rest = name.partition(".")
        if name == "mlp.fc1.weight" and "mlp.fc2.weight" in weights:
            half = weights["mlp.fc2.weight"].shape[1]
            yield "mlp.up_proj.weight", weight[:half]
            yield "mlp.gate_proj.weight", weight[half:]
            yield "mlp.down_proj.weight", weights["mlp.fc2.weight"]
        else:
            yield names.get(part, part) + dot + rest.replace("out_proj", "o_proj"), weight


def _halves(shape: TrunkShape) -> Tensor:
    """Return the order that turns a head's numbers from interleaved rotary pairs to halves."""
    turned = torch.arange(shape.rotary_dim)
    return torch.cat([turned[::2], turned[1::2], torch.arange(shape.rotary_dim, shape.head_dim)])
