"""How long each unit is spoken: a distribution over steps of 25 ms for every unit."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechmtp.models.unit_encoder import UnitEncoder, UnitEncoderConfig

STEP_FRAMES = 2  # frames of 12.5 ms in a step
STEPS = 48  # the longest duration is 1.2 s


class Durations(nn.Module):
    """Durations of units from their states; `speed` is part of the input, since teachers were asked for speeds."""

    def __init__(self, config: UnitEncoderConfig, symbols: int) -> None:
        super().__init__()
        self.units = UnitEncoder(config, symbols)
        self.speed = nn.Linear(1, config.width)
        self.steps = nn.Sequential(
            nn.Linear(config.width, config.width), nn.GELU(), nn.Dropout(config.dropout), nn.Linear(config.width, STEPS)
        )

    def logits(self, ids: Tensor, words: Tensor, speed: Tensor) -> Tensor:
        """Return logits [B, P, STEPS] of 1 to STEPS steps; `speed` [B] of the speech."""
        states = self.units(ids, words) + self.speed((speed - 1)[:, None, None].to(self.speed.weight.dtype))
        out: Tensor = self.steps(states)
        return out

    def loss(self, ids: Tensor, words: Tensor, speed: Tensor, frames: Tensor) -> Tensor:
        """Return the summed cross-entropy of true durations `frames` [B, P] of 12.5 ms each."""
        labels = (frames.div(STEP_FRAMES).round().long() - 1).clamp(0, STEPS - 1)
        known = words >= 0
        return F.cross_entropy(self.logits(ids, words, speed)[known], labels[known], reduction="sum")

    def forward(self, ids: Tensor, words: Tensor) -> Tensor:
        """Return the mean duration [B, P] of each unit, in frames of 12.5 ms, at the usual speed."""
        chances = self.logits(ids, words, torch.ones(len(ids), device=ids.device)).softmax(-1)
        steps = torch.arange(1, STEPS + 1, device=ids.device, dtype=chances.dtype)
        return STEP_FRAMES * (chances @ steps)
