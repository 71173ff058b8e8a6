"""When the words of a text were said, by the best path of the text through CTC posteriors.

The text is another model's, so the path is forced to it (Graves et al. 2006; forced alignment as in Kaldi).
"""

import unicodedata
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from speechmtp.models.alignment import Lag
from speechmtp.words.monotone import Placed, place_labels

Span = tuple[int, int]
# Of the character CTC head of the embedded default model, on synthetic speech whose spans are known exactly
# (benchmarks/word_times.py).
CHARACTER_LAG = Lag(0.034, 0.042)
# Seconds from the start of a first word of one letter to the blank behind it, and from there to the word's end.
_ALONE, _BLANK = 0.058, 0.026


def align_characters(
    logprobs: NDArray[np.float32], characters: str, text: str, words: Sequence[Span], hop: float
) -> list[tuple[float, float]]:
    """Return start and end in seconds of the words of `text`, whose spans of characters are `words`.

    `logprobs` [T, C + 1] are those of a head of C `characters`, blank last, a row every `hop` seconds. Both cases of a
    letter count as one; a letter that the head lacks may be any, and other characters that it lacks are left out.
    """
    scores, classes, others = _folded(logprobs, characters)
    labels, owners, spoken = list[int](), list[int](), list[bool]()
    inside = {place: number for number, (start, end) in enumerate(words) for place in range(start, end)}
    for place, character in enumerate(text):
        for one in _plain(character):
            says = one.isalnum()
            label = classes.get(one, others if says else None)
            if label is not None:
                labels.append(label)
                owners.append(inside.get(place, -1))
                spoken.append(says)
    placed = place_labels(scores, np.array(labels, np.int64))
    return word_times(placed, _ends_of(owners, spoken, len(words)), hop, CHARACTER_LAG, late=True)


def word_times(
    placed: Placed, words: Sequence[tuple[int, int] | None], hop: float, lag: Lag, late: bool = False
) -> list[tuple[float, float]]:
    """Return start and end in seconds of words, each with its first and last label; one without any lies at the end of
    the word before.

    With `late` the first word starts at the second label: pretrained encoders gather what a text begins with in their
    first states, before anything is said, so that the first label tells no time.
    """
    found, last = list[tuple[float, float]](), 0.0
    for word in words:
        start = last
        if word is not None:
            first, final = word
            start = float(placed.first[first] * hop + lag.start)
            last = float((placed.last[final] + 1) * hop + lag.end)
            if late and first == 0 and len(placed.first) > 1:
                second = float(placed.first[1] * hop)
                start, last = second - (_ALONE if final == 0 else 0.0), max(last, second + _BLANK)
        found.append((start, last))
    return found


def _ends_of(owners: Sequence[int], spoken: Sequence[bool], count: int) -> list[tuple[int, int] | None]:
    """Return the first and the last label of each word: of what is said of it, without punctuation, if there is any."""
    found: list[tuple[int, int] | None] = [None] * count
    for wanted in (False, True):
        for place, (owner, says) in enumerate(zip(owners, spoken)):
            if owner >= 0 and says == wanted:
                before = found[owner]
                again = before is not None and spoken[before[0]] == wanted
                found[owner] = (before[0], place) if before is not None and again else (place, place)
    return found


def _plain(character: str) -> str:
    """Return a character in lower case without accents; one may become several."""
    parts = unicodedata.normalize("NFKD", character)
    return "".join(one for one in parts if not unicodedata.combining(one)).lower() or character


def _folded(logprobs: NDArray[np.float32], characters: str) -> tuple[NDArray[np.float32], dict[str, int], int]:
    """Return log probabilities [T, classes + 2] with both cases of a letter in one class, the class of each character
    in lower case, and the class of any letter or digit; the blank is last."""
    groups: dict[str, list[int]] = {}
    for place, character in enumerate(characters):
        groups.setdefault(character.lower(), []).append(place)
    columns = [np.logaddexp.reduce(logprobs[:, places], axis=1) for places in groups.values()]
    letters = [place for place, character in enumerate(characters) if character.isalnum()]
    # The likeliest one, not the sum of all, which would outweigh every letter that is known.
    any_letter = logprobs[:, letters].max(1) if letters else np.zeros(len(logprobs), np.float32)
    scores = np.stack([*columns, any_letter, logprobs[:, -1]], 1).astype(np.float32)
    return scores, {character: number for number, character in enumerate(groups)}, len(groups)
