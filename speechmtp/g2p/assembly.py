"""Tokens with phones to sentences of words and units."""

from collections.abc import Iterator
from dataclasses import replace

from speechmtp.g2p import stress as accent
from speechmtp.g2p.symbols import SYMBOLS
from speechmtp.g2p.tokens import MARKS, Token
from speechmtp.g2p.traced import Traced
from speechmtp.g2p.units import Sentence, Unit, Word

LONGEST = 300  # units of a sentence
_CLAUSE = frozenset(";:,—…")


class _Builder:
    """Words and units of one sentence so far."""

    def __init__(self, text: str, said: Traced) -> None:
        self.text, self.said = text, said
        self.words: list[Word] = []
        self.units: list[Unit] = []
        self.skipped: dict[str, None] = {}
        self.pause = 0.0  # before the first word
        self.first = 0  # the unit at which the last word starts

    def add(self, token: Token) -> None:
        """One token, and the blank after it."""
        start, end = self.said.place(token.start, token.end)
        if token.kind == "skipped":
            self.skipped[self.text[start:end]] = None
        elif token.fixed is not None and token.fixed.seconds is not None:
            self._pause(token.fixed.seconds, start)
        elif token.kind == "mark":
            if token.text in ",.;:!?…" and self.units and self.units[-1].symbol == " ":
                self.units.pop()  # what stood between was skipped
            self._unit(token.text, start)
        elif token.phones:
            self._word(token.phones, start, end, token.text)
        if token.blank and self.units and self.units[-1].symbol != " ":
            self._unit(" ", start)

    def _unit(self, symbol: str, start: int, seconds: float | None = None) -> None:
        speed = self.said.speeds.get(start, 1.0)
        self.units.append(Unit(symbol, max(len(self.words) - 1, 0), speed, seconds))

    def _word(self, phones: str, start: int, end: int, token: str) -> None:
        more = bool(self.words) and start < self.words[-1].end  # made from the same written token
        if more and token == "point" and self.text[start:end] != token:  # as misaki reads decimals
            phones = accent.remove(phones)
        if more:
            last = self.words.pop()
            start, end = min(start, last.start), max(end, last.end)
        else:
            self.first = len(self.units)
        self.words.append(Word(self.text[start:end], start, end, ""))
        for one in phones:
            if one in SYMBOLS:
                self._unit(one, start)
        said = "".join(unit.symbol for unit in self.units[self.first :])
        self.words[-1] = Word(self.text[start:end], start, end, said)

    def _pause(self, seconds: float, start: int) -> None:
        if not seconds:
            return
        if not self.words:
            self.pause += seconds
            return
        if self.units[-1].symbol == " ":
            self.units.pop()
        last = self.units[-1]
        if last.symbol in MARKS:
            self.units.pop()
            self._unit(last.symbol, start, (last.seconds or 0.0) + seconds)
        else:
            self._unit(",", start, seconds)


def assemble(text: str, segment: Traced, said: Traced, found: list[Token]) -> Iterator[tuple[Sentence, float]]:
    """Sentences of at most `LONGEST` units, and the pause in seconds that is asked for before each.

    Arguments:
        text: the source
        segment: the sentence as it is written
        said: the same, normalised
        found: its tokens, with phones
    """
    built = _Builder(text, said)
    for token in found:
        built.add(token)
    units = built.units
    while units and units[-1].symbol == " ":
        units.pop()
    if not len(segment):
        return
    start, end = segment.place(0, len(segment))
    pause = built.pause
    if not built.words:
        yield Sentence(text[start:end], start, end, (), (), tuple(built.skipped)), pause
        return
    skipped = tuple(built.skipped)
    while units:
        cut = _cut(units)
        part, units = units[:cut], units[cut:]
        while part[-1].symbol == " ":
            part.pop()
        while units and units[0].symbol == " ":
            units = units[1:]
        first, last = part[0].word, part[-1].word
        words = built.words[first : last + 1]
        following = built.words[units[0].word] if units else None
        stop = following.start if following else end
        if following is words[-1]:  # a very long word goes on in the next sentence
            words[-1] = replace(words[-1], phones="".join(unit.symbol for unit in part if unit.word == last))
            built.words[last] = replace(following, phones="".join(unit.symbol for unit in units if unit.word == last))
        shown = text[start : max(stop, words[-1].end)].rstrip()
        moved = tuple(replace(unit, word=unit.word - first) for unit in part)
        yield Sentence(shown, start, start + len(shown), tuple(words), moved, skipped), pause
        start, skipped, pause = stop, (), 0.0


def _cut(units: list[Unit]) -> int:
    """How many units the next sentence has: all, or up to a clause mark, else a blank, else `LONGEST`."""
    if len(units) <= LONGEST:
        return len(units)
    for wanted in (_CLAUSE, frozenset(" ")):
        for cut in range(LONGEST, LONGEST // 3, -1):
            if units[cut - 1].symbol in wanted:
                return cut
    return LONGEST
