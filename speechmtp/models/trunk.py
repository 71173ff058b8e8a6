"""The trunk: one interface to any transformers causal LM, on the ragged cache."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from torch import Tensor, nn

from speechmtp.config import Count, Range, Size, check_fields
from speechmtp.errors import CheckpointError, ConfigError, ShapeError
from speechmtp.kernels.cpu.decoder import NativeDecoder, fits, slots_of
from speechmtp.models.agreement import Tail, tail_of
from speechmtp.models.bases.folders import loaded
from speechmtp.models.cache import RaggedCache
from speechmtp.models.lora import Lora
from speechmtp.models.masks import additive_mask, additive_ragged_mask, causal_mask, ids_of
from speechmtp.models.norms import NormParts, final_norm, layer_norms, norm_parts
from speechmtp.models.refusals import check_layers, last_position
from speechmtp.models.shape import TrunkShape, check_weights
from speechmtp.models.taps import lay_hook, reading
from speechmtp.types import Prompt, Request, States

if TYPE_CHECKING:
    from transformers import PreTrainedModel


NATIVE_ENTRIES = 1024  # of a row and call; longer ones are left to PyTorch, unmeasured


@dataclass(frozen=True)
class ScratchTrunkConfig:
    """A small decoder that is trained from random weights."""

    kind: Literal["scratch"] = "scratch"
    family: Literal["llama", "qwen3"] = "llama"
    width: Size = 128
    layers: Count = 4
    heads: Count = 4
    ff_width: Size = 384
    rope_theta: Annotated[float, Range(0, above=True)] = 10000.0

    def __post_init__(self) -> None:
        check_fields(self, "trunk")
        check_weights("trunk", self.layers, self.width, self.ff_width)
        if self.width % self.heads or (self.width // self.heads) % 2:
            raise ConfigError(f"trunk: width {self.width} must be an even multiple of heads {self.heads}")


@dataclass(frozen=True)
class PretrainedTrunkConfig:
    """A transformers causal LM by folder or hub name; `train` says which of its weights are trained."""

    kind: Literal["pretrained"] = "pretrained"
    name: str = ""
    train: Literal["frozen", "lora", "full"] = "frozen"
    lora_rank: Size = 16
    lora_alpha: Size = 32


TrunkConfig = ScratchTrunkConfig | PretrainedTrunkConfig


def build_trunk(config: TrunkConfig, vocab_size: int) -> "Trunk":
    """Build a trunk for tokens 0..vocab_size-1; CheckpointError for a model that cannot be loaded or has another
    vocabulary size."""
    if isinstance(config, PretrainedTrunkConfig):
        return _pretrained(config, vocab_size)
    sizes: dict[str, Any] = {
        "vocab_size": vocab_size, "hidden_size": config.width, "intermediate_size": config.ff_width,
        "num_hidden_layers": config.layers, "num_attention_heads": config.heads,
        "num_key_value_heads": config.heads, "head_dim": config.width // config.heads,
        "tie_word_embeddings": True, "pad_token_id": None, "bos_token_id": 1, "eos_token_id": 2,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
    }  # fmt: skip
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

    model = (
        LlamaForCausalLM(LlamaConfig(**sizes)) if config.family == "llama" else Qwen3ForCausalLM(Qwen3Config(**sizes))
    )
    return Trunk(model, tried=True)


def _pretrained(config: PretrainedTrunkConfig, vocab_size: int) -> "Trunk":
    from transformers import AutoModelForCausalLM

    model = loaded(AutoModelForCausalLM, Path(config.name), "a trunk")
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

    `last_position` is the last of learned position embeddings; None if positions do not end. `tail` is what the model
    does to the logits of its unembedding.

    ConfigError for what cannot be run exactly: layers that slide or recur, rotary positions that depend on the longest
    one of a call, a decoder without position ids or a list `layers`, and models whose own forward gives other logits on
    a few tokens, which is not looked at for a model known to agree (`tried`), whose weights may not be loaded yet.
    """

    def __init__(self, model: "PreTrainedModel", tried: bool = False) -> None:
        super().__init__()
        self.model = model
        try:
            check_layers(model)
            config = model.config.get_text_config()
            self.width = int(config.hidden_size)
            self.vocab_size = int(config.vocab_size)
            self.layers = len(self._decoder.layers)  # type: ignore[arg-type]
            # Some layers hold two attentions.
            self._cache_layers = max(self.layers, int(config.num_hidden_layers))
        except AttributeError as error:
            raise ConfigError(f"trunk: {type(model).__name__} lacks what a trunk needs: {error}") from error
        # The cache argument was renamed within the supported versions of transformers.
        names = inspect.signature(type(self._decoder).forward).parameters
        self._cache_name = "cache" if "cache" in names else "past_key_values"
        self.native: NativeDecoder | None = None  # set by `use_native` (`bases/native.py`)
        self.native_problem = "nobody asked"
        self._known_taps: set[tuple[int, ...]] = set()
        self.last_position = last_position(self._decoder)
        self.tail = Tail() if tried else tail_of(self)

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
        """Switch training mode, and with it the form of attention."""
        super().train(mode)
        self.attend("training" if mode else "decoding")
        return self

    def attend(self, use: Literal["training", "decoding"]) -> None:
        """Choose the form of attention: eager trains a fifth faster on a CPU, SDPA decodes faster, but some models have
        caps or sinks that it lacks."""
        wanted = "sdpa" if use == "decoding" and self.model._supports_sdpa else "eager"
        if self.model.config._attn_implementation != wanted:
            self.model.set_attn_implementation(wanted)

    @property
    def shape(self) -> TrunkShape:
        """The sizes that heads need."""
        c = self.model.config.get_text_config()
        heads = int(c.num_attention_heads)
        rope = getattr(c, "rope_parameters", None) or {}
        attention = getattr(self.model.get_decoder().layers[-1], "self_attn", None)
        norm = self._final_norm
        return TrunkShape(
            self.width, self.vocab_size, self.layers, heads, int(getattr(c, "num_key_value_heads", None) or heads),
            int(getattr(c, "head_dim", None) or self.width // heads),
            int(getattr(c, "intermediate_size", None) or 4 * self.width), float(rope.get("rope_theta") or 10000.0),
            norm.eps, hasattr(attention, "q_norm"),
            getattr(getattr(attention, "q_proj", None), "bias", None) is not None, norm=norm.kind,
            norm_bias=norm.bias is not None, unembedding_bias=self.unembedding().bias is not None,
        )  # fmt: skip

    def last_layer(self) -> dict[str, Tensor]:
        """Return the last layer's weights by name, and the final norm's as `final_norm.weight` (and `.bias`), to
        initialise heads. Weights of norms are what they multiply with, also where the model stores them less 1."""
        layer = self.model.get_decoder().layers[-1]
        weights = {name: weight.detach() for name, weight in layer.state_dict().items()}
        return weights | dict(layer_norms(layer)) | self._final_norm.named("final_norm")

    @property
    def _final_norm(self) -> NormParts:
        """The norm behind the last layer."""
        norm = final_norm(self.model.get_decoder())
        return NormParts() if norm is None else norm_parts(norm, self.width)

    def _usable(self, values: Tensor) -> NativeDecoder | None:
        """The native decoder, if its layers compute what the modules would of these values: without gradients, in
        float32 on a CPU, with the weights of now."""
        native = self.native
        return native if native is not None and fits(values) and native.knows() else None

    def _usable_output(self, values: Tensor) -> NativeDecoder | None:
        """The same for its unembedding."""
        native = self.native
        return native if native is not None and fits(values) and native.knows_output() else None

    def unembedding(self) -> nn.Linear:
        """Return the output layer that `unembed` applies before `tail`; its weight rows are tokens."""
        module: nn.Linear = self.model.get_output_embeddings()
        return module

    def embed(self, ids: Tensor) -> Tensor:
        """Return embeddings [..., C] of token ids [...]."""
        embeddings: Tensor = self._embedding(ids)
        return embeddings

    def unembed(self, hidden: Tensor) -> Tensor:
        """Return logits [..., V] of trunk states [..., C]."""
        native = self._usable_output(hidden)
        if native is not None:
            return self.tail(native.unembed(hidden))
        return self.tail(self.model.get_output_embeddings()(hidden))

    def choose(
        self, hidden: Tensor, never: tuple[int, ...] = (), counts: Tensor | None = None
    ) -> Tensor | None:  # fmt: skip
        """Return the tokens [..., P] with the largest logits of states [..., P, C] in one call, where that can be, the
        lowest of equals; None where it cannot. `never` are tokens that count as the least probable. Behind the first
        `counts` [...] of each P states they have no meaning."""
        native = self._usable_output(hidden)
        if native is None or self.tail != Tail():
            return None
        return native.choose(hidden, ids_of(never, hidden.device) if never else None, counts)

    def teacher_logits(self, hidden: Tensor) -> Tensor:
        """Return logits [..., V] of trunk states [..., C] under the model's own token rules, for distillation."""
        return self.unembed(hidden)

    def new_cache(self, rows: int, prompt: Prompt | None = None, slots: int = 0) -> RaggedCache:
        """Return an empty cache for `rows` rows, with room for `slots`; only encoder-decoder trunks read `prompt`."""
        from speechmtp.models.hub_cache import HubCache

        return HubCache(self._cache_layers, rows, self.model.device, slots=slots)

    def silence(self, rows: int) -> Tensor | None:
        """Return stand-in encoder outputs for timing; None, since this trunk has no cross-attention."""
        return None

    def join(self, cache: RaggedCache, prompt: Prompt, memory_sizes: Sequence[int] | None = None) -> None:
        """Append empty rows for a batch of prompts to the cache and focus on them. Encoder-decoder trunks add the
        prompts' encoder outputs; `memory_sizes` are their lengths, if they are known on the host."""
        cache.add(len(prompt.lengths))

    def extend(
        self, embeddings: Tensor, positions: Tensor, ancestors: Tensor | None, cache: RaggedCache,
        taps: tuple[int, ...] = (), counts: Tensor | None = None,
    ) -> States:  # fmt: skip
        """Run Q entries per row after the committed ones, without committing them; return the final states and taps.

        `embeddings` [B, Q, C]; `positions` [B, Q]; `ancestors` bool [B, Q, Q] says which new entries each new entry
        sees (itself included; None: a chain). `counts` [B] says how many entries of each row are wanted (None: all);
        what the ones behind them give has no meaning. ShapeError for shapes that do not fit the trunk or the cache.
        """
        rows, queries, width = embeddings.shape
        if width != self.width or positions.shape != (rows, queries) or rows != cache.count:
            raise ShapeError(
                f"trunk: embeddings {tuple(embeddings.shape)}, positions {tuple(positions.shape)}, cache of "
                f"{cache.count} rows, expected [B, Q, {self.width}], [B, Q] and B rows"
            )
        cache.begin(queries)
        native = self._usable(embeddings)
        if native is not None and queries <= NATIVE_ENTRIES:
            return self._native_states(
                native, embeddings, self._within(positions, cache), ancestors, cache, taps, counts
            )
        mask = additive_ragged_mask(cache, queries, ancestors, embeddings.dtype)
        return self._run(embeddings, positions, mask, taps, cache)

    def _native_states(
        self, native: NativeDecoder, embeddings: Tensor, positions: Tensor, ancestors: Tensor | None,
        cache: RaggedCache, taps: tuple[int, ...], counts: Tensor | None,
    ) -> States:  # fmt: skip
        """`extend` by the native step, on the same slots."""
        self._check_known(taps)
        slots = slots_of(cache.room(embeddings, native.heads, native.dim), cache.first)
        memory, lengths, longest = self._native_memory(cache)
        return States(*native.extend(
            embeddings, positions, ancestors, cache.lengths, cache.longest, slots, memory, lengths, longest, taps,
            counts,
        ))  # fmt: skip

    def _native_memory(self, cache: RaggedCache) -> tuple[Any, Tensor | None, int]:
        """The native step's cross-attention slots, their lengths [B] and the longest; nothing in this trunk."""
        return None, None, 0

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
        positions = self._within(positions, cache)
        extra = {self._cache_name: cache, "use_cache": True} if cache is not None else {"use_cache": False}
        return {"position_ids": positions, **extra}

    def _within(self, positions: Tensor, cache: RaggedCache | None) -> Tensor:
        """Return positions [B, Q], none past the last one: tokens drafted beyond it are not kept (`most_tokens`).
        ShapeError for texts to train on that are longer."""
        if self.last_position is None:
            return positions
        if cache is None and int(positions.max()) > self.last_position:
            raise ShapeError(
                f"trunk: position {int(positions.max())}, expected at most {self.last_position}, the last one of "
                f"{type(self.model).__name__}; give shorter texts"
            )
        return positions.clamp_max(self.last_position)

    def most_tokens(self, request: Request, limit: int) -> int:
        """Return the most tokens, at most `limit`, that can follow a request's prompt: the model reads all but the last
        of them. ConfigError for a prompt that goes past the last position."""
        last, outputs = self.last_position, request.prompt.output_positions
        if last is None:
            return limit
        if request.first - 1 > last:
            raise ConfigError(
                f"trunk: a prompt that goes on to position {request.first - 1}, expected at most {last}, the last one "
                f"of {type(self.model).__name__}; give a shorter one"
            )
        return next((i + 1 for i in range(limit - 1) if request.first + outputs.offset(i) > last), limit)

    def _check_taps(self, taps: tuple[int, ...]) -> None:
        """Register the hooks that record these layers' outputs, once; ConfigError for a layer that does not exist."""
        if taps in self._known_taps:
            return
        self._check_known(taps)
        layers: Any = self._decoder.layers
        for tap in set(taps) - {0}:
            lay_hook(layers[tap - 1], tap)
        self._known_taps.add(taps)

    def _check_known(self, taps: tuple[int, ...]) -> None:
        """Raise ConfigError for a layer that does not exist."""
        wrong = [t for t in taps if not 0 <= t <= self.layers]
        if wrong:
            raise ConfigError(f"trunk: no layer {wrong[0]} to read, expected 0 to {self.layers}")
