"""Phase `text`: train adapter, trunk and heads on text alone, with simulated CTC segments in place of audio."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from torch import Tensor, nn

from speechmtp.audio.augment import SpecAugmentConfig
from speechmtp.config import Range, Size
from speechmtp.data.batch import seeded
from speechmtp.errors import ConfigError, DataError
from speechmtp.heads.contract import HeadSet
from speechmtp.models.adapter import CtcMerge
from speechmtp.models.encoder_lm import EncoderLM
from speechmtp.models.segments import Segments
from speechmtp.text.tokenizer import Tokenizer
from speechmtp.training.losses import MultiTokenConfig
from speechmtp.training.multi_token import pad_text
from speechmtp.training.optim import OptimConfig
from speechmtp.training.simulate import NoiseConfig, SegmentBank, collect, simulate
from speechmtp.training.tasks.ctc import AudioData, AugmentConfig, augment, ctc_error_rate
from speechmtp.training.tasks.trunk_loss import decoded_error_rate, trunk_loss

POOL = 8  # batches whose texts are sampled together


@dataclass(frozen=True)
class TextSource:
    """A text file (one sentence per line; with `kaldi`, an id before it) and its sampling weight."""

    path: str
    weight: float = 1.0
    kaldi: bool = False


@dataclass(frozen=True)
class TextPhaseConfig:
    """Options of the phase that trains adapter, trunk and heads on text. ConfigError for missing or invalid values."""

    kind: Literal["text"] = "text"
    name: str = "text"
    steps: Annotated[int, Range(1)] = 4000
    rows: Size = 64
    texts: tuple[TextSource, ...] = (TextSource("data/train/text", 1.0, True),)
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(lr=2e-3, warmup=300, schedule="cosine", clip=1.0))
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    loss: MultiTokenConfig = field(default_factory=MultiTokenConfig)
    strengths: tuple[float, ...] = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0)  # augmentation strengths, tried in this order
    passes: Annotated[int, Range(1)] = 3  # passes over the training audio to collect segments

    def __post_init__(self) -> None:
        if not self.texts or not self.strengths or self.rows < 1 or min(t.weight for t in self.texts) <= 0:
            raise ConfigError(f"{self.name}: texts of positive weight, strengths and rows are needed, found {self}")


@dataclass(frozen=True)
class TextBatch:
    """Simulated segments, and the token ids [B, L] and lengths [B] of their texts."""

    segments: Segments
    ids: Tensor
    lengths: Tensor


def read_texts(source: TextSource, tokenizer: Tokenizer, normalize: Callable[[str], str] = str) -> list[list[int]]:
    """Token ids of all lines without unknown tokens, normalised like the transcripts. DataError for a file that cannot
    be read, is not UTF-8 or has no such line."""
    try:
        lines = Path(source.path).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DataError(f"{source.path}: {error.strerror or error}; a text file is expected") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{source.path}: byte {error.start} is not UTF-8; convert the file") from error
    if source.kaldi:
        lines = [" ".join(line.split(maxsplit=1)[1:]) for line in lines]
    texts = [tokenizer.encode(normalize(line)) for line in lines if line.strip()]
    texts = [t for t in texts if t and tokenizer.unk not in t]
    if not texts:
        raise DataError(f"{source.path}: no line that the tokenizer can spell; check its case and characters")
    return texts


class TextStream:
    """Noisy batches of the texts, each a pure function of its number."""

    def __init__(
        self, config: TextPhaseConfig, tokenizer: Tokenizer, bank: SegmentBank, seed: int,
        normalize: Callable[[str], str] = str,
    ) -> None:  # fmt: skip
        self._texts = [read_texts(source, tokenizer, normalize) for source in config.texts]
        weights = np.array([source.weight for source in config.texts])
        self._weights = weights / weights.sum()
        self._config, self._bank, self._seed, self._tokenizer = config, bank, seed, tokenizer

    def batch(self, number: int) -> TextBatch:
        """Batch `number`."""
        # Texts are sampled a pool at a time and sorted, so that a batch holds texts of similar length.
        random = seeded("texts", self._seed, number // POOL)
        sources = random.choice(len(self._texts), POOL * self._config.rows, p=self._weights)
        pool = [self._texts[s][int(random.integers(len(self._texts[s])))] for s in sources]
        pool.sort(key=len)
        place = int(random.permutation(POOL)[number % POOL])
        texts = pool[place * self._config.rows : (place + 1) * self._config.rows]
        random = seeded("noise", self._seed, number)
        ids, lengths = pad_text(texts, self._tokenizer.bos, self._tokenizer.eos)
        return TextBatch(simulate(texts, self._bank, self._config.noise, random), ids, lengths)


@torch.no_grad()
def build_bank(model: EncoderLM, train: AudioData, dev_rate: float, config: TextPhaseConfig, seed: int) -> SegmentBank:
    """Collect a bank of segments from training audio, augmented strongly enough to reach the CTC error rate `dev_rate`
    of the development set. Without augmentation, CTC makes almost no errors on training audio. ConfigError for an
    adapter other than `ctc_merge`."""
    if not isinstance(model.adapter, CtcMerge):
        raise ConfigError("model.adapter: the text phase simulates CTC segments; set its kind to ctc_merge")
    names = sorted(train.tokens)
    probe = names[:: max(1, len(names) // 150)]
    model.encoder.eval()
    for strength in config.strengths:
        bank = _collect(model, train, probe, strength, (1.0,), seed)
        if bank.error_rate >= dev_rate:
            break
    bank = SegmentBank(model.encoder.blank)
    for number in range(config.passes):
        bank = _collect(model, train, names, strength, (0.9, 1.0, 1.1), seed + 1 + number, bank)
    bank.freeze(config.noise.smooth, dev_rate)
    return bank


def _collect(
    model: EncoderLM, train: AudioData, names: list[str], strength: float, speeds: tuple[float, ...], seed: int,
    bank: SegmentBank | None = None,
) -> SegmentBank:  # fmt: skip
    bank = bank or SegmentBank(model.encoder.blank)
    random = seeded("bank", seed)
    generator = torch.Generator().manual_seed(seed)
    masks = SpecAugmentConfig(freq_width=min(60, int(20 * strength)), time_fraction=min(0.3, 0.04 * strength))
    settings = AugmentConfig(masks, warp=min(0.2, 0.1 * strength))
    device = model.encoder.mean.device
    assert isinstance(model.adapter, CtcMerge)
    for start in range(0, len(names), 16):
        batch = train.collate((n, float(random.choice(speeds))) for n in names[start : start + 16])
        frames = (batch.frames - model.encoder.mean.cpu()) / model.encoder.std.cpu()
        frames = augment(frames, batch.lengths, settings, generator)
        out = model.encoder(frames.to(device), batch.lengths.to(device), 0, normalised=True)
        collect(bank, (train.tokens[n] for n in batch.ids), model.adapter.segments(out))
    return bank


class TextPhase:
    """Training of adapter, trunk and heads on simulated segments."""

    def __init__(
        self, config: TextPhaseConfig, model: EncoderLM, heads: HeadSet, train: AudioData, dev: AudioData,
        tokenizer: Tokenizer, seed: int, precision: torch.dtype, normalize: Callable[[str], str] = str,
    ) -> None:  # fmt: skip
        self.name, self.steps, self.optim = config.name, config.steps, config.optim
        self.module = nn.ModuleDict({"adapter": model.adapter, "trunk": model.trunk, "heads": heads})
        self._config, self._model, self._heads, self._dev = config, model, heads, dev
        self._tokenizer, self._precision = tokenizer, precision
        self._device = model.encoder.mean.device
        bank = build_bank(model, train, ctc_error_rate(model.encoder, dev)[0], config, seed)
        self._stream = TextStream(config, tokenizer, bank, seed, normalize)
        self.module.train()

    def parameters(self) -> Iterable[tuple[nn.Parameter, float]]:
        return ((p, 1.0) for p in self.module.parameters() if p.requires_grad)

    def batch(self, number: int) -> TextBatch:
        return self._stream.batch(number)

    def weight(self, batch: TextBatch) -> float:
        return float((batch.lengths - 1).sum())

    def loss(self, batch: TextBatch, step: int) -> tuple[Tensor, dict[str, float]]:
        with torch.autocast(self._device.type, self._precision, enabled=self._precision != torch.float32):
            return text_loss(self._model, self._heads, batch, self._config.loss, step)

    def evaluate(self) -> dict[str, float]:
        """Error rates of plain decoding on real development audio."""
        return decoded_error_rate(self._model, self._dev, self._tokenizer)


def text_loss(
    model: EncoderLM, heads: HeadSet, batch: TextBatch, config: MultiTokenConfig, step: int | None = None
) -> tuple[Tensor, dict[str, float]]:
    """The multi-token loss on a batch of simulated segments, and sums for the log."""
    device = model.encoder.mean.device
    s = batch.segments
    moved = replace(s, posterior=s.posterior.to(device), features=s.features.to(device), lengths=s.lengths.to(device))
    return trunk_loss(model, heads, model.adapter(moved), batch.ids.to(device), batch.lengths.to(device), config, step)
