"""Where a timed text falls into segments: behind punctuation that ends a sentence and has a pause behind it."""

from collections.abc import Sequence
from itertools import pairwise

from speechmtp.words.word import Word

# Behind 80 % of the full stops of LibriSpeech readers (train) and 92 % of a synthetic voice's it is quiet for so many
# seconds; behind the others, such as that of "Mr.", mostly for less than a tenth.
PAUSE = 0.2
_ENDINGS = (
    ".?!\N{HORIZONTAL ELLIPSIS}\N{IDEOGRAPHIC FULL STOP}\N{FULLWIDTH QUESTION MARK}\N{FULLWIDTH EXCLAMATION MARK}"
)
_CLOSING = "\"')]\N{RIGHT DOUBLE QUOTATION MARK}\N{RIGHT SINGLE QUOTATION MARK}\N{RIGHT CORNER BRACKET}"


def ends_sentence(text: str) -> bool:
    """Whether a word ends with a full stop or the like, quotation marks behind it apart."""
    return text.rstrip(_CLOSING).endswith(tuple(_ENDINGS))


def cut_at_pauses(words: Sequence[Word], pause: float = PAUSE) -> list[tuple[int, float]]:
    """Return the number of each word behind which a segment ends, but for the last, and the middle of the pause there,
    in seconds; the pause takes at least `pause` seconds. Words without times are not cut."""
    cuts = []
    for place, (word, following) in enumerate(pairwise(words)):
        if word.end is None or following.start is None or not ends_sentence(word.text):
            continue
        if following.start - word.end >= pause:
            cuts.append((place, (word.end + following.start) / 2))
    return cuts
