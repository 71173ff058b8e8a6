"""The trunk: any transformers causal LM behind one face, on the ragged cache."""

import inspect
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from speechmtp.errors import CheckpointError, ConfigError, ShapeError
from speechmtp.models.cache import RaggedCache
from speechmtp.types import States


@dataclass(frozen=True)
class ScratchTrunkConfig:
    """A small decoder trained here from random weights."""

    kind: Literal["scratch"] = "scratch"
    family: Literal["llama", "qwen3"] = "llama"
    width: int = 128
    layers: int = 4
    heads: int = 4
    ff_width: int = 384
    rope_theta: float = 10000.0


@dataclass(frozen=True)
class PretrainedTrunkConfig:
    """A folder or hub name of a transformers causal LM; `train` says which of its weights move."""

    kind: Literal["pretrained"] = "pretrained"
    name: str = ""
    train: Literal["frozen", "lora", "full"] = "frozen"
    lora_rank: int = 16
    lora_alpha: int = 32


TrunkConfig = ScratchTrunkConfig | PretrainedTrunkConfig


def build_trunk(config: TrunkConfig, vocab_size: int) -> "Trunk":
    """A trunk for tokens 0..vocab_size-1."""
    if isinstance(config, PretrainedTrunkConfig):
        return _pretrained(config, vocab_size)
    sizes: dict[str, Any] = {
        "vocab_size": vocab_size, "hidden_size": config.width, "intermediate_size": config.ff_width,
        "num_hidden_layers": config.layers, "num_attention_heads": config.heads,
        "num_key_value_heads": config.heads, "head_dim": config.width // config.heads,
        "tie_word_embeddings": True, "pad_token_id": None, "bos_token_id": 1, "eos_token_id": 2,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
    }  # fmt: skip
    if config.width % config.heads or (config.width // config.heads) % 2:
        raise ConfigError(f"trunk: width {config.width} must be an even multiple of heads {config.heads}")
    model = (
        LlamaForCausalLM(LlamaConfig(**sizes)) if config.family == "llama" else Qwen3ForCausalLM(Qwen3Config(**sizes))
    )
    return Trunk(model)


def _pretrained(config: PretrainedTrunkConfig, vocab_size: int) -> "Trunk":
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(config.name, dtype=torch.float32)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"trunk: {config.name!r} cannot be loaded: {' '.join(str(error).split())}") from error
    if model.config.vocab_size != vocab_size:
        raise CheckpointError(
            f"trunk: {config.name!r} has {model.config.vocab_size} tokens, the tokenizer {vocab_size}; "
            f"a pretrained trunk must have been trained on this tokenizer"
        )
    if config.train == "lora":
        try:
            from peft import LoraConfig, get_peft_model
        except ImportError as error:
            raise ConfigError("trunk: lora needs peft; pip install 'speechmtp[train]'") from error
        targets = ["q_proj", "k_proj", "v_proj", "o_proj"]
        settings = LoraConfig(r=config.lora_rank, lora_alpha=config.lora_alpha, target_modules=targets)
        model = get_peft_model(model, settings).base_model.model
    else:
        model.requires_grad_(config.train == "full")
    return Trunk(model)


