"""Moonshine of transformers (arXiv 2410.15608): English, from samples."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from speechmtp.models.bases.encoder_decoder import EncoderDecoder


@dataclass(frozen=True)
class MoonshineSettings:
    """`model` in config.yaml: the limits of its output; everything else stands in transformers' own files."""

    kind: Literal["moonshine"] = "moonshine"
    tokens_per_second: float = 6.5
    extra: int = 2


class Moonshine(EncoderDecoder):
    """Hears at least what its convolutions need."""

    kind: ClassVar[str] = "moonshine"
    title: ClassVar[str] = "Moonshine"
    settings: ClassVar[type] = MoonshineSettings
    model_types: ClassVar[tuple[str, ...]] = ("moonshine",)
    model_class: ClassVar[str] = "MoonshineForConditionalGeneration"
    shortest: int = 895

    def start_tokens(self, language: str = "", task: str = "") -> tuple[int, ...]:
        """The start token."""
        self.no_choice(language, task)
        return (self.start,)

    def inputs(self, samples: Tensor) -> Tensor:
        """Samples [1, N]."""
        return samples[None].to(self.like())
