"""What makes sound of speech tokens."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np


class Codec(Protocol):
    """The decoding half of a speech codec; `rate` in Hz."""

    rate: int

    def decode(self, tokens: Sequence[int]) -> np.ndarray:
        """Samples [N] float32 in [-1, 1] of token ids, end tokens left out."""
