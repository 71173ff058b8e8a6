"""Rows of random audio with text behind them, as the multi-token loss takes them, and that loss in plain loops."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import tiny
import torch
from torch import Tensor

from speechmtp.heads.contract import HeadSet, TrainBatch
from speechmtp.models.adapter import AudioPrompt
from speechmtp.models.trunk import Trunk
from speechmtp.training.losses import MultiTokenConfig, depth_weights, rows_against_teacher, rows_ce
from speechmtp.training.multi_token import Sequences, lay_behind, pad_text

TEXTS = [[3, 4, 5, 6, 7, 8], [6, 3], [7, 8, 5, 10]]
AUDIO_SIZES = [4, 6, 2]


def sequences(trunk: Trunk, texts: list[list[int]] = TEXTS, sizes: list[int] = AUDIO_SIZES, seed: int = 0) -> Sequences:
    """Texts between start and end token, behind `sizes` entries of audio a row."""
    prompt = tiny.prompts(trunk, sizes, seed)
    dtype = trunk.unembedding().weight.dtype
    audio = AudioPrompt(
        prompt.embeddings.to(dtype), prompt.positions, prompt.lengths, torch.zeros(len(texts), dtype=torch.long)
    )
    return lay_behind(trunk, audio, *pad_text(texts, tiny.BOS, tiny.EOS))


def one_row(rows: Sequences, row: int) -> Sequences:
    """A row without its padding."""
    size = int((rows.segments[row] >= 0).sum())
    parts: dict[str, Any] = {
        name: value[row : row + 1, :size] for name, value in vars(rows).items() if value is not None
    }
    return replace(rows, **parts)


def batch_of(trunk: Trunk, heads: HeadSet, rows: Sequences) -> TrainBatch:
    """The teacher-forced batch of all indices."""
    states = trunk(rows.embeddings, rows.positions, rows.segments, heads.taps)
    return TrainBatch(
        states, rows.embeddings, rows.ids, rows.positions, rows.segments, trunk.embed, heads.narrow(trunk)
    )


def by_hand(
    trunk: Trunk, heads: HeadSet, rows: Sequences, config: MultiTokenConfig, ahead: int = 0,
    asked: Callable[[int, int], bool] = lambda target, d: True,
) -> list[tuple[float, int]]:  # fmt: skip
    """Summed loss and number of labels of each depth 0..D, an entry at a time; the distribution for x_{t+1+d} is read
    at row t + d + `ahead` of the trunk. `asked` may leave out targets of a depth."""
    batch = batch_of(trunk, heads, rows)
    features = list(heads.train_depths(batch))
    allowed = list(range(tiny.VOCAB)) if heads.shortlist is None else heads.shortlist.tolist()
    found = []
    for d in range(heads.depth + 1):
        total, count = 0.0, 0
        for b in range(len(rows.ids)):
            for t in range(rows.ids.shape[1] - 1 - d):
                label = int(rows.ids[b, t + 1 + d])
                if not rows.starts[b, t] or rows.segments[b, t + 1 + d] < 0 or not asked(label, d):
                    continue
                count += 1
                if d == 0:
                    probs = trunk.unembed(batch.states.hidden[b, t])[None]
                    loss = rows_ce(probs, torch.tensor([label]), config.smoothing)
                else:
                    loss = _one(
                        trunk, heads, features[d - 1][b, t], d, label, allowed, batch, (b, t + d + ahead), config
                    )
                total += float(loss.detach())
        found.append((total, count))
    return found


def _one(
    trunk: Trunk, heads: HeadSet, feature: Tensor, d: int, label: int, allowed: list[int], batch: TrainBatch,
    row: tuple[int, int], config: MultiTokenConfig,
) -> Tensor:  # fmt: skip
    logits = heads.logits(feature[None], d, batch.unembed)
    if config.kind == "ce":
        return rows_ce(logits, torch.tensor([allowed.index(label)]), config.smoothing)
    return rows_against_teacher(logits, trunk.unembed(batch.states.hidden[row])[None], heads.shortlist, config)


def weighted(parts: list[tuple[float, int]], config: MultiTokenConfig) -> float:
    """The loss of the whole: means of the depths, weighted, times the number of depth 0's labels."""
    weights = depth_weights(config, len(parts) - 1)
    return parts[0][1] * sum(w * total / max(1, count) for w, (total, count) in zip(weights, parts))
