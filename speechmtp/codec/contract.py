"""The contract of codecs that turn speech tokens into audio, and the spans of what is said."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from speechmtp.errors import DataError

RATE = 24000
FRAME = 300  # samples of a frame, 12.5 ms
TOKEN = 960  # samples of a token, 40 ms


@dataclass(frozen=True)
class Spans:
    """What is said and when: `ids` [P] of the units (`g2p/symbols.py`, with a pad at both ends), the index of the word
    that each belongs to (`words` [P], from 0, never falling) and how many `frames` [P] of 12.5 ms each lasts.

    DataError for arrays of other shapes or values, or without any frame.
    """

    ids: np.ndarray
    words: np.ndarray
    frames: np.ndarray

    def __post_init__(self) -> None:
        for name in ("ids", "words", "frames"):
            found = np.asarray(getattr(self, name))
            if found.ndim != 1 or not np.issubdtype(found.dtype, np.integer):
                raise DataError(f"spans: {name} is {found.dtype} {list(found.shape)}, expected whole numbers [P]")
            object.__setattr__(self, name, found.astype(np.int64))
        sizes = {name: len(getattr(self, name)) for name in ("ids", "words", "frames")}
        if len(set(sizes.values())) > 1:
            raise DataError(f"spans: {sizes}, expected one word and one number of frames for every unit")
        if min(self.ids.min(initial=0), self.words.min(initial=0), self.frames.min(initial=0)) < 0:
            raise DataError("spans: a number below 0, expected ids, words and frames of 0 or more")
        if (np.diff(self.words) < 0).any():
            raise DataError("spans: words fall, expected units in the order in which they are said")
        if not self.frames.any():
            raise DataError("spans: no frames, expected at least one; give units with durations")

    @cached_property
    def total(self) -> int:
        """Frames of all units."""
        return int(self.frames.sum())

    @property
    def samples(self) -> int:
        """Samples of the audio."""
        return FRAME * self.total

    @property
    def tokens(self) -> int:
        """Tokens of the audio; the last may reach beyond its end."""
        return -(-self.samples // TOKEN)


class Codec(Protocol):
    """The decoder of a speech codec."""

    @property
    def rate(self) -> int:
        """The sample rate in Hz."""

    @property
    def size(self) -> int:
        """The number of token ids."""

    @property
    def silent(self) -> tuple[int, ...]:
        """The ids of silence, which may be held for long."""

    def decode(self, tokens: Sequence[int], spans: Spans | None = None, seed: int = 0) -> np.ndarray:
        """Decode token ids, without end tokens, to samples [N], float32 in [-1, 1]. Codecs whose tokens do not tell
        what is said need its spans. The same seed gives the same samples."""


class StreamingCodec(Codec, Protocol):
    """A codec that decodes piece by piece: for any cutting of the tokens the pieces joined are what `decode` gives, bit
    for bit."""

    def stream(self, spans: Spans, seed: int = 0) -> Any:
        """The state of a stream that has begun."""

    def step(self, tokens: Sequence[int], state: Any) -> np.ndarray:
        """The samples that further tokens complete, maybe none; the state goes on."""

    def flush(self, state: Any) -> np.ndarray:
        """The last samples, after all tokens."""
