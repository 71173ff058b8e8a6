"""A small CTC head on the encoder of a pretrained recogniser that spells what was said, for drafts alone."""

from dataclasses import dataclass

from torch import Tensor, nn

from speechmtp.types import CtcText


@dataclass(frozen=True)
class CtcSpellerConfig:
    """Sizes, and the characters that it can write."""

    characters: str = ""
    width: int = 256
    layers: int = 2
    stride: int = 2


class CtcSpeller(nn.Module):
    """Characters from encoder states."""

    def spell(self, memory: Tensor) -> CtcText:
        """The greedy text of memory [1, S, E]."""
        raise NotImplementedError
