"""What plain text may say about its own reading: `[word](/wˈɜɹd/)` and `[pause 300ms]`."""

import re
from collections.abc import Iterator

from speechmtp.errors import DataError
from speechmtp.g2p.phones import checked
from speechmtp.g2p.sentences import sentences
from speechmtp.g2p.traced import FIXED, Fixed, Traced

LONGEST_PAUSE = 30.0  # seconds
_MARKUP = re.compile(
    r"\[(?P<word>[^\[\]]{1,99})\]\(/(?P<phones>[^)\n]{0,199}?)/\)|\[pause\s+(?P<pause>[\d.]+\s?m?s)\s*\]"
)
_SECONDS = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s?(ms|s)")


def seconds(text: str, where: str) -> float:
    """A length of time such as "300ms" or "1.5s", at most `LONGEST_PAUSE`; else a `DataError`."""
    match = _SECONDS.fullmatch(text.strip())
    value = float(match[1]) / (1000 if match[2] == "ms" else 1) if match else -1.0
    if not 0 <= value <= LONGEST_PAUSE:
        limit = f"{LONGEST_PAUSE:.0f}s"
        raise DataError(f"{where}: a pause of {text!r}, expected 0ms to {limit}; write it as 300ms or 1.5s")
    return value


def segments(text: str) -> Iterator[Traced]:
    """The sentences of a text, with what its markup fixes. Wrong markup is a `DataError` before the first of them."""
    for match in _MARKUP.finditer(text):
        _fixed(match)
    masked = _MARKUP.sub(lambda match: "X" * len(match[0]), text)
    for start, end in sentences(masked):
        sentence = Traced("", [])
        seen = start
        for match in _MARKUP.finditer(text, start, end):
            sentence.join(Traced.of(text[seen : match.start()], seen))
            group = "pause" if match["pause"] else "word"
            place = match.span() if group == "pause" else match.span("word")
            sentence.add(FIXED, place, [_fixed(match)])
            seen = match.end()
        sentence.join(Traced.of(text[seen:end], seen))
        yield sentence


def _fixed(match: "re.Match[str]") -> Fixed:
    where = f"text, character {match.start() + 1}"
    if match["pause"]:
        return Fixed(seconds=seconds(match["pause"], where))
    return Fixed(phones=checked(match["phones"], where))
