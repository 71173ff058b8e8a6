"""Phase `ctc`: train the encoder and its CTC head on audio, with consistency between two augmented views.

Consistency-regularised CTC: arXiv 2410.05101; intermediate CTC: arXiv 2102.03216; dynamic chunks: arXiv 2012.05481.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechmtp.audio.augment import SpecAugmentConfig, spec_augment
from speechmtp.audio.warp import warp_frequency
from speechmtp.batching import ROWS, batches_by_size
from speechmtp.config import Range
from speechmtp.data.batch import BatchConfig, BatchPlan, Item, feasible, seeded
from speechmtp.data.feature_store import FeatureStore, pad
from speechmtp.errors import DataError
from speechmtp.models.ctc_labels import greedy_labels
from speechmtp.models.encoder import Encoder, EncoderOutput
from speechmtp.training.error_rate import count_errors
from speechmtp.training.optim import OptimConfig


@dataclass(frozen=True)
class AugmentConfig:
    """Augmentation of one view: masks, warping of the frequency axis (vocal tract length), and level."""

    masks: SpecAugmentConfig = field(default_factory=SpecAugmentConfig)
    warp: float = 0.1  # frequency axis scaled by 1 +- this
    gain: float = 0.3  # offset of all log energies, in standard deviations


@dataclass(frozen=True)
class ChunkConfig:
    """Attention context, sampled per batch: the whole utterance with probability `full`, else a chunk size from
    `chunks` and a left context from `left`."""

    full: float = 0.6
    chunks: tuple[int, ...] = (4, 8, 16)
    left: tuple[int, ...] = (-1, 4, 8)


@dataclass(frozen=True)
class CtcPhaseConfig:
    """Options of the phase that trains the encoder alone."""

    kind: Literal["ctc"] = "ctc"
    name: str = "ctc"
    steps: Annotated[int, Range(1)] = 4000
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(lr=1.5e-3, warmup=400))
    batch: BatchConfig = field(default_factory=BatchConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    chunk: ChunkConfig = field(default_factory=ChunkConfig)
    consistency: float = 0.2  # 0: one view a step
    inter_weight: float = 0.3


@dataclass(frozen=True)
class AudioBatch:
    """Features `frames` [B, T, F] before augmentation, and `targets` [B, U] without end tokens, padded with 0; both
    with their lengths [B]."""

    ids: tuple[str, ...]
    frames: Tensor
    lengths: Tensor
    targets: Tensor
    target_lengths: Tensor


@dataclass(frozen=True)
class AudioData:
    """Features, token ids and durations (seconds) of a data directory; `dropped` utterances were too short for CTC."""

    store: FeatureStore
    tokens: dict[str, list[int]]
    durations: dict[str, float]
    dropped: tuple[str, ...] = ()

    def collate(self, items: Iterable[Item]) -> AudioBatch:
        """The batch of (utterance, speed) pairs."""
        items = list(items)
        frames, lengths = pad([self.store.get(*item) for item in items])
        ids = [torch.tensor(self.tokens[name], dtype=torch.long) for name, _ in items]
        target_lengths = torch.tensor([len(i) for i in ids])
        targets = nn.utils.rnn.pad_sequence(ids, batch_first=True)
        return AudioBatch(tuple(name for name, _ in items), frames, lengths, targets, target_lengths)

    def usable(self, fastest: float, stride: int, hop_s: float, limit: float = 0.005) -> "AudioData":
        """The data without utterances that are too short for CTC at speed `fastest`. DataError if their share is above
        `limit`."""
        short = [
            name for name, ids in self.tokens.items()
            if not feasible(int((self.durations[name] / fastest - 0.025) / hop_s) // stride, ids)
        ]  # fmt: skip
        if len(short) > limit * len(self.tokens):
            raise DataError(
                f"{len(short)} of {len(self.tokens)} utterances are too short for their transcripts at speed "
                f"{fastest} (first: {short[0]}); check the transcripts or use larger pieces"
            )
        keep = {n: d for n, d in self.durations.items() if n not in set(short)}
        return AudioData(self.store, {n: self.tokens[n] for n in keep}, keep, tuple(short))


def augment(frames: Tensor, lengths: Tensor, config: AugmentConfig, generator: torch.Generator) -> Tensor:
    """Augment normalised features [B, T, F] of `lengths` [B]."""
    rows = len(frames)
    if config.warp:
        factors = 1 + config.warp * (2 * torch.rand(rows, generator=generator) - 1)
        frames = warp_frequency(frames, factors)
    if config.gain:
        frames = frames + config.gain * torch.randn(rows, 1, 1, generator=generator)
    return spec_augment(frames, lengths, config.masks, generator)


def ctc_loss(logits: Tensor, lengths: Tensor, targets: Tensor, target_lengths: Tensor, blank: int) -> Tensor:
    """Summed CTC loss of logits [B, S, V + 1]. Rows that are too short for their targets count as zero."""
    log_probs = logits.float().log_softmax(-1).transpose(0, 1)
    return F.ctc_loss(log_probs, targets, lengths, target_lengths, blank, reduction="sum", zero_infinity=True)


def consistency_loss(logits: Tensor, lengths: Tensor) -> Tensor:
    """Summed symmetric KL divergence between the two halves of a doubled batch of logits [2 B, S, V + 1]; in each
    direction the target half gets no gradient."""
    log_probs = logits.float().log_softmax(-1)
    first, second = log_probs.chunk(2)
    valid = torch.arange(first.shape[1], device=log_probs.device) < lengths[: len(first), None]
    both = F.kl_div(first, second.detach(), reduction="none", log_target=True) + F.kl_div(
        second, first.detach(), reduction="none", log_target=True
    )
    return (both.sum(-1) * valid).sum()


class CtcPhase:
    """Training of the encoder on audio batches."""

    def __init__(
        self, config: CtcPhaseConfig, encoder: Encoder, train: AudioData, dev: AudioData, seed: int,
        precision: torch.dtype,
    ) -> None:  # fmt: skip
        self.name, self.steps, self.optim, self.module = config.name, config.steps, config.optim, encoder
        self._config, self._encoder, self._seed, self._precision = config, encoder, seed, precision
        self._train, self._dev = train.usable(max(config.batch.speeds), encoder.stride, 0.01), dev
        self._plan = BatchPlan(self._train.durations, config.batch, seed)
        self.dropped = self._train.dropped
        self._device = encoder.mean.device
        encoder.train()

    def parameters(self) -> Iterable[tuple[nn.Parameter, float]]:
        return ((p, 1.0) for p in self._encoder.parameters())

    def batch(self, number: int) -> AudioBatch:
        return self._train.collate(self._plan.batch(number))

    def weight(self, batch: AudioBatch) -> float:
        return float(batch.target_lengths.sum())

    def encode(self, batch: AudioBatch, views: int, key: tuple[object, ...]) -> EncoderOutput:
        """Encoder output of `views` augmented copies of a batch, stacked along the batch axis. All random choices are
        functions of the seed and `key`."""
        random = seeded("augment", self._seed, *key)
        generator = torch.Generator().manual_seed(int(random.integers(1 << 62)))
        cpu = (batch.frames - self._encoder.mean.cpu()) / self._encoder.std.cpu()
        frames = torch.cat([augment(cpu, batch.lengths, self._config.augment, generator) for _ in range(views)])
        chunks = self._config.chunk
        chunk, left = 0, -1
        if random.random() >= chunks.full:
            chunk, left = int(random.choice(chunks.chunks)), int(random.choice(chunks.left))
        lengths = batch.lengths.repeat(views).to(self._device)
        with torch.autocast(self._device.type, self._precision, enabled=self._precision != torch.float32):
            return self._encoder(frames.to(self._device), lengths, chunk, left, normalised=True)

    def loss(self, batch: AudioBatch, step: int) -> tuple[Tensor, dict[str, float]]:
        views = 2 if self._config.consistency else 1
        # The random key comes from torch's generator, which the loop seeds for each micro-batch.
        out = self.encode(batch, views, (self.name, int(torch.randint(1 << 30, ()))))
        targets = batch.targets.repeat(views, 1).to(self._device)
        sizes = batch.target_lengths.repeat(views).to(self._device)
        parts = [
            ctc_loss(z, out.lengths, targets, sizes, self._encoder.blank) / views for z in [out.logits, *out.inter]
        ]
        final, inter = parts[0], torch.stack(parts[1:]).mean() if len(parts) > 1 else parts[0]
        loss = (1 - self._config.inter_weight) * final + self._config.inter_weight * inter
        values = {"ctc": float(final.detach()), "inter": float(inter.detach())}
        if self._config.consistency:
            warm = min(1.0, step / max(1, 2 * self.optim.warmup))
            agreement = consistency_loss(out.logits, out.lengths) / 2
            loss = loss + self._config.consistency * warm * agreement
            values["consistency"] = float(agreement.detach())
        return loss, values

    def evaluate(self) -> dict[str, float]:
        """Token error rate in percent of greedy CTC labels with full context, and the CTC loss per token."""
        rate, loss = ctc_error_rate(self._encoder, self._dev)
        return {"score": 100 * rate, "ter": 100 * rate, "loss": loss}


@torch.no_grad()
def ctc_error_rate(encoder: Encoder, data: AudioData) -> tuple[float, float]:
    """Token error rate (0..1) of greedy CTC labels with full context, and the CTC loss per token."""
    encoder.eval()
    pairs: list[tuple[list[int], list[int]]] = []
    loss = 0.0
    device = encoder.mean.device
    for batch in evaluation_batches(data):
        out = encoder(batch.frames.to(device), batch.lengths.to(device), 0)
        targets, sizes = batch.targets.to(device), batch.target_lengths.to(device)
        loss += float(ctc_loss(out.logits, out.lengths, targets, sizes, encoder.blank))
        pairs += zip((data.tokens[name] for name in batch.ids), greedy_labels(out.logits, out.lengths))
    errors, tokens = count_errors(pairs)
    return errors / tokens, loss / tokens


def evaluation_batches(data: AudioData, rows: int = ROWS) -> Iterable[AudioBatch]:
    """Batches of all utterances, at their recorded speed, sorted by length."""
    names = list(data.tokens)
    for batch in batches_by_size([data.durations[name] for name in names], rows):
        yield data.collate((names[index], 1.0) for index in batch)


@torch.no_grad()
def set_statistics(encoder: Encoder, data: AudioData, max_utterances: int = 1000) -> None:
    """Set the encoder's mean and standard deviation per feature bin from about `max_utterances` training utterances."""
    names = sorted(data.tokens)
    frames = torch.cat([data.store.get(name) for name in names[:: max(1, len(names) // max_utterances)]]).double()
    encoder.mean.copy_(frames.mean(0))
    encoder.std.copy_(frames.std(0).clamp_min(1e-3))
