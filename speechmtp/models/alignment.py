"""What a kind of model tells about when its tokens are said."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Lag:
    """Seconds from the beginning of a word's first state to the word's `start`, and from the end of its last state to
    the word's `end`; measured."""

    start: float = 0.0
    end: float = 0.0


@dataclass(frozen=True)
class AttentionAlignment:
    """The cross-attention `heads`, as pairs of layer and head, that look at what is said, and how far they are off."""

    heads: tuple[tuple[int, int], ...]
    lag: Lag
