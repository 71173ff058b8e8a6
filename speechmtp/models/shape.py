"""The sizes of a trunk that heads are built for."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class TrunkShape:
    """Sizes of a trunk and of one of its layers, as far as heads need them; `memory_width` is that of a
    cross-attention trunk's audio, None where there is none. `norm` is the trunk's kind of norm; positions turn the
    first `rotary_dim` numbers of each head, 0: all."""

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
