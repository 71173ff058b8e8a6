"""What the front end hands to a voice: sentences of units, each with its word and its place in the text."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Word:
    """One spoken word: `text` as it is written in the source at [start, end) (characters), and `phones`, its misaki
    symbols. A written token that is read as several words ("$3") gives one `Word` with all of their phones."""

    text: str
    start: int
    end: int
    phones: str


@dataclass(frozen=True)
class Unit:
    """One symbol that a voice reads: a phone, a stress mark, a blank or a punctuation mark, each one character of
    `symbols.SYMBOLS`. `word` is the index of its word; blanks and punctuation belong to the word before them (leading
    ones to word 0). `speed` divides its duration. `seconds` is a fixed duration, for pauses that the text asks for."""

    symbol: str
    word: int
    speed: float = 1.0
    seconds: float | None = None


@dataclass(frozen=True)
class Sentence:
    """A piece of text that is read in one breath: at [start, end) of the source. `skipped` are the characters or words
    of it that cannot be read, each once; a sentence without units is silent."""

    text: str
    start: int
    end: int
    words: tuple[Word, ...]
    units: tuple[Unit, ...]
    skipped: tuple[str, ...] = ()

    @property
    def phones(self) -> str:
        """The symbols of all units, as Kokoro's models read them."""
        return "".join(unit.symbol for unit in self.units)
