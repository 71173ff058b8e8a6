"""A voice: a trunk over speech tokens, with the durations and hints of the units that it speaks."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from speechmtp.audio.features import FbankConfig
from speechmtp.config import Size, check_fields
from speechmtp.errors import ConfigError
from speechmtp.models.bases.contract import InputKind, SpeechModel
from speechmtp.models.durations import Durations
from speechmtp.models.storage import Storage, load_state, pack, read_weights, unpack
from speechmtp.models.trunk import ScratchTrunkConfig, build_trunk
from speechmtp.models.unit_encoder import UnitEncoderConfig
from speechmtp.models.unit_hints import UnitHints
from speechmtp.types import Prompt, Request, TokenRules


@dataclass(frozen=True)
class VoiceSettings:
    """`model` in config.yaml. `tokens` is the codec's vocabulary, `symbols` that of units; `frames_per_token` is the
    length of a token in frames of 12.5 ms."""

    kind: Literal["voice"] = "voice"
    trunk: ScratchTrunkConfig = field(default_factory=lambda: ScratchTrunkConfig(width=256, layers=4, ff_width=768))
    units: UnitEncoderConfig = field(default_factory=UnitEncoderConfig)
    tokens: Size = 204
    symbols: Size = 178
    frames_per_token: float = 3.2

    def __post_init__(self) -> None:
        check_fields(self, "voice")


class Voice(SpeechModel):
    """Speech tokens from units, by one trunk. Requests end at the length that the durations give, without an end
    token."""

    kind: ClassVar[str] = "voice"
    title: ClassVar[str] = "a voice"
    input_kind: ClassVar[InputKind] = "units"
    settings: ClassVar[type] = VoiceSettings
    normalizer: ClassVar[str] = ""
    eos: tuple[int, ...] = ()
    rate: int = 24000

    def __init__(self, config: VoiceSettings) -> None:
        super().__init__()
        self.config = config
        self.trunk = build_trunk(config.trunk, config.tokens)
        self.start = nn.Parameter(0.02 * torch.randn(config.trunk.width))
        self.hints = UnitHints(config.units, config.symbols, config.trunk.width)
        self.durations = Durations(config.units, config.symbols)

    @classmethod
    def load(cls, folder: Path, config: VoiceSettings, features: FbankConfig | None) -> "Voice":
        """Load a folder; CheckpointError if its weights cannot be read or do not fit the configuration."""
        model = cls(config)
        load_state(model, unpack(read_weights(folder / "model.safetensors")), folder / "model.safetensors", adopt=True)
        model.eval()
        return model

    def save(self, folder: Path, storage: Storage) -> None:
        """Write the weights."""
        save_file(pack(self.state_dict(), storage), folder / "model.safetensors", {"format": "pt"})

    def tokens_in(self, frames: int) -> int:
        """Return the number of tokens of so many frames; the last one may be cut."""
        return int(-(-frames // self.config.frames_per_token))

    def read(self, ids: Tensor, words: Tensor, frames: Tensor, rules: TokenRules | None = None) -> Request:
        """Return the request for units `ids`, `words` and their durations `frames` [P], int64."""
        size = self.tokens_in(int(frames.sum()))
        hints = self.hints(ids[None], words[None], frames[None], size, self.config.frames_per_token)
        one = torch.ones(1, dtype=torch.long, device=self.device)
        prompt = Prompt(self.start.to(hints.dtype).expand(1, 1, -1), 0 * one[:, None], one, one, hints=hints)
        return Request(prompt, rules or TokenRules(()), size)

    def listen(self, samples: Tensor, language: str = "", task: str = "", draft: SpeechModel | None = None) -> Request:
        """Raise ConfigError, since a voice hears no audio."""
        raise ConfigError(f"{self.name}: {self.title}, which hears no audio; use it with `speechmtp speak`")

    def silence(self, language: str = "", task: str = "") -> Request:
        """Raise ConfigError as `listen` does."""
        return self.listen(torch.zeros(0))


def spoken(tokens: Sequence[int], config: Any) -> list[int]:
    """Return the tokens that are ids of the codec."""
    return [token for token in tokens if 0 <= token < config.tokens]
