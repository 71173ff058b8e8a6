"""What about a causal LM's layers and positions tells, without running it, whether it can be a trunk."""

import inspect
from typing import TYPE_CHECKING, Any

from torch import nn

from speechmtp.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Rotary frequencies that transformers chooses by the longest position of a call, so that other rows, drafts and the
# keys in the cache would count.
_MOVING = ("dynamic", "longrope")


def check_layers(model: "PreTrainedModel") -> None:
    """Raise ConfigError for layers that are no full attention on positions that can be given, and for rotary positions
    that depend on the call."""
    name, decoder = type(model).__name__, model.get_decoder()
    # In families without `layer_types`, every layer slides if the configuration has a window.
    config = model.config.get_text_config()
    slides = getattr(config, "sliding_window", None) is not None
    default = ["sliding_attention"] if slides else ["full_attention"]
    kinds = set(getattr(config, "layer_types", None) or default)
    if kinds != {"full_attention"} or getattr(config, "use_sliding_window", False):
        raise ConfigError(f"trunk: {name} has {', '.join(sorted(kinds))} layers; only full attention is supported")
    if "position_ids" not in inspect.signature(type(decoder).forward).parameters:
        raise ConfigError(f"trunk: {name} takes no position ids, which the trunk has to give")
    if not hasattr(decoder, "layers"):
        raise ConfigError(f"trunk: {name} has no list `layers` to read; Llama, Qwen and the like do")
    if getattr(config, "keep_window_size", None) is not None:
        raise ConfigError(f"trunk: {name} chooses the keys that a query sees (keep_window_size), which drafts change")
    moving = sorted({one for module in decoder.modules() for one in _rope_types(module) if one in _MOVING})
    if moving:
        raise ConfigError(
            f"trunk: {name} has rotary positions of type {', '.join(moving)}, which change with the longest one of a "
            f"call; take a checkpoint whose rope_type in config.json is default, linear, yarn or llama3"
        )


def _rope_types(module: nn.Module) -> list[str]:
    found: Any = getattr(module, "rope_type", "")
    return list(found.values()) if isinstance(found, dict) else [found]


def last_position(decoder: nn.Module) -> int | None:
    """Return the last position of a decoder with learned position embeddings; None for other positions."""
    for name, module in decoder.named_children():
        if isinstance(module, nn.Embedding) and "position" in name:
            return module.num_embeddings - 1 - int(getattr(module, "offset", 0))
    return None
