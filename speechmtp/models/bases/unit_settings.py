"""Sizes of a model that turns units into speech tokens."""

from dataclasses import dataclass, field
from typing import Literal

from speechmtp.config import Size, check_fields
from speechmtp.models.trunk import ScratchTrunkConfig
from speechmtp.models.unit_encoder import UnitEncoderConfig


@dataclass(frozen=True)
class UnitModelSettings:
    """`model` in config.yaml. `tokens` is the codec's vocabulary, `symbols` that of units; `frames_per_token` is the
    length of a token in frames of 12.5 ms."""

    kind: Literal["unit_lm"] = "unit_lm"
    trunk: ScratchTrunkConfig = field(default_factory=lambda: ScratchTrunkConfig(width=256, layers=4, ff_width=768))
    units: UnitEncoderConfig = field(default_factory=UnitEncoderConfig)
    tokens: Size = 204
    symbols: Size = 178
    frames_per_token: float = 3.2

    def __post_init__(self) -> None:
        check_fields(self, "voice")