class Trunk(nn.Module):
    """`embed`, `extend`, `unembed` over a causal LM; positions are given, never derived from lengths."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        # Families without `layer_types` slide in every layer where they name a window.
        slides = getattr(model.config, "sliding_window", None) is not None
        default = ["sliding_attention"] if slides else ["full_attention"]
        kinds = set(getattr(model.config, "layer_types", None) or default)
        if kinds != {"full_attention"} or getattr(model.config, "use_sliding_window", False):
            raise ConfigError(
                f"trunk: {type(model).__name__} has {', '.join(sorted(kinds))} layers; only full attention is supported"
            )
        self.model = model
        self.width = int(model.config.hidden_size)
        self.vocab_size = int(model.config.vocab_size)
        self.layers = int(model.config.num_hidden_layers)
        # The argument was renamed within the supported range of transformers.
        names = inspect.signature(type(model.get_decoder()).forward).parameters
        self._cache_name = "cache" if "cache" in names else "past_key_values"
        if "position_ids" not in names:
            raise ConfigError(f"trunk: {type(model).__name__} takes no position ids, which the trunk has to give")

    def train(self, mode: bool = True) -> "Trunk":
        """Switch training mode; written-out attention trains a fifth faster on a CPU, the fused one decodes faster."""
        super().train(mode)
        wanted = "eager" if mode else "sdpa"
        if self.model.config._attn_implementation != wanted:
            self.model.set_attn_implementation(wanted)
        return self

    def embed(self, ids: Tensor) -> Tensor:
        """Embeddings [..., C] of token ids [...]."""
        return self.model.get_input_embeddings()(ids)

    def unembed(self, hidden: Tensor) -> Tensor:
        """Logits [..., V] of trunk states [..., C]."""
        return self.model.get_output_embeddings()(hidden)

    def new_cache(self, rows: int) -> RaggedCache:
        """An empty cache for `rows` rows."""
        return RaggedCache(self.layers, rows, self.model.device)

    def extend(
        self, embeddings: Tensor, positions: Tensor, ancestors: Tensor | None, cache: RaggedCache,
        taps: tuple[int, ...] = (),
    ) -> States:  # fmt: skip
        """Run Q entries per row behind the committed ones.

        `embeddings` [B, Q, C]; `positions` [B, Q]; `ancestors` bool [B, Q, Q] says which new entries each
        new entry sees (itself always; None: a chain). Nothing is committed.
        """
        rows, queries, width = embeddings.shape
        if width != self.width or positions.shape != (rows, queries) or rows != len(cache.lengths):
            raise ShapeError(
                f"trunk: embeddings {tuple(embeddings.shape)}, positions {tuple(positions.shape)}, cache of "
                f"{len(cache.lengths)} rows, expected [B, Q, {self.width}], [B, Q] and B rows"
            )
        cache.begin(queries)
        mask = extend_mask(cache, queries, ancestors, embeddings.dtype)
        return self._run(embeddings, positions, mask, taps, cache)

    def forward(self, embeddings: Tensor, positions: Tensor, valid: Tensor, taps: tuple[int, ...] = ()) -> States:
        """Training: causal states of a batch [B, L, C] without cache; entries not in `valid` [B, L] are unseen."""
        size = embeddings.shape[1]
        index = torch.arange(size, device=embeddings.device)
        seen = (index[None, :] <= index[:, None]) & valid[:, None, :]
        seen = seen | torch.eye(size, dtype=torch.bool, device=embeddings.device)
        return self._run(embeddings, positions, additive(seen, embeddings.dtype), taps, None)

    def _run(
        self, embeddings: Tensor, positions: Tensor, mask: Tensor, taps: tuple[int, ...], cache: RaggedCache | None
    ) -> States:
        extra = {self._cache_name: cache, "use_cache": True} if cache is not None else {"use_cache": False}
        out = self.model.get_decoder()(
            inputs_embeds=embeddings, position_ids=positions, attention_mask=mask,
            output_hidden_states=bool(taps), **extra,
        )  # fmt: skip
        layers = torch.stack([out.hidden_states[i] for i in taps], 2) if taps else None
        return States(out.last_hidden_state, layers)


def additive(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """The 4-D mask that transformers passes through: 0 where seen [B, Q, S], the lowest finite number elsewhere.

    A boolean mask would be added as 0 and 1 by eager attention, without an error.
    """
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, torch.finfo(dtype).min)[:, None]


def extend_mask(cache: RaggedCache, queries: int, ancestors: Tensor | None, dtype: torch.dtype) -> Tensor:
    """[B, 1, Q, width]: committed entries below each row's length, and of the new ones the ancestors."""
    device = cache.lengths.device
    index = torch.arange(queries, device=device)
    if ancestors is None:
        if cache.start is not None:  # all rows alike: one triangle behind the committed block
            slots = torch.arange(cache.width, device=device)
            return additive((slots[None, :] <= cache.start + index[:, None])[None], dtype).expand(
                len(cache.lengths), 1, queries, cache.width
            )
        relative = torch.arange(cache.width, device=device) - cache.lengths[:, None]
        return additive(relative[:, None, :] <= index[None, :, None], dtype)
    relative = torch.arange(cache.width, device=device) - cache.lengths[:, None]
    inside = (relative >= 0) & (relative < queries)
    picked = ancestors.gather(2, relative.clamp(0, queries - 1)[:, None, :].expand(-1, queries, -1))
    return additive((relative < 0)[:, None, :] | (picked & inside[:, None, :]), dtype)


def ancestors_of(parent: Tensor) -> Tensor:
    """Bool [B, Q, Q] from parents [B, Q] (-1: none): row q is true at q and at all its ancestors."""
    rows, size = parent.shape
    seen = torch.eye(size, dtype=torch.bool, device=parent.device).repeat(rows, 1, 1)
    index = torch.arange(rows, device=parent.device)
    for node in range(1, size):
        above = parent[:, node]
        seen[:, node] |= seen[index, above.clamp_min(0)] & (above >= 0)[:, None]
    return seen
