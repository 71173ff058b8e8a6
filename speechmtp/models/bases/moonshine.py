"""Moonshine of transformers (arXiv 2410.15608): English speech, encoded from raw samples."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from speechmtp.models.bases.encoder_decoder import EncoderDecoder


@dataclass(frozen=True)
class MoonshineSettings:
    """`model` in config.yaml: the limits of the output length; everything else is in transformers' own files."""

    kind: Literal["moonshine"] = "moonshine"
    tokens_per_second: float = 6.5
    extra: int = 2


class Moonshine(EncoderDecoder):
    """Moonshine; a recording has at least the samples that its convolutions need."""

    kind: ClassVar[str] = "moonshine"
    title: ClassVar[str] = "Moonshine"
    settings: ClassVar[type] = MoonshineSettings
    model_types: ClassVar[tuple[str, ...]] = ("moonshine",)
    model_class: ClassVar[str] = "MoonshineForConditionalGeneration"
    shortest: int = 895

    def start_tokens(self, language: str = "", task: str = "") -> tuple[int, ...]:
        """Return the start token; ConfigError if a language or a task is given."""
        self.no_choice(language, task)
        return (self.start,)

    def inputs(self, samples: Tensor) -> Tensor:
        """Return the samples as [1, N], in the dtype and on the device of the weights."""
        return samples[None].to(self.like())
