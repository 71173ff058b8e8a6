"""The front end: text to sentences of units."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Literal

from speechmtp.errors import ConfigError, DataError
from speechmtp.g2p import markup, ssml
from speechmtp.g2p.assembly import assemble
from speechmtp.g2p.normalise import normalise
from speechmtp.g2p.patterns import either
from speechmtp.g2p.phones import checked, read_lexicon
from speechmtp.g2p.pronouncing import Pronouncing
from speechmtp.g2p.tokens import tokens
from speechmtp.g2p.traced import Fixed, Traced
from speechmtp.g2p.units import Sentence, Unit


class FrontEnd:
    """Text to sentences of units. The data files are read at the first sentence, once for all front ends.

    Arguments:
        lexicon: words and their phones in misaki's symbols, or a file of lines `word<TAB>phones`; they win over all
            rules, and a word in small letters stands for all its writings. Wrong phones are a `ConfigError` (a
            `DataError` in a file)
    """

    def __init__(self, lexicon: Mapping[str, str] | str | Path | None = None) -> None:
        if isinstance(lexicon, str | Path):
            self._own = read_lexicon(lexicon)
        else:
            self._own = {word: _own_phones(word, phones) for word, phones in (lexicon or {}).items()}
        # Words that the rules for numbers and symbols would take apart.
        odd = [word for word in self._own if not re.fullmatch(r"[A-Za-z]+(?:'[A-Za-z]+)*", word)]
        self._odd = re.compile(rf"(?<!\w)(?:{either(odd)})(?!\w)") if odd else None

    def sentences(self, text: str, markup: Literal["text", "ssml"] = "text") -> Iterator[Sentence]:
        """The sentences of a text, one at a time; those without units are silent.

        Arguments:
            text: any text; `[word](/wˈɜɹd/)` and `[pause 300ms]` are obeyed, what cannot be read is in `skipped`
            markup: "ssml" for a document with speak, p, s, break, sub, phoneme and prosody's rate

        Wrong markup is a `DataError` that names the place, before the first sentence. A pause between two sentences
        belongs to the end of the first.
        """
        last: Sentence | None = None
        for segment in _segments(text, markup):
            for sentence, pause in self._read(text, segment):
                if pause and last is not None and last.units:
                    last, pause = _paused(last, pause), 0.0
                    if not sentence.units and not sentence.skipped:
                        continue
                if last is not None:
                    yield last
                last = _paused(sentence, pause, first=True) if pause else sentence
        if last is not None:
            yield last

    @cached_property
    def _pronouncing(self) -> Pronouncing:
        return Pronouncing(self._own)

    def _read(self, text: str, segment: Traced) -> Iterator[tuple[Sentence, float]]:
        if self._odd is not None:
            segment = segment.rewrite(self._odd, lambda match: Fixed(self._own[match[0]]))
        said = normalise(segment)
        found = tokens(said)
        self._pronouncing(found)
        return assemble(text, segment, said, found)


def _segments(text: str, kind: str) -> Iterator[Traced]:
    if kind == "ssml":
        return ssml.segments(text)
    if kind == "text":
        return markup.segments(text)
    raise ConfigError(f"markup: {kind!r}, expected 'text' or 'ssml'; choose one of these")


def _paused(sentence: Sentence, pause: float, first: bool = False) -> Sentence:
    """A sentence with a pause at its end, or before it."""
    if first:
        return replace(sentence, units=(Unit(",", 0, seconds=pause), *sentence.units))
    last = sentence.units[-1]
    return replace(sentence, units=(*sentence.units[:-1], replace(last, seconds=(last.seconds or 0.0) + pause)))


def _own_phones(word: str, phones: str) -> str:
    try:
        return checked(phones, f"lexicon, {word!r}")
    except DataError as error:
        raise ConfigError(str(error)) from None
