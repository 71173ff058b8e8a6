"""Task `ctc`: train a character CTC head on the frozen encoder of a pretrained recogniser."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from speechmtp.audio.augment import SpecAugmentConfig, spec_augment
from speechmtp.batching import ROWS, batches_by_size
from speechmtp.config import Range, Seed, Size, check_fields
from speechmtp.data.batch import pooled_rows
from speechmtp.errors import DataError
from speechmtp.models.character_ctc import CharacterCtcConfig, CharacterCtcHead
from speechmtp.models.ctc_labels import greedy_labels
from speechmtp.training.error_rate import error_rate
from speechmtp.training.loop import LoopConfig
from speechmtp.training.optim import OptimConfig
from speechmtp.training.tasks.ctc import ctc_loss
from speechmtp.training.tasks.encoded_utterances import EncodedUtterance

MIN_COUNT = 3  # characters that occur less often in the training texts get no class


@dataclass(frozen=True)
class CharacterCtcTrainConfig:
    """Options of one training.

    If `ctc.characters` is empty, the characters of the training texts are used. `targets`: `own` are the model's own
    outputs, `text` the transcripts. `passes` is the number of passes over the training audio, all but the first at
    other speeds, sampled with `prompts_seed`. `masks` are those of SpecAugment (arXiv 1904.08779), applied to encoder
    outputs.
    """

    seed: Seed = 0
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    ctc: CharacterCtcConfig = field(default_factory=CharacterCtcConfig)
    targets: Literal["own", "text"] = "own"
    passes: Annotated[int, Range(1)] = 1
    prompts_seed: Seed = 0
    steps: Annotated[int, Range(1)] = 2000
    rows: Size = 32
    masks: SpecAugmentConfig = field(default_factory=lambda: SpecAugmentConfig(freq_width=40, time_masks=5))
    optim: OptimConfig = field(
        default_factory=lambda: OptimConfig(lr=1.5e-3, warmup=200, schedule="cosine", clip=5.0, ema=0.995)
    )
    loop: LoopConfig = field(default_factory=lambda: LoopConfig(evaluate_every=250, save_every=250))

    def __post_init__(self) -> None:
        """Check the counts. ConfigError for one below 1."""
        check_fields(self, "ctc")


@dataclass(frozen=True)
class CharacterText:
    """An utterance: encoder outputs `memory` [S, E] and text."""

    memory: Tensor
    text: str


def character_texts(
    items: Iterable[EncodedUtterance], decode: Callable[[Sequence[int]], str]
) -> list[CharacterText]:  # fmt: skip
    """Decode the texts of utterances that ended with an end token. DataError if there are none."""
    found = [CharacterText(item.memory, decode(item.text)) for item in items if item.ended and item.text]
    if not found:
        raise DataError("ctc: no utterance with a text; check the data directory")
    return found


def frequent_characters(items: Iterable[CharacterText]) -> str:
    """Characters that occur at least MIN_COUNT times, in order of their code points."""
    counts = Counter(character for item in items for character in item.text)
    return "".join(sorted(character for character, count in counts.items() if count >= MIN_COUNT))


class CharacterCtcPhase:
    """Training of a character CTC head on batches of encoder outputs of similar length.

    DataError if no training text has known characters and fits its encoder outputs.
    """

    def __init__(
        self, config: CharacterCtcTrainConfig, head: CharacterCtcHead, train: Sequence[CharacterText],
        dev: Sequence[CharacterText], precision: torch.dtype,
    ) -> None:  # fmt: skip
        self.name, self.steps, self.optim, self.module = "ctc", config.steps, config.optim, head
        self._config, self._head, self._precision = config, head, precision
        known = set(head.config.characters)
        self._train = [item for item in train if known & set(item.text) and len(item.text) <= len(item.memory)]
        self._dev = dev
        self._class = {character: n for n, character in enumerate(head.config.characters)}
        if not self._train:
            raise DataError("ctc: no text has these characters and fits its encoder states; give more data")

    def parameters(self) -> Iterable[tuple[nn.Parameter, float]]:
        """All parameters of the head, at the full learning rate."""
        return ((p, 1.0) for p in self._head.parameters())

    def batch(self, number: int) -> list[CharacterText]:
        """Rows of similar length."""
        sizes, config = [len(item.memory) for item in self._train], self._config
        return [self._train[i] for i in pooled_rows("speller", config.seed, number, sizes, config.rows)]

    def weight(self, batch: Sequence[CharacterText]) -> float:
        """Number of characters."""
        return float(sum(len(item.text) for item in batch))

    def loss(self, batch: Sequence[CharacterText], step: int) -> tuple[Tensor, dict[str, float]]:
        """Summed CTC loss on masked encoder outputs."""
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
        """Character and word error rates of greedy CTC texts in percent; the references are the development texts."""
        device, characters = self._head.out.weight.device, self._head.config.characters
        pairs: list[tuple[str, str]] = []
        for indices in batches_by_size([len(item.memory) for item in self._dev], ROWS):
            batch = [self._dev[i] for i in indices]
            memory, lengths = _padded(batch)
            logits = self._head(memory.to(device), lengths.to(device))
            texts = ("".join(characters[label] for label in row) for row in greedy_labels(logits, lengths))
            pairs += zip((item.text for item in batch), texts)
        figures = {"cer": error_rate(pairs), "wer": error_rate((a.split(), b.split()) for a, b in pairs)}
        return {"score": figures["cer"], **figures}


def _padded(batch: Sequence[CharacterText]) -> tuple[Tensor, Tensor]:
    """Float32 memory [B, S, E] and lengths [B]."""
    lengths = torch.tensor([len(item.memory) for item in batch])
    return pad_sequence([item.memory.float() for item in batch], batch_first=True), lengths
