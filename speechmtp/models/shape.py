"""The sizes of a trunk that heads are built for."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class TrunkShape:
    """Sizes of a trunk and of one of its layers, as far as heads need them. `memory_width` is the width of the encoder
    outputs that a cross-attention trunk reads, None for other trunks. `norm` is the trunk's kind of norm. Rotary
    embeddings rotate the first `rotary_dim` numbers of each head; 0 means all."""

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
