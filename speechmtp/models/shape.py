"""The sizes of a trunk that heads are built for."""

from dataclasses import dataclass
from typing import Literal

from speechmtp.errors import ConfigError

MAX_WEIGHTS = 20_000_000_000  # of a model made from sizes


@dataclass(frozen=True)
class TrunkShape:
    """Sizes of a trunk and of one of its layers, as far as heads need them. `memory_width` is the width of the encoder
    outputs that a cross-attention trunk reads, None for other trunks. `norm` is the kind of the trunk's final norm.
    Rotary embeddings rotate the first `rotary_dim` numbers of each head; 0 means all."""

    width: int
    vocab_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    ff_width: int
    rope_theta: float = 10000.0
    eps: float = 1e-6
    qk_norm: bool = False
    attention_bias: bool = False
    memory_width: int | None = None
    norm: Literal["rms", "layer"] = "rms"
    norm_bias: bool = False
    rotary_dim: int = 0
    unembedding_bias: bool = False


def check_weights(where: str, layers: int, width: int, ff_width: int) -> None:
    """Raise a ConfigError for sizes that are legal one by one, but make a model that no machine holds."""
    weights = layers * width * (11 * width + 4 * ff_width)  # at most, of an encoder or decoder layer
    if weights > MAX_WEIGHTS:
        raise ConfigError(
            f"{where}: {layers} layers of width {width} and ff_width {ff_width} are up to {weights / 1e9:.0f} billion "
            f"weights, expected at most {MAX_WEIGHTS / 1e9:.0f}; lower them"
        )
