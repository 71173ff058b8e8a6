"""Task `codec`: train the networks of `unit25` on crops, as they are when it decodes by quanta."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated

import torch
from torch import Tensor, nn

from speechmtp.codec import signal
from speechmtp.codec.unit25 import AHEAD, QUANTUM, TOKENS, Unit25Codec, Unit25Config
from speechmtp.config import Range, Seed, Size, check_fields
from speechmtp.training.loop import LoopConfig, finished, load_finished, run_phase
from speechmtp.training.optim import OptimConfig
from speechmtp.training.tasks.codec_data import CodecBatch, Crops, Recording

RESOLUTIONS = (512, 1024, 2048)  # samples of the windows of the loss
MELS = 80
WARM = QUANTUM + signal.OVERLAP // 2  # frames at the head of a crop that are not compared


@dataclass(frozen=True)
class CodecTrainConfig:
    """Options of one training of a codec. A batch has `rows` crops of `quanta` quanta (200 ms), of which the first has
    no past and is not compared. `dev_batches` crops of the development set are compared at every evaluation."""

    seed: Seed = 0
    codec: Unit25Config = field(default_factory=Unit25Config)
    steps: Annotated[int, Range(1)] = 2000
    rows: Size = 8
    quanta: Annotated[int, Range(3, 64)] = 5
    mel_weight: Annotated[float, Range(0)] = 1.0
    dev_batches: Annotated[int, Range(1)] = 6
    optim: OptimConfig = field(
        default_factory=lambda: OptimConfig(
            lr=2e-4, warmup=50, schedule="cosine", betas=(0.8, 0.99), clip=5.0, ema=0.99
        )
    )
    loop: LoopConfig = field(default_factory=lambda: LoopConfig(evaluate_every=250, save_every=100))

    def __post_init__(self) -> None:
        check_fields(self, "train codec")


def render(codec: Unit25Codec, batch: CodecBatch) -> Tensor:
    """The samples [B, N] of crops from their third block of the second quantum on, all quanta beside each other. Phases
    and noise are drawn from torch's generator."""
    features = codec.encoder(batch.view)
    rows = len(batch.units)
    row = torch.arange(rows, device=features.device)[:, None, None]
    hertz, curves = codec.curves(batch.tokens, _codes(codec, batch))
    inputs = torch.cat([features[row, batch.units], curves], -1)
    parts, _ = codec.decoder(inputs, batch.mask, codec.decoder.start(rows), codec.config.ahead)
    line = torch.cat([hertz[:, :, :QUANTUM].flatten(1), hertz[:, -1, QUANTUM : QUANTUM + 1]], 1)
    phase = torch.rand(rows, 1, dtype=torch.float64, device=features.device)
    train, _ = signal.pulse_train(signal.to_samples(torch.cat([line[:, :1], line], 1)), phase)
    source = signal.analyse(nn.functional.pad(train, (signal.DELAY, signal.HOP)))
    noise = torch.randn(*source.shape, 2, device=features.device)
    spectrum = signal.spectra(parts.flatten(1, 2), source, torch.view_as_complex(noise))
    spectrum = spectrum * batch.mask[:, :, :QUANTUM].flatten(1, 2)
    before = noise.new_zeros(rows, signal.OVERLAP - 1, signal.HOP)
    blocks, _ = signal.overlap_add(spectrum, before)
    return blocks[:, WARM:].flatten(1) / signal.FULL


def _codes(codec: Unit25Codec, batch: CodecBatch) -> Tensor | None:
    """The codes of learned digits [B, Q, 8, D] around every quantum, from the recordings; None without digits."""
    if codec.digits is None:
        return None
    codes, _ = codec.digits(batch.samples)
    quanta = batch.tokens.shape[1]
    at = torch.arange(quanta, device=codes.device)[:, None] * TOKENS + torch.arange(
        -1, TOKENS + AHEAD, device=codes.device
    )
    return codes[:, at.clamp(0, codes.shape[1] - 1)]


