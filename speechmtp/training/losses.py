"""Losses of several depths, in chunks of rows so that the logits of all depths are never in memory at once."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from speechmtp.errors import ConfigError

Kind = Literal["ce", "kd", "reverse_kl", "tv", "lk_alpha", "lk_hybrid"]


@dataclass(frozen=True)
class MultiTokenConfig:
    """Options of the multi-token loss L = base * L_0 + sum_d w_d L_d with w_d = scale * decay^d; with `normalise` the
    weights w_d are scaled to sum to `scale`.

    Published weights: VocalNet and Medusa-1 scale 1 decay 0.8; Gloeckle scale 1 decay 1; DeepSeek-V3 scale 0.3
    decay 1 normalise (lambda / D); FastMTP scale 1 decay 0.6 normalise base 0 (0.51, 0.31, 0.18 at D = 3); Medusa-2
    scale 0.2 with `warmup` (updates over which the w_d rise from 0).

    `kind` is the heads' loss L_d. `ce` is the cross-entropy of the label. The others compare the head's distribution q
    with the trunk's distribution p of the same token: `kd` is KL(p, q); `reverse_kl` is KL(q, p); `tv` is 1 - alpha,
    where alpha = sum min(p, q) is the expected acceptance rate; `lk_alpha` is -log alpha; `lk_hybrid` is
    l KL(p, q) + (1 - l) (1 - alpha), where l = exp(-eta alpha) of each row has no gradient (arXiv 2602.23881).
    `temperature` and `top_k` (0: all) are those that tokens will be drawn with: p is the trunk's law under them, and q
    has the same temperature. It is not truncated, so that every token that may be drawn has a gradient.
    `smoothing` is the label smoothing of cross-entropies, `chunk` the number of rows whose logits are computed at once.
    """

    kind: Kind = "ce"
    base: float = 1.0
    scale: float = 0.5
    decay: float = 0.8
    normalise: bool = False
    warmup: int = 0
    smoothing: float = 0.0
    eta: float = 3.0
    chunk: int = 1024
    temperature: float = 1.0
    top_k: int = 0

    def __post_init__(self) -> None:
        if self.scale < 0 or self.decay < 0 or self.base < 0 or self.chunk < 1 or self.warmup < 0:
            raise ConfigError(f"loss: base, scale, decay and warmup from 0, chunk from 1 expected, found {self}")
        if self.temperature <= 0 or self.top_k < 0:
            found = f"temperature {self.temperature}, top_k {self.top_k}"
            raise ConfigError(f"loss: {found}, expected a temperature above 0 and top_k from 0")
        if self.top_k and self.kind == "reverse_kl":
            raise ConfigError("loss: reverse_kl with top_k is infinite; take tv, or leave out top_k")


def depth_weights(config: MultiTokenConfig, depth: int, step: int | None = None) -> list[float]:
    """Weights of depths 0..D at update `step`; None means after the warm-up."""
    raw: list[float] = [config.decay**d for d in range(1, depth + 1)]
    whole = float(sum(raw))
    total = whole if config.normalise and whole else 1.0
    risen = 1.0 if step is None or not config.warmup else min(1.0, (step + 1) / config.warmup)
    return [config.base, *(risen * config.scale * r / total for r in raw)]


def in_chunks(run: Callable[..., Tensor], chunk: int, *rows: Tensor) -> Tensor:
    """Sum of `run` over chunks of rows with activation checkpointing: each chunk is recomputed in the backward pass."""
    total = rows[0].new_zeros((), dtype=torch.float32 if rows[0].dtype != torch.float64 else torch.float64)
    again = torch.is_grad_enabled()
    for start in range(0, len(rows[0]), chunk):
        part = [r[start : start + chunk] for r in rows]
        total = total + (checkpoint(run, *part, use_reentrant=False) if again else run(*part))
    return total


def rows_ce(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """Summed cross-entropy of logits [R, V] and labels [R]."""
    return F.cross_entropy(_wide(logits), labels, reduction="sum", label_smoothing=smoothing)


def rows_against_teacher(logits: Tensor, target: Tensor, ids: Tensor | None, config: MultiTokenConfig) -> Tensor:
    """Summed loss of a head's logits [R, V'] against the trunk's logits [R, V].

    `ids` [V'] are the head's tokens if it has a shortlist. Divergences then renormalise the trunk's distribution over
    the shortlist; the expected acceptance rate uses it as it is.
    """
    q = (_wide(logits) / config.temperature).log_softmax(-1)
    p = _truncated(_wide(target) / config.temperature, config.top_k).log_softmax(-1)
    if ids is not None:
        p = p[:, ids]
    inside = p if ids is None else p.log_softmax(-1)
    if config.kind == "kd":
        return _kl(inside, q).sum()
    if config.kind == "reverse_kl":
        return _kl(q, inside).sum()
    alpha = torch.minimum(p, q).exp().sum(-1)
    if config.kind == "tv":
        return (1 - alpha).sum()
    if config.kind == "lk_alpha":
        return -alpha.clamp_min(1e-12).log().sum()
    share = (-config.eta * alpha.detach()).exp()
    return (share * _kl(inside, q) + (1 - share) * (1 - alpha)).sum()


def _kl(p: Tensor, q: Tensor) -> Tensor:
    """KL(p, q) [R] of log-distributions [R, V]; p may have tokens of probability 0, or none at all."""
    absent = ~(p > -torch.inf)  # NaN too, in rows without a token
    return (p.exp().masked_fill(absent, 0) * (p - q).masked_fill(absent, 0)).sum(-1)


def _truncated(logits: Tensor, top_k: int) -> Tensor:
    """Logits with -inf below the `top_k` largest of each row (0: all stay), as transformers truncates."""
    if not 0 < top_k < logits.shape[-1]:
        return logits
    return logits.masked_fill(logits < logits.topk(top_k, -1).values[..., -1:], -torch.inf)


def _wide(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()
