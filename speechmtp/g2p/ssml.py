"""SSML, as far as a voice obeys it: speak, p, s, break, sub, phoneme and prosody's rate."""

import re
from collections.abc import Callable, Iterator
from typing import NoReturn
from xml.parsers import expat

from speechmtp.errors import DataError
from speechmtp.g2p.markup import seconds
from speechmtp.g2p.phones import checked, from_ipa
from speechmtp.g2p.sentences import sentences
from speechmtp.g2p.traced import FIXED, Fixed, Traced

SLOWEST, FASTEST = 0.7, 1.4  # rates of prosody
_CHUNK = 1 << 14  # bytes that are parsed at once
_FLUSH = 6000  # characters after which complete sentences are handed on
_STRENGTHS = {"none": 0.0, "x-weak": 0.1, "weak": 0.25, "medium": 0.5, "strong": 0.75, "x-strong": 1.25}
_RATES = {"x-slow": 0.7, "slow": 0.85, "medium": 1.0, "default": 1.0, "fast": 1.15, "x-fast": 1.4}
_ATTRIBUTES = {
    "speak": {"version", "xmlns", "xml:lang", "xmlns:xsi", "xsi:schemaLocation"},
    "p": {"xml:lang"},
    "s": {"xml:lang"},
    "break": {"time", "strength"},
    "sub": {"alias"},
    "phoneme": {"alphabet", "ph"},
    "prosody": {"rate"},
}
_NEEDED = {"sub": "alias", "phoneme": "ph", "prosody": "rate"}
_ADVICE = f"use one of {', '.join(_ATTRIBUTES)}"


def segments(text: str) -> Iterator[Traced]:
    """The sentences of SSML. Whatever is wrong in it is a `DataError` before the first of them."""
    for _ in _Reader(text).read():
        pass
    return _Reader(text).read()


