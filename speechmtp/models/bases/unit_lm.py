"""A voice: a trunk over speech tokens, with the durations and hints of the units that it speaks."""

from pathlib import Path
from typing import ClassVar

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from speechmtp.audio.features import FbankConfig
from speechmtp.models.bases.contract import UnitModel
from speechmtp.models.bases.unit_settings import UnitModelSettings
from speechmtp.models.durations import Durations
from speechmtp.models.storage import Storage, load_state, pack, read_weights, unpack
from speechmtp.models.trunk import build_trunk
from speechmtp.models.unit_hints import UnitHints
from speechmtp.types import Prompt, Request, TokenRules


class UnitLM(UnitModel):
    """Speech tokens from units, by one trunk. Requests end at the length that the durations give, without an end
    token."""

    kind: ClassVar[str] = "unit_lm"
    title: ClassVar[str] = "a voice"
    settings: ClassVar[type] = UnitModelSettings
    normalizer: ClassVar[str] = ""
    eos: tuple[int, ...] = ()
    rate: int = 24000

    def __init__(self, config: UnitModelSettings) -> None:
        super().__init__()
        self.config = config
        self.trunk = build_trunk(config.trunk, config.tokens)
        self.start = nn.Parameter(0.02 * torch.randn(config.trunk.width))
        self.hints = UnitHints(config.units, config.symbols, config.trunk.width)
        self.durations = Durations(config.units, config.symbols)

    @classmethod
    def load(cls, folder: Path, config: UnitModelSettings, features: FbankConfig | None) -> "UnitLM":
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
