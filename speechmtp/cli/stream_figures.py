"""How late a server's words were, on the client's clock."""

from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

import numpy as np

from speechmtp.server.client import Answered, Committed, Event, Final, Heard


class Figures:
    """Gathers delays in seconds. `sent` tells of audio, `take` of what the server says; times are the client's."""

    def __init__(self) -> None:
        self.heard: list[float] = []
        self.words: list[float] = []
        self.final: float | None = None
        self.tokens = self.calls = 0
        self.until = 0.0
        self._ends: list[float] = []  # seconds of audio after each piece
        self._times: list[float] = []  # when it was sent
        self._texts: dict[str, list[tuple[int, float]]] = {}  # of items: their length after each delta, and when
        self._asked: float | None = None

    def sent(self, until: float, time: float) -> None:
        """Audio up to `until` seconds was sent at `time`."""
        self._ends.append(until)
        self._times.append(time)

    def asked(self, time: float) -> None:
        """The last words were asked for."""
        self._asked = time

    def take(self, event: Event) -> None:
        """Something was said."""
        if isinstance(event, Heard):
            self.tokens, self.calls, self.until = event.tokens, event.calls, event.until
            self.heard += self._behind(event.until, event.time)
        elif isinstance(event, Committed):
            said = self._texts.setdefault(event.item, [])
            said.append(((said[-1][0] if said else 0) + len(event.text), event.time))
        elif isinstance(event, Final):
            self._time_words(event)
        elif isinstance(event, Answered) and self._asked is not None:
            self.final = event.time - self._asked

    def _time_words(self, final: Final) -> None:
        """The delays of a segment's words behind their ends. The segment's text is the end of what its item says."""
        said = self._texts.get(final.item, [])
        lengths = [length for length, _ in said]
        begin, at = (lengths[-1] if said else 0) - len(final.text), 0
        for word in final.words:
            found = final.text.find(word.text, at)
            if found < 0:
                continue
            at = found + len(word.text)
            index = bisect_left(lengths, begin + at)
            if word.end is not None and index < len(said):
                self.words += self._behind(word.end, said[index][1])

    def _behind(self, end: float, time: float) -> list[float]:
        """How long before `time` audio up to `end` was sent; nothing if it was not."""
        index = bisect_left(self._ends, end - 1e-3)
        return [max(0.0, time - self._times[index])] if index < len(self._ends) else []

    def row(self) -> dict[str, Any]:
        """All figures, in seconds; None where nothing is known."""
        return {
            "audio": self._ends[-1] if self._ends else 0.0, "heard_median": _at(self.heard, 50),
            "heard_p95": _at(self.heard, 95), "words_median": _at(self.words, 50), "words_p95": _at(self.words, 95),
            "finalisation": self.final, "tokens": self.tokens, "calls": self.calls,
        }  # fmt: skip

    def line(self, live: bool, seconds: float) -> str:
        """The figures in one line. Delays are those of words only if audio was sent as it was spoken (`live`)."""
        row = self.row()
        parts = [f"{row['audio']:.1f} s of audio in {seconds:.1f} s"]
        if live and row["words_median"] is not None:
            parts.append(f"words {row['words_median']:.2f} s behind their ends (95 %: {row['words_p95']:.2f})")
        if live and row["heard_median"] is not None:
            parts.append(f"heard {row['heard_median']:.2f} s behind (95 %: {row['heard_p95']:.2f})")
        if row["finalisation"] is not None:
            parts.append(f"last words {row['finalisation']:.2f} s after the end")
        if self.calls:
            parts.append(f"{self.tokens / self.calls:.2f} tokens a call")
        return "; ".join(parts)


def _at(values: Sequence[float], percent: float) -> float | None:
    return float(np.percentile(values, percent)) if values else None
