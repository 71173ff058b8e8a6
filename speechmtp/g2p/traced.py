"""Text whose characters know their place in the source, through every rewriting."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

FIXED = "\ufffc"  # the one character that stands for a `Fixed` in a `Traced` text


@dataclass(frozen=True)
class Fixed:
    """What no rule may touch: a word whose `phones` are given, or a pause of `seconds`."""

    phones: str = ""
    seconds: float | None = None


class Traced:
    """A string, and for every character its place [start, end) in the source.

    Arguments:
        text: the string; `FIXED` in it stands for the next of `fixed`
        places: a place for every character
        fixed: what the characters `FIXED` stand for, in order
    """

    def __init__(self, text: str, places: list[tuple[int, int]], fixed: Sequence[Fixed] = ()) -> None:
        self.text = text
        self.places = places
        self.fixed = list(fixed)
        self.speeds: dict[int, float] = {}  # by places in the source where it is not 1

    @classmethod
    def of(cls, text: str, offset: int = 0) -> "Traced":
        """The source itself, from character `offset` on; a `FIXED` in it becomes a blank."""
        places = [(place, place + 1) for place in range(offset, offset + len(text))]
        return cls(text.replace(FIXED, " "), places)

    def __len__(self) -> int:
        return len(self.text)

    def place(self, start: int, end: int) -> tuple[int, int]:
        """Place in the source of characters [start, end), at least one."""
        part = self.places[start:end]
        return min(one[0] for one in part), max(one[1] for one in part)

    def cut(self, start: int, end: int) -> "Traced":
        """Characters [start, end)."""
        first = self.text.count(FIXED, 0, start)
        count = self.text.count(FIXED, start, end)
        part = Traced(self.text[start:end], self.places[start:end], self.fixed[first : first + count])
        part.speeds = self.speeds
        return part

    def add(self, text: str, place: tuple[int, int], fixed: Sequence[Fixed] = ()) -> None:
        """Append characters that share one place."""
        self.text += text
        self.places.extend([place] * len(text))
        self.fixed.extend(fixed)

    def join(self, other: "Traced") -> None:
        """Append another traced text."""
        self.text += other.text
        self.places.extend(other.places)
        self.fixed.extend(other.fixed)
        self.speeds.update(other.speeds)

    def rewrite(self, pattern: "re.Pattern[str]", reading: Callable[["re.Match[str]"], str | Fixed | None]) -> "Traced":
        """Replace matches of a pattern by what `reading` says of each; None leaves a match as it is.

        A pattern with a group named `it` replaces this group alone. The new characters have the place of what they
        replace, so that words made from one written token share it.
        """
        parts: list[str] = []
        places: list[tuple[int, int]] = []
        fixed: list[Fixed] = []
        seen = used = 0
        group = "it" if "it" in pattern.groupindex else 0
        for match in pattern.finditer(self.text):
            start, end = match.span(group)
            said = reading(match) if end > start >= seen else None
            if said is None:
                continue
            count = self.text.count(FIXED, seen, start)
            fixed += self.fixed[used : used + count]
            used += count + self.text.count(FIXED, start, end)
            new = FIXED if isinstance(said, Fixed) else said
            fixed += [said] if isinstance(said, Fixed) else []
            parts += [self.text[seen:start], new]
            places += self.places[seen:start] + [self.place(start, end)] * len(new)
            seen = end
        if not parts:
            return self
        found = Traced("".join([*parts, self.text[seen:]]), places + self.places[seen:], fixed + self.fixed[used:])
        found.speeds = self.speeds
        return found
