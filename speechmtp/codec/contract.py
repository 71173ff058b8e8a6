"""The interface of codecs that turn speech tokens into audio."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np


class Codec(Protocol):
    """The decoder of a speech codec; `rate` is the sample rate in Hz."""

    rate: int

    def decode(self, tokens: Sequence[int]) -> np.ndarray:
        """Decode token ids, without end tokens, to samples [N], float32 in [-1, 1]."""