class _Reader:
    """One pass over a document: expat's events become traced text, which is handed on sentence by sentence."""

    def __init__(self, text: str) -> None:
        self.data = text.encode("utf-8", "replace")
        self.text = text
        self.parser = expat.ParserCreate("utf-8")
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._characters
        self.parser.StartDoctypeDeclHandler = lambda *_: self._fail("a document type", "none", "leave it out")
        self.byte = self.place = 0  # an offset in the data and the same in the text
        self.open: list[tuple[str, dict[str, str], int]] = []  # tags, their attributes, where their contents start
        self.buffer = Traced("", [])
        self.ready: list[Traced] = []

    def read(self) -> Iterator[Traced]:
        """Traced sentences, in order."""
        for start in range(0, len(self.data) or 1, _CHUNK):
            last = start + _CHUNK >= len(self.data)
            try:
                self.parser.Parse(self.data[start : start + _CHUNK], last)
            except expat.ExpatError as error:
                what = expat.errors.messages[error.code]
                raise DataError(
                    f"SSML, line {error.lineno}, column {error.offset + 1}: {what}, expected well-formed XML;"
                    " close every tag and write & as &amp;"
                ) from None
            yield from self.ready
            self.ready = []

    def _here(self) -> int:
        """The character at which the present event starts."""
        byte = self.parser.CurrentByteIndex
        self.place += len(self.data[self.byte : byte].decode("utf-8", "replace"))
        self.byte = byte
        return self.place

    def _where(self) -> str:
        return f"SSML, line {self.parser.CurrentLineNumber}, column {self.parser.CurrentColumnNumber + 1}"

    def _fail(self, found: str, expected: str, advice: str) -> NoReturn:
        raise DataError(f"{self._where()}: {found}, expected {expected}; {advice}")

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        place = self._here()
        if tag not in _ATTRIBUTES:
            self._fail(f"the tag <{tag}>", "a tag that a voice obeys", _ADVICE)
        if (tag == "speak") == bool(self.open):
            self._fail(f"the tag <{tag}>", "one <speak> around everything", "write <speak>...</speak>")
        for name in attributes:
            if name not in _ATTRIBUTES[tag]:
                known = ", ".join(sorted(_ATTRIBUTES[tag])) or "none"
                self._fail(f"the attribute {name!r} of <{tag}>", known, "leave it out")
        if tag in _NEEDED and _NEEDED[tag] not in attributes:
            self._fail(f"<{tag}> without {_NEEDED[tag]!r}", "this attribute", f'write <{tag} {_NEEDED[tag]}="...">')
        if self.open and self.open[-1][0] in ("sub", "phoneme", "break"):
            self._fail(f"the tag <{tag}> inside <{self.open[-1][0]}>", "text alone", "close the outer tag first")
        if tag in ("p", "s"):
            self._flush()
        if tag == "break":
            wanted = attributes.get("strength", "medium")
            if wanted not in _STRENGTHS:
                self._fail(f"the strength {wanted!r}", ", ".join(_STRENGTHS), 'write it so, or time="300ms"')
            pause = seconds(attributes["time"], self._where()) if "time" in attributes else _STRENGTHS[wanted]
            self.buffer.add(FIXED, (place, self._tag_end(place)), [Fixed(seconds=pause)])
        if tag == "phoneme":
            self._phones(attributes)
        if tag == "prosody":
            self._rate(attributes["rate"])
        self.open.append((tag, attributes, self._tag_end(place)))

    def _end(self, tag: str) -> None:
        place = self._here()
        _, attributes, start = self.open.pop()
        if tag == "sub" and place > start:
            self.buffer.add(attributes["alias"].replace(FIXED, " "), (start, place))
        elif tag == "phoneme" and place > start:
            self.buffer.add(FIXED, (start, place), [Fixed(phones=self._phones(attributes))])
        elif tag in ("p", "s", "speak"):
            self._flush(whole=tag == "s")

    def _characters(self, data: str) -> None:
        place = self._here()
        if self.open and self.open[-1][0] in ("sub", "phoneme"):
            return
        speed = 1.0
        for tag, attributes, _ in self.open:
            if tag == "prosody":
                speed *= self._rate(attributes["rate"])
        speed = min(max(speed, SLOWEST), FASTEST)
        end = self.text.find(";", place) + 1 if self.text.startswith("&", place) else 0
        for number, one in enumerate(data):
            span = (place, end) if end else (place + number, place + number + 1)
            self.buffer.add(" " if one.isspace() or one == FIXED else one, span)
            if speed != 1.0:
                self.buffer.speeds[span[0]] = speed
        if len(self.buffer) > _FLUSH:
            self._flush(keep_last=True)

    def _tag_end(self, place: int) -> int:
        """Where the tag that starts at a place ends; a > may stand in its quoted attributes."""
        match = re.compile(r"<(?:[^\"'>]|\"[^\"]*\"|'[^']*')*>").match(self.text, place)
        return match.end() if match else place + 1

    def _phones(self, attributes: dict[str, str]) -> str:
        alphabet = attributes.get("alphabet", "ipa")
        readers: dict[str, Callable[[str, str], str]] = {"ipa": from_ipa, "x-misaki": checked}
        if alphabet not in readers:
            self._fail(f"the alphabet {alphabet!r}", " or ".join(readers), "write the phones in one of these")
        return readers[alphabet](attributes["ph"], self._where())

    def _rate(self, text: str) -> float:
        match = re.fullmatch(r"(\d+(?:\.\d+)?|\.\d+)(%?)", text.strip())
        rate = float(match[1]) / (100 if match[2] else 1) if match else _RATES.get(text.strip(), 0.0)
        if not SLOWEST <= rate <= FASTEST:
            self._fail(f"the rate {text!r}", f"{SLOWEST} to {FASTEST}", f"write a number, 120% or {', '.join(_RATES)}")
        return rate

    def _flush(self, whole: bool = False, keep_last: bool = False) -> None:
        """Hand on the sentences of the buffer; `whole` takes it as one, `keep_last` waits for the last one's end."""
        spans = [(0, len(self.buffer))] if whole else list(sentences(self.buffer.text))
        rest = Traced("", [])
        if keep_last and len(spans) > 1:
            rest = self.buffer.cut(spans.pop()[0], len(self.buffer))
        self.ready += [self.buffer.cut(*span) for span in spans if span[1] > span[0]]
        self.buffer = rest
