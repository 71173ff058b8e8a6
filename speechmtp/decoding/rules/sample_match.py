"""Sample match: a token drawn from the trunk decides."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from speechmtp.decoding.rules.ratio import Ratio
from speechmtp.decoding.state import Draws


@dataclass(frozen=True)
class SampleMatch(Ratio):
    """Draw the trunk's token and keep what equals it, whatever the draft was drawn from: in distribution, a one-hot
    draft."""

    name: ClassVar[str] = "sample"
    draws: ClassVar[Draws] = "best"

    def compare(self, r: Tensor, q: Tensor | None, token: Tensor) -> tuple[Tensor, Tensor]:
        """As if the draft had been certain."""
        return super().compare(r, None, token)
