"""The trunk: one interface to any transformers causal LM, on the ragged cache."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from speechmtp.errors import CheckpointError, ConfigError, ShapeError
from speechmtp.models.cache import RaggedCache
from speechmtp.models.lora import Lora
from speechmtp.models.masks import additive_mask, additive_ragged_mask, causal_mask
from speechmtp.models.shape import TrunkShape
from speechmtp.models.taps import lay_hook, reading
from speechmtp.types import Prompt, States

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class ScratchTrunkConfig:
    """A small decoder that is trained from random weights."""

    kind: Literal["scratch"] = "scratch"
    family: Literal["llama", "qwen3"] = "llama"
    width: int = 128
    layers: int = 4
    heads: int = 4
    ff_width: int = 384
    rope_theta: float = 10000.0


@dataclass(frozen=True)
class PretrainedTrunkConfig:
    """A transformers causal LM by folder or hub name; `train` says which of its weights are trained."""

    kind: Literal["pretrained"] = "pretrained"
    name: str = ""
    train: Literal["frozen", "lora", "full"] = "frozen"
    lora_rank: int = 16
    lora_alpha: int = 32


TrunkConfig = ScratchTrunkConfig | PretrainedTrunkConfig


def build_trunk(config: TrunkConfig, vocab_size: int) -> "Trunk":
    """Build a trunk for tokens 0..vocab_size-1; ConfigError for sizes that do not fit, CheckpointError for a model that
    cannot be loaded or has another vocabulary size."""
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
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

    model = (
        LlamaForCausalLM(LlamaConfig(**sizes)) if config.family == "llama" else Qwen3ForCausalLM(Qwen3Config(**sizes))
    )
    return Trunk(model)


def _pretrained(config: PretrainedTrunkConfig, vocab_size: int) -> "Trunk":
    from transformers import AutoModelForCausalLM

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
        Lora(model, config.lora_rank, config.lora_alpha)
    else:
        model.requires_grad_(config.train == "full")
    return Trunk(model)


class Trunk(nn.Module):
    """`embed`, `extend`, `unembed` over a causal LM; positions are always given, never derived from lengths.

    ConfigError for models with sliding-window layers, or whose decoder takes no position ids.
    """

    def __init__(self, model: "PreTrainedModel") -> None:
        super().__init__()
        # In families without `layer_types`, every layer slides if the configuration has a window.
        config = model.config.get_text_config()
        slides = getattr(config, "sliding_window", None) is not None
        default = ["sliding_attention"] if slides else ["full_attention"]
        kinds = set(getattr(config, "layer_types", None) or default)
        if kinds != {"full_attention"} or getattr(config, "use_sliding_window", False):
            raise ConfigError(
                f"trunk: {type(model).__name__} has {', '.join(sorted(kinds))} layers; only full attention is supported"
            )
        self.model = model
        self.width = int(config.hidden_size)
        self.vocab_size = int(config.vocab_size)
        self.layers = int(config.num_hidden_layers)
        # The cache argument was renamed within the supported versions of transformers.
        names = inspect.signature(type(model.get_decoder()).forward).parameters
        self._cache_name = "cache" if "cache" in names else "past_key_values"
        self._known_taps: set[tuple[int, ...]] = set()
        if "position_ids" not in names:
            raise ConfigError(f"trunk: {type(model).__name__} takes no position ids, which the trunk has to give")

    # The model's own modules, cached (not as children) since transformers searches for them at every call.
    @cached_property
    def _decoder(self) -> nn.Module:
        decoder: nn.Module = self.model.get_decoder()
        return decoder

    @cached_property
    def _embedding(self) -> nn.Module:
        embedding: nn.Module = self.model.get_input_embeddings()
        return embedding

    def train(self, mode: bool = True) -> "Trunk":
        """Switch training mode: eager attention trains a fifth faster on a CPU, SDPA decodes faster."""
        super().train(mode)
        wanted = "eager" if mode else "sdpa"
        if self.model.config._attn_implementation != wanted:
            self.model.set_attn_implementation(wanted)
        return self

    @property
    def shape(self) -> TrunkShape:
        """The sizes that heads need."""
        c = self.model.config.get_text_config()
        heads = int(c.num_attention_heads)
        rope = getattr(c, "rope_parameters", None) or {}
        attention = getattr(self.model.get_decoder().layers[-1], "self_attn", None)
        return TrunkShape(
            self.width, self.vocab_size, self.layers, heads, int(getattr(c, "num_key_value_heads", None) or heads),
            int(getattr(c, "head_dim", None) or self.width // heads),
            int(getattr(c, "intermediate_size", None) or 4 * self.width), float(rope.get("rope_theta", 10000.0)),
            float(getattr(c, "rms_norm_eps", 1e-6)), hasattr(attention, "q_norm"),
            getattr(getattr(attention, "q_proj", None), "bias", None) is not None,
        )  # fmt: skip

    def last_layer(self) -> dict[str, Tensor]:
        """Return the last layer's weights by name, and the final norm's as `final_norm.weight`, to initialise heads."""
        decoder = self.model.get_decoder()
        weights = {name: weight.detach() for name, weight in decoder.layers[-1].state_dict().items()}
        norm = getattr(decoder, "norm", None)
        return weights | ({} if norm is None else {"final_norm.weight": norm.weight.detach()})

    def unembedding(self) -> nn.Linear:
        """Return the output layer that `unembed` applies; its weight rows are tokens."""
        module: nn.Linear = self.model.get_output_embeddings()
        return module

    def embed(self, ids: Tensor) -> Tensor:
        """Return embeddings [..., C] of token ids [...]."""
        embeddings: Tensor = self._embedding(ids)
        return embeddings

    def unembed(self, hidden: Tensor) -> Tensor:
        """Return logits [..., V] of trunk states [..., C]."""
        return self.model.get_output_embeddings()(hidden)

    def teacher_logits(self, hidden: Tensor) -> Tensor:
        """Return logits [..., V] of trunk states [..., C] under the model's own token rules, for distillation."""
        return self.unembed(hidden)

    def new_cache(self, rows: int, prompt: Prompt | None = None, slots: int = 0) -> RaggedCache:
        """Return an empty cache for `rows` rows, with room for `slots`; only encoder-decoder trunks read `prompt`."""
        return RaggedCache(self.layers, rows, self.model.device, slots=slots)

    def silence(self, rows: int) -> Tensor | None:
        """Return stand-in encoder outputs for timing; None, since this trunk has no cross-attention."""
        return None

    def join(self, cache: RaggedCache, prompt: Prompt, memory_sizes: Sequence[int] | None = None) -> None:
        """Append empty rows for a batch of prompts to the cache and focus on them. Encoder-decoder trunks add the
        prompts' encoder outputs; `memory_sizes` are their lengths, if they are known on the host."""
        cache.add(len(prompt.lengths))

    def extend(
        self, embeddings: Tensor, positions: Tensor, ancestors: Tensor | None, cache: RaggedCache,
        taps: tuple[int, ...] = (),
    ) -> States:  # fmt: skip
        """Run Q entries per row after the committed ones, without committing them; return the final states and taps.

        `embeddings` [B, Q, C]; `positions` [B, Q]; `ancestors` bool [B, Q, Q] says which new entries each new entry
        sees (itself included; None: a chain). ShapeError for shapes that do not fit the trunk or the cache.
        """
        rows, queries, width = embeddings.shape
        if width != self.width or positions.shape != (rows, queries) or rows != cache.count:
            raise ShapeError(
                f"trunk: embeddings {tuple(embeddings.shape)}, positions {tuple(positions.shape)}, cache of "
                f"{cache.count} rows, expected [B, Q, {self.width}], [B, Q] and B rows"
            )
        cache.begin(queries)
        mask = additive_ragged_mask(cache, queries, ancestors, embeddings.dtype)
        return self._run(embeddings, positions, mask, taps, cache)

    def forward(
        self, embeddings: Tensor, positions: Tensor, segments: Tensor, taps: tuple[int, ...] = (),
        memory: Tensor | None = None, memory_lengths: Tensor | None = None,
    ) -> States:  # fmt: skip
        """Return the causal states of a batch [B, L, C] without cache, for training. Entries see those of their own
        sample: `segments` [B, L] numbers the samples of a row, -1 is padding. `memory` [B, S, E] are the encoder
        outputs for encoder-decoder trunks."""
        mask = additive_mask(causal_mask(segments), embeddings.dtype)
        return self._run(embeddings, positions, mask, taps, None, memory, memory_lengths)

    def _run(
        self, embeddings: Tensor, positions: Tensor, mask: Tensor, taps: tuple[int, ...], cache: RaggedCache | None,
        memory: Tensor | None = None, memory_lengths: Tensor | None = None,
    ) -> States:  # fmt: skip
        extra = self._arguments(positions, cache, memory, memory_lengths)
        if not taps:
            return States(self._decoder(inputs_embeds=embeddings, attention_mask=mask, **extra).last_hidden_state)
        self._check_taps(taps)
        with reading(embeddings) as found:  # the last layer's output is taken before the final norm
            out = self._decoder(inputs_embeds=embeddings, attention_mask=mask, **extra)
        return States(out.last_hidden_state, torch.stack([found[i] for i in taps], 2))

    def _arguments(
        self, positions: Tensor, cache: RaggedCache | None, memory: Tensor | None, memory_lengths: Tensor | None
    ) -> dict[str, Any]:
        """Return the decoder's arguments besides entries and mask."""
        extra = {self._cache_name: cache, "use_cache": True} if cache is not None else {"use_cache": False}
        return {"position_ids": positions, **extra}

    def _check_taps(self, taps: tuple[int, ...]) -> None:
        """Register the hooks that record these layers' outputs, once; ConfigError for a layer that does not exist."""
        if taps in self._known_taps:
            return
        wrong = [t for t in taps if not 0 <= t <= self.layers]
        if wrong:
            raise ConfigError(f"trunk: no layer {wrong[0]} to read, expected 0 to {self.layers}")
        layers: Any = self._decoder.layers
        for tap in set(taps) - {0}:
            lay_hook(layers[tap - 1], tap)
        self._known_taps.add(taps)
