"""What another session needs to go on where one was lost, besides the audio from there."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from speechmtp.streaming.window import Window
from speechmtp.words.word import Word


@dataclass(frozen=True)
class OpenWindow:
    """The window that was open. Times are seconds since its start: of the last pass (`heard`), of the one before, and
    of the committed words. `counts` are how many passes in a row had each word of the tail. `pause` and `first`,
    in frames since the start, are those of `Window`; `stopped` says that the end of its speech was said."""

    heard: float = 0.0
    before: float = 0.0
    committed: tuple[int, ...] = ()
    tail: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    counts: tuple[int, ...] = ()
    words: tuple[Word, ...] = ()
    pause: int = 0
    first: int = 0
    stopped: bool = False

    @classmethod
    def of(cls, window: Window, rate: int, frame: int, stopped: bool) -> "OpenWindow":
        """Of a window at `rate` Hz whose start is in `frame`."""
        tokens, start = window.agreement, window.start
        return cls(
            (window.heard - start) / rate, (window.before - start) / rate, tuple(tokens.committed), tuple(tokens.tail),
            tuple(tokens.logprobs), tuple(tokens.counts), tuple(word.moved(-start / rate) for word in window.words),
            window.pause, window.first - frame, stopped,
        )  # fmt: skip

    def restore(self, window: Window, rate: int) -> None:
        """Let a new window, which starts with the same audio, be as the lost one was."""
        tokens, start = window.agreement, window.start
        tokens.go_on(self.committed, self.tail, self.logprobs, self.counts)
        window.words = [word.moved(start / rate) for word in self.words]
        window.said = window.decode(self.committed)
        window.tail = window.decode([*self.committed, *self.tail])[len(window.said) :]
        window.heard, window.before = start + round(self.heard * rate), start + round(self.before * rate)
        window.pause, window.first = self.pause, self.first


@dataclass(frozen=True)
class Checkpoint:
    """Another session goes on with the audio from `at` seconds of the lost one, the beginning of a frame, which is its
    own 0. A window is open or may begin `free` seconds behind it, and the last segment ended `ended` seconds behind it.
    `spoken` says whether anything was committed before."""

    at: float = 0.0
    free: float = 0.0
    ended: float = 0.0
    spoken: bool = False
    window: OpenWindow | None = None

    def to_json(self) -> dict[str, Any]:
        """As plain numbers, texts, lists and dicts."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Checkpoint":
        """From `to_json`, also when it has been written and read."""
        window = data["window"]
        if window is None:
            return cls(**data)
        given: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list | tuple) else value for key, value in window.items()
        }
        given["words"] = tuple(Word(**word) for word in window["words"])
        return cls(**{**data, "window": OpenWindow(**given)})
