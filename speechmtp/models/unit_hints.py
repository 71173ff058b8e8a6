"""Hints: one vector for each speech token, which says what is spoken there. They are added to the embeddings that the
trunk and its heads read (`types.Prompt.hints`), so that speech tokens need no attention to text."""

import torch
from torch import Tensor, nn

from speechmtp.models.unit_encoder import UnitEncoder, UnitEncoderConfig

SCALARS = 5


class UnitHints(nn.Module):
    """Hints from units and their durations. The hint of a token depends on the units that it covers, the unit after
    them, and where in its unit the token lies."""

    def __init__(self, config: UnitEncoderConfig, symbols: int, width: int) -> None:
        super().__init__()
        self.units = UnitEncoder(config, symbols)
        self.following = nn.Embedding(symbols, config.width)
        self.join = nn.Sequential(
            nn.Linear(3 * config.width + SCALARS, 2 * config.width), nn.GELU(), nn.Dropout(config.dropout),
            nn.Linear(2 * config.width, width),
        )  # fmt: skip

    def forward(self, ids: Tensor, words: Tensor, frames: Tensor, tokens: int, frames_per_token: float) -> Tensor:
        """Return hints [B, tokens, C] for units `ids`, `words` and durations `frames` [B, P], 0 in padding; a token
        is `frames_per_token` frames long."""
        states = self.units(ids, words)
        ends = frames.cumsum(1).to(states.dtype)  # [B, P]
        edges = torch.arange(tokens + 1, device=ids.device, dtype=states.dtype) * frames_per_token
        centre = (edges[:-1] + edges[1:]) / 2
        unit = torch.searchsorted(ends, centre.expand(len(ids), -1).contiguous(), right=True)
        unit = torch.minimum(unit, (frames > 0).sum(1, keepdim=True) - 1)  # behind the end: the last unit
        rows = torch.arange(len(ids), device=ids.device)[:, None]
        own, length = states[rows, unit], frames.to(states.dtype)[rows, unit]
        end = ends[rows, unit]
        begin = end - length
        after = ids[rows, (unit + 1).clamp_max(ids.shape[1] - 1)]
        scalars = torch.stack(
            [
                (centre - begin) / length.clamp_min(1), length.clamp_min(1).log() / 2, (centre - begin) / 16,
                (end - centre) / 16, begin.clamp_max(800) / 800,
            ], -1,
        )  # fmt: skip
        mixed = self._covered(states, ends, frames, edges)
        out: Tensor = self.join(torch.cat([own, mixed, self.following(after), scalars], -1))
        return out

    def _covered(self, states: Tensor, ends: Tensor, frames: Tensor, edges: Tensor) -> Tensor:
        """Return the mean state [B, T, H] over the time that each token covers, between its `edges` [T + 1]."""
        starts = ends - frames
        overlap = torch.minimum(ends[:, None], edges[1:, None]) - torch.maximum(starts[:, None], edges[:-1, None])
        share = overlap.clamp_min(0)  # [B, T, P]
        return (share / share.sum(-1, keepdim=True).clamp_min(1e-3)) @ states
