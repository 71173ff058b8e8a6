"""Phase `joint`: train the whole model on audio, mixed with text-only batches."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from speechmtp.config import Range
from speechmtp.data.batch import BatchConfig
from speechmtp.heads.contract import HeadSet
from speechmtp.models.encoder import EncoderOutput
from speechmtp.models.encoder_lm import EncoderLM
from speechmtp.models.segments import Segments
from speechmtp.text.tokenizer import Tokenizer
from speechmtp.training.losses import MultiTokenConfig
from speechmtp.training.multi_token import pad_text
from speechmtp.training.optim import OptimConfig
from speechmtp.training.tasks.ctc import (
    AudioBatch,
    AudioData,
    AugmentConfig,
    ChunkConfig,
    CtcPhase,
    CtcPhaseConfig,
    ctc_error_rate,
    ctc_loss,
)
from speechmtp.training.tasks.text import TextBatch, TextPhaseConfig, TextStream, build_bank, text_loss
from speechmtp.training.tasks.trunk_loss import decoded_error_rate, trunk_loss


@dataclass(frozen=True)
class JointPhaseConfig:
    """Options of the joint phase; each micro-batch is an audio batch and, if `text` is given, a text batch."""

    kind: Literal["joint"] = "joint"
    name: str = "joint"
    steps: Annotated[int, Range(1)] = 600
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(lr=5e-4, warmup=100, clip=1.0))
    batch: BatchConfig = field(default_factory=BatchConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    chunk: ChunkConfig = field(default_factory=ChunkConfig)
    loss: MultiTokenConfig = field(default_factory=MultiTokenConfig)
    text: TextPhaseConfig | None = None
    encoder_factor: float = 0.1  # of the learning rate; 0 freezes the encoder
    ctc_weight: float = 0.3
    inter_weight: float = 0.3


class JointPhase:
    """Training of encoder, adapter, trunk and heads on real audio."""

    def __init__(
        self, config: JointPhaseConfig, model: EncoderLM, heads: HeadSet, train: AudioData, dev: AudioData,
        tokenizer: Tokenizer, seed: int, precision: torch.dtype, normalize: Callable[[str], str] = str,
    ) -> None:  # fmt: skip
        self.name, self.steps, self.optim = config.name, config.steps, config.optim
        self.module = nn.ModuleDict({"model": model, "heads": heads})
        self._config, self._model, self._heads, self._dev = config, model, heads, dev
        self._tokenizer, self._precision = tokenizer, precision
        self._device = model.encoder.mean.device
        audio = CtcPhaseConfig(batch=config.batch, augment=config.augment, chunk=config.chunk)
        self._audio = CtcPhase(audio, model.encoder, train, dev, seed, precision)
        self.dropped = self._audio.dropped
        self._text: TextStream | None = None
        if config.text is not None:
            bank = build_bank(model, train, ctc_error_rate(model.encoder, dev)[0], config.text, seed)
            self._text = TextStream(config.text, tokenizer, bank, seed, normalize)
        self.module.train()

    def parameters(self) -> Iterable[tuple[nn.Parameter, float]]:
        encoder = {id(p) for p in self._model.encoder.parameters()}
        for parameter in self.module.parameters():
            factor = self._config.encoder_factor if id(parameter) in encoder else 1.0
            if parameter.requires_grad and factor:
                yield parameter, factor

    def batch(self, number: int) -> tuple[AudioBatch, TextBatch | None]:
        return self._audio.batch(number), self._text.batch(number) if self._text else None

    def weight(self, batch: tuple[AudioBatch, TextBatch | None]) -> float:
        audio, text = batch
        return float((audio.target_lengths + 1).sum()) + (float((text.lengths - 1).sum()) if text else 0.0)

    def loss(self, batch: tuple[AudioBatch, TextBatch | None], step: int) -> tuple[Tensor, dict[str, float]]:
        audio, text = batch
        config = self._config
        out = self._audio.encode(audio, 1, (self.name, int(torch.randint(1 << 30, ()))))
        with torch.autocast(self._device.type, self._precision, enabled=self._precision != torch.float32):
            loss, values = self._trunk_loss(out, audio, step)
            ctc = self._ctc(out, audio)
            loss = loss + config.ctc_weight * ctc
            values["ctc"] = float(ctc.detach())
            if text is not None:
                read, read_values = text_loss(self._model, self._heads, text, config.loss, step)
                loss = loss + read
                values |= {f"text_{k}": v for k, v in read_values.items()}
        return loss, values

    def _trunk_loss(self, out: EncoderOutput, audio: AudioBatch, step: int) -> tuple[Tensor, dict[str, float]]:
        """The trunk's loss; CTC posteriors get no gradient, so it reaches the encoder only through acoustic states."""
        adapter = self._model.adapter
        parts = adapter.segments(out)
        if isinstance(parts, Segments):
            parts = replace(parts, posterior=parts.posterior.detach(), features=parts.features.detach())
        without = torch.rand(len(audio.lengths)).to(self._device) < getattr(adapter.config, "absent", 0.0)
        ids = [t[:n].tolist() for t, n in zip(audio.targets, audio.target_lengths.tolist())]
        text, lengths = pad_text(ids, self._tokenizer.bos, self._tokenizer.eos)
        prompt = adapter(parts, without)
        return trunk_loss(
            self._model, self._heads, prompt, text.to(self._device), lengths.to(self._device), self._config.loss, step
        )

    def _ctc(self, out: EncoderOutput, audio: AudioBatch) -> Tensor:
        targets, sizes = audio.targets.to(self._device), audio.target_lengths.to(self._device)
        blank = self._model.encoder.blank
        final = ctc_loss(out.logits, out.lengths, targets, sizes, blank)
        if not out.inter:
            return final
        inter = torch.stack([ctc_loss(z, out.lengths, targets, sizes, blank) for z in out.inter]).mean()
        return (1 - self._config.inter_weight) * final + self._config.inter_weight * inter

    def evaluate(self) -> dict[str, float]:
        """Error rates of plain decoding on real development audio."""
        return decoded_error_rate(self._model, self._dev, self._tokenizer)
