"""Sample match: a token sampled from the trunk decides."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from speechmtp.decoding.rules.ratio import Ratio
from speechmtp.decoding.state import Draws


@dataclass(frozen=True)
class SampleMatch(Ratio):
    """Sample the trunk's token and keep a drafted token that equals it, whatever the draft was sampled from: in
    distribution, this is `Ratio` with a one-hot draft."""

    name: ClassVar[str] = "sample"
    draws: ClassVar[Draws] = "best"

    def compare(self, r: Tensor, q: Tensor | None, token: Tensor) -> tuple[Tensor, Tensor]:
        """`Ratio.compare` as if the drafted token had been certain."""
        return super().compare(r, None, token)
