"""Task `ctc`: a head that spells what a pretrained recogniser says, on its encoder as it is."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from rapidfuzz.distance import Levenshtein
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from speechmtp.audio.augment import SpecAugmentConfig, spec_augment
from speechmtp.data.batch import pooled_rows
from speechmtp.errors import ConfigError, DataError
from speechmtp.models.character_ctc import CharacterCtcConfig, CharacterCtcHead
from speechmtp.training.loop import LoopConfig
from speechmtp.training.optim import OptimConfig
from speechmtp.training.tasks.ctc import ctc_loss, greedy_labels
from speechmtp.training.tasks.encoder_cache import EncodedUtterance

MIN_COUNT = 3  # a character that training texts have less often is not written


@dataclass(frozen=True)
class CharacterCtcTrainConfig:
    """One training. `ctc.characters`, if empty, are those of the training texts; `targets`: `own` is what the model
    itself says, `text` the transcripts; `passes` over the training audio, all but the first at other speeds, drawn by
    `prompts_seed`; `masks` are SpecAugment's (arXiv 1904.08779) over encoder states."""

    seed: int = 0
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    ctc: CharacterCtcConfig = field(default_factory=CharacterCtcConfig)
    targets: Literal["own", "text"] = "own"
    passes: int = 1
    prompts_seed: int = 0
    steps: int = 2000
    rows: int = 32
    masks: SpecAugmentConfig = field(default_factory=lambda: SpecAugmentConfig(freq_width=40, time_masks=5))
    optim: OptimConfig = field(
        default_factory=lambda: OptimConfig(lr=1.5e-3, warmup=200, schedule="cosine", clip=5.0, ema=0.995)
    )
    loop: LoopConfig = field(default_factory=lambda: LoopConfig(evaluate_every=250, save_every=250))

    def __post_init__(self) -> None:
        """ConfigError for a count below 1."""
        for name in ("steps", "rows", "passes"):
            if getattr(self, name) < 1:
                raise ConfigError(f"ctc: {name} {getattr(self, name)}, expected 1 or more")


@dataclass(frozen=True)
class Spelled:
    """An utterance: memory [S, E] and the text that it spells."""

    memory: Tensor
    text: str


def spelled(items: Iterable[EncodedUtterance], decode: Callable[[Sequence[int]], str]) -> list[Spelled]:
    """Texts of utterances that ended by themselves; a DataError where there is none."""
    found = [Spelled(item.memory, decode(item.text)) for item in items if item.ended and item.text]
    if not found:
        raise DataError("ctc: no utterance with a text; check the data directory")
    return found


def characters_of(items: Iterable[Spelled]) -> str:
    """Characters that come often enough, in order of their code points."""
    counts = Counter(character for item in items for character in item.text)
    return "".join(sorted(character for character, count in counts.items() if count >= MIN_COUNT))


class CharacterCtcPhase:
    """A CTC head over characters on encoder outputs of about one length a batch."""

    def __init__(
        self, config: CharacterCtcTrainConfig, head: CharacterCtcHead, train: Sequence[Spelled], dev: Sequence[Spelled],
        precision: torch.dtype,
    ) -> None:  # fmt: skip
        self.name, self.steps, self.optim, self.module = "ctc", config.steps, config.optim, head
        self._config, self._head, self._precision = config, head, precision
        known = set(head.config.characters)
        self._train = [item for item in train if known & set(item.text) and len(item.text) <= len(item.memory)]
        self._dev = dev
        self._class = {character: n for n, character in enumerate(head.config.characters)}
        if not self._train:
            raise DataError("ctc: no utterance whose text the characters spell and its memory holds; give more data")

    def parameters(self) -> Iterable[tuple[nn.Parameter, float]]:
        """All of the head."""
        return ((p, 1.0) for p in self._head.parameters())

    def batch(self, number: int) -> list[Spelled]:
        """Rows of about one length."""
        sizes, config = [len(item.memory) for item in self._train], self._config
        # The name draws the order of the batches, which is to stay what it was.
        return [self._train[i] for i in pooled_rows("speller", config.seed, number, sizes, config.rows)]

    def weight(self, batch: Sequence[Spelled]) -> float:
        """Characters."""
        return float(sum(len(item.text) for item in batch))

    def loss(self, batch: Sequence[Spelled], step: int) -> tuple[Tensor, dict[str, float]]:
        """CTC loss of masked memories."""
        device = self._head.out.weight.device
        memory, lengths = _padded(batch)
        generator = torch.Generator().manual_seed(int(torch.randint(1 << 30, ())))
        memory = spec_augment(memory, lengths, self._config.masks, generator).to(device)
        labels = [[self._class[c] for c in item.text if c in self._class] for item in batch]
        sizes = torch.tensor([len(row) for row in labels], device=device)
        targets = torch.tensor([label for row in labels for label in row], device=device)
        lengths = lengths.to(device)
        with torch.autocast(device.type, self._precision, enabled=self._precision != torch.float32):
            logits = self._head(memory, lengths)
        loss = ctc_loss(logits, lengths, targets, sizes, self._head.blank)
        return loss, {}

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Character and word error rates in percent, against what the recogniser says, of greedy texts."""
        device, characters = self._head.out.weight.device, self._head.config.characters
        wrong: dict[str, Any] = {"cer": [0, 0], "wer": [0, 0]}
        order = sorted(range(len(self._dev)), key=lambda i: len(self._dev[i].memory))
        for start in range(0, len(order), 16):
            batch = [self._dev[i] for i in order[start : start + 16]]
            memory, lengths = _padded(batch)
            logits = self._head(memory.to(device), lengths.to(device))
            for item, labels in zip(batch, greedy_labels(logits, lengths)):
                said = "".join(characters[label] for label in labels)
                for name, (a, b) in {"cer": (item.text, said), "wer": (item.text.split(), said.split())}.items():
                    wrong[name][0] += Levenshtein.distance(a, b)
                    wrong[name][1] += len(a)
        figures = {name: 100 * errors / max(1, count) for name, (errors, count) in wrong.items()}
        return {"score": figures["cer"], **figures}


def _padded(batch: Sequence[Spelled]) -> tuple[Tensor, Tensor]:
    """Float32 memory [B, S, E] and lengths [B]."""
    lengths = torch.tensor([len(item.memory) for item in batch])
    return pad_sequence([item.memory.float() for item in batch], batch_first=True), lengths
