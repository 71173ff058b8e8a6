"""Task `tts`: train a voice (trunk, hints and durations) on units, their durations and the speech tokens of a codec."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from torch import Tensor, nn

from speechmtp.batching import batches_by_size
from speechmtp.config import Range, Seed, Share, Size, check_fields
from speechmtp.data.batch import seeded
from speechmtp.models.bases.contract import UnitModel
from speechmtp.models.bases.table import new_unit_model
from speechmtp.models.bases.unit_settings import UnitModelSettings
from speechmtp.training.loop import LoopConfig, finished, load_finished, run_phase
from speechmtp.training.losses import in_chunks, rows_ce
from speechmtp.training.multi_token import Sequences
from speechmtp.training.optim import OptimConfig
from speechmtp.training.tasks.tts_data import Spoken

CHUNK = 2048  # tokens whose logits are in memory at a time
BUCKET = 8  # batches whose utterances are sorted by length together


@dataclass(frozen=True)
class TtsConfig:
    """Options of one training of a voice. A batch has about `batch_tokens` speech tokens of utterances of similar
    length. `corrupt` is the share of the trunk's input tokens that are replaced by random ones in training, so that it
    does not live on the last token alone; `durations` is the weight of the durations' loss, a unit counting as a
    token."""

    seed: Seed = 0
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    model: UnitModelSettings = field(default_factory=UnitModelSettings)
    steps: Annotated[int, Range(1)] = 8000
    batch_tokens: Size = 2000
    corrupt: Share = 0.05
    dropout: Share = 0.1
    durations: Annotated[float, Range(0)] = 0.5
    optim: OptimConfig = field(
        default_factory=lambda: OptimConfig(lr=2e-3, warmup=200, schedule="cosine", clip=1.0, ema=0.999)
    )
    loop: LoopConfig = field(default_factory=LoopConfig)

    def __post_init__(self) -> None:
        check_fields(self, "tts")


@dataclass(frozen=True)
class SpokenBatch:
    """Utterances in a batch: units `ids`, `words` (-1: padding) and `frames` [B, P], `speed` [B], speech `tokens`
    [B, T] (-1: padding)."""

    ids: Tensor
    words: Tensor
    frames: Tensor
    speed: Tensor
    tokens: Tensor

    @classmethod
    def of(cls, rows: Sequence[Spoken]) -> "SpokenBatch":
        """Pad utterances."""

        def padded(values: Iterable[Sequence[int] | np.ndarray], padding: int) -> Tensor:
            lists = [torch.as_tensor(row, dtype=torch.long) for row in values]
            return nn.utils.rnn.pad_sequence(lists, batch_first=True, padding_value=padding)

        return cls(
            padded((row.ids for row in rows), 0), padded((row.words for row in rows), -1),
            padded((row.frames for row in rows), 0), torch.tensor([row.speed for row in rows]),
            padded((row.tokens for row in rows), -1),
        )  # fmt: skip

    def to(self, device: torch.device) -> "SpokenBatch":
        """Move all tensors."""
        return SpokenBatch(*(getattr(self, name).to(device) for name in ("ids", "words", "frames", "speed", "tokens")))


class SpokenBatches:
    """Batches of utterances of similar length, in another order each epoch. Batch n is a function of n and the seed."""

    def __init__(self, rows: Sequence[Spoken], batch_tokens: int, seed: int) -> None:
        self.rows, self._size, self._seed = rows, batch_tokens, seed
        self.tokens = sum(len(row.tokens) for row in rows)
        self._epochs: dict[int, list[list[int]]] = {}
        self.batches = len(self._epoch(0))

    def batch(self, number: int) -> SpokenBatch:
        """Batch `number`; epochs are unlimited."""
        epoch, place = divmod(number, self.batches)
        found = self._epoch(epoch)
        return SpokenBatch.of([self.rows[i] for i in found[place % len(found)]])

    def _epoch(self, number: int) -> list[list[int]]:
        """The batches of an epoch as lists of indices."""
        if number not in self._epochs:
            draw = seeded("tts", self._seed, number)
            keys = [len(row.tokens) * (1 + 0.2 * share) for row, share in zip(self.rows, draw.random(len(self.rows)))]
            order = sorted(range(len(self.rows)), key=keys.__getitem__)
            groups, group = [], list[int]()
            for index in order:
                longest = max(len(self.rows[i].tokens) for i in [*group, index])
                if group and longest * (len(group) + 1) > self._size:
                    groups.append(group)
                    group = []
                group.append(index)
            groups.append(group)
            self._epochs = {0: self._epochs.get(0, []), number: [groups[i] for i in draw.permutation(len(groups))]}
        return self._epochs[number]


def sequences_of(model: UnitModel, batch: SpokenBatch, corrupt: float = 0.0, dropout: float = 0.0) -> Sequences:
    """Lay out utterances as in decoding: the start entry, then the tokens, each with the hint of the token after it."""
    tokens, known = batch.tokens, batch.tokens >= 0
    size = tokens.shape[1]
    hints = model.hints(batch.ids, batch.words, batch.frames, size, model.config.frames_per_token)
    hints = nn.functional.dropout(hints * known[..., None], dropout, model.training)
    read = tokens.clamp_min(0)
    if corrupt:
        wrong = torch.rand(read.shape, device=read.device) < corrupt
        read = torch.where(wrong, torch.randint_like(read, model.config.tokens), read)
    embedded = model.trunk.embed(read)
    start = model.start.to(embedded.dtype).expand(len(tokens), 1, -1)
    hints = nn.functional.pad(hints, (0, 0, 0, 1))
    embeddings = torch.cat([start, embedded], 1) + hints
    ids = nn.functional.pad(tokens, (1, 0), value=-1)
    segments = nn.functional.pad(known.long() - 1, (1, 0), value=0)
    positions = torch.arange(size + 1, device=tokens.device).expand(len(tokens), -1)
    return Sequences(embeddings, positions, ids, segments, segments >= 0, hints=hints)


class TtsPhase:
    """Training of trunk, hints and durations together."""

    name = "tts"

    def __init__(
        self, config: TtsConfig, model: UnitModel, train: SpokenBatches, dev: SpokenBatches, precision: torch.dtype
    ) -> None:
        self.steps, self.optim, self.module = config.steps, config.optim, model
        self._config, self._model, self._train, self._dev, self._precision = config, model, train, dev, precision
        model.train()

    def parameters(self) -> Iterable[tuple[nn.Parameter, float]]:
        """All weights, at the full learning rate."""
        return ((p, 1.0) for p in self._model.parameters())

    def batch(self, number: int) -> SpokenBatch:
        """Batch `number` of the training utterances."""
        return self._train.batch(number)

    def weight(self, batch: SpokenBatch) -> float:
        """Number of speech tokens."""
        return float((batch.tokens >= 0).sum())

    def loss(self, batch: SpokenBatch, step: int) -> tuple[Tensor, dict[str, float]]:
        """Summed cross-entropy of the tokens, and of the durations with their weight."""
        batch = batch.to(self._model.device)
        with torch.autocast(self._model.device.type, self._precision, enabled=self._precision != torch.float32):
            nats = self._nats(batch, self._config.corrupt, self._config.dropout)
            model, lengths = self._model, batch.frames
            spans = model.durations.loss(batch.ids, batch.words, batch.speed, lengths)
        return nats + self._config.durations * spans, {"nats": float(nats.detach())}

    def _nats(self, batch: SpokenBatch, corrupt: float = 0.0, dropout: float = 0.0) -> Tensor:
        sequences = sequences_of(self._model, batch, corrupt, dropout)
        hidden = self._model.trunk(sequences.embeddings, sequences.positions, sequences.segments).hidden[:, :-1]
        asked = batch.tokens >= 0
        return in_chunks(
            lambda h, y: rows_ce(self._model.trunk.unembed(h), y), CHUNK, hidden[asked], batch.tokens[asked]
        )

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Nats per token, and per unit of the durations, and the mean error of durations in milliseconds, on the
        development set."""
        nats, spans, error, units = 0.0, 0.0, 0.0, 0
        model = self._model
        for indices in batches_by_size([len(row.tokens) for row in self._dev.rows], 16):
            batch = SpokenBatch.of([self._dev.rows[i] for i in indices]).to(model.device)
            nats += float(self._nats(batch))
            spans += float(model.durations.loss(batch.ids, batch.words, batch.speed, batch.frames))
            known = batch.words >= 0
            guess = model.durations(batch.ids, batch.words) / batch.speed[:, None]
            error += float((guess - batch.frames)[known].abs().sum()) * 12.5
            units += int(known.sum())
        nats /= self._dev.tokens
        return {"score": nats, "nats": nats, "duration_nats": spans / units, "duration_ms": error / units}


def train_voice(
    config: TtsConfig, train: Sequence[Spoken], dev: Sequence[Spoken], out: Path, precision: torch.dtype,
    resume: bool = False, device: torch.device | None = None,
) -> tuple[UnitModel, dict[str, float]]:  # fmt: skip
    """Train a voice in folder `out`, with its final weights selected on `dev`; returns it and its development
    metrics."""
    torch.manual_seed(config.seed)
    model = new_unit_model(config.model).to(device)
    phase = TtsPhase(
        config, model, SpokenBatches(train, config.batch_tokens, config.seed),
        SpokenBatches(dev, config.batch_tokens, config.seed), precision,
    )  # fmt: skip
    if resume and finished(out):
        figures = load_finished(model, out)
    else:
        figures = run_phase(phase, out, config.loop, config.seed, resume)
    model.eval()
    return model, figures