def compared(batch: CodecBatch) -> Tensor:
    """The samples [B, N] of the recordings where `render` has its own."""
    blocks = batch.samples.unflatten(1, (-1, signal.HOP))
    return blocks[:, QUANTUM : blocks.shape[1] - signal.OVERLAP // 2].flatten(1)


def spectral_loss(found: Tensor, wanted: Tensor, mel_weight: float) -> tuple[Tensor, dict[str, float]]:
    """The loss of samples [B, N], a mean over everything: at three resolutions the L1 distance of log magnitudes and
    the relative distance of magnitudes, and the L1 distance of log mels."""
    log, relative, mel = (found.new_zeros(()) for _ in range(3))
    for size in RESOLUTIONS:
        ours, theirs = (_magnitudes(one, size) for one in (found, wanted))
        log = log + (torch.log(ours) - torch.log(theirs)).abs().mean()
        relative = relative + (ours - theirs).norm() / theirs.norm().clamp_min(1e-3)
        bands = _mel_filters(size).to(found.device)
        mel = mel + (torch.log(1e-3 + bands @ ours) - torch.log(1e-3 + bands @ theirs)).abs().mean()
    count = len(RESOLUTIONS)
    loss = (log + relative + mel_weight * mel) / count
    return loss, {"mel": float(mel.detach()) / count, "log": float(log.detach()) / count}


def _magnitudes(samples: Tensor, size: int) -> Tensor:
    window = torch.hann_window(size, device=samples.device)
    found = torch.stft(samples, size, size // 4, window=window, return_complex=True)
    return (found.real.square() + found.imag.square() + 1e-7).sqrt()


@cache
def _mel_filters(size: int) -> Tensor:
    """Triangular filters [80, bins], on the mel scale up to 12 kHz."""
    top = 2595 * math.log10(1 + signal.RATE / 2 / 700)
    points = 700 * (10 ** (torch.linspace(0, top, MELS + 2, dtype=torch.float64) / 2595) - 1)
    bins = torch.linspace(0, signal.RATE / 2, size // 2 + 1, dtype=torch.float64)
    rising = (bins - points[:-2, None]) / points.diff()[:-1, None]
    falling = (points[2:, None] - bins) / points.diff()[1:, None]
    filters = torch.minimum(rising, falling).clamp_min(0)
    return (filters / filters.sum(1, keepdim=True).clamp_min(1e-6)).float()


class CodecPhase:
    """Training of a codec on crops."""

    def __init__(self, config: CodecTrainConfig, codec: Unit25Codec, train: Crops, dev: Crops) -> None:
        self.name, self.steps, self.optim, self.module = "codec", config.steps, config.optim, codec
        self._config, self._codec, self._train, self._dev = config, codec, train, dev
        codec.train()

    def parameters(self) -> Iterable[tuple[nn.Parameter, float]]:
        return ((p, 1.0) for p in self._codec.parameters())

    def batch(self, number: int) -> CodecBatch:
        return self._train.batch(number).to(self._codec.weight.device)

    def weight(self, batch: CodecBatch) -> float:
        return float(len(batch.samples))

    def loss(self, batch: CodecBatch, step: int) -> tuple[Tensor, dict[str, float]]:
        """The loss summed over rows."""
        loss, parts = spectral_loss(render(self._codec, batch), compared(batch), self._config.mel_weight)
        rows = self.weight(batch)
        return loss * rows, {name: value * rows for name, value in parts.items()}

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """The loss and the distance of log mels on crops of the development set."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            sums: dict[str, float] = {}
            for number in range(self._config.dev_batches):
                batch = self._dev.batch(number).to(self._codec.weight.device)
                loss, parts = spectral_loss(render(self._codec, batch), compared(batch), self._config.mel_weight)
                for name, value in (parts | {"score": float(loss)}).items():
                    sums[name] = sums.get(name, 0.0) + value / self._config.dev_batches
        return sums


def train_codec(
    config: CodecTrainConfig, codec: Unit25Codec, train: list[Recording], dev: list[Recording], out: Path,
    resume: bool = False, allow_pipes: bool = False, device: torch.device | None = None,
) -> dict[str, float]:  # fmt: skip
    """Train a codec on recordings in the folder `out`; its final weights are selected on `dev`. Returns the development
    metrics."""
    torch.manual_seed(config.seed)
    codec.to(device)
    word = config.codec.text_context == "word"
    crops = [
        Crops(part, config.rows, config.quanta, config.codec.ahead, word, config.seed, allow_pipes)
        for part in (train, dev)
    ]
    phase = CodecPhase(config, codec, *crops)
    if resume and finished(out):
        figures = load_finished(codec, out)
    else:
        figures = run_phase(phase, out, config.loop, config.seed, resume)
    codec.to("cpu").eval()
    return figures
