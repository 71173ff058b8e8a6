"""Stress marks of misaki's phones: how strong a word is said, and where a mark stands."""

import re

PRIMARY, SECONDARY = "ˈ", "ˌ"
VOWELS = frozenset("AIOQWYaiuæɑɒɔəɛɜɪʊʌᵻ")
CONSONANTS = frozenset("bdfhjklmnpstvwzðŋɡɹɾʃʒʤʧθ")
LONG = frozenset("AIOQWYʤʧ")  # these count twice
_MARK = re.compile("([ˈˌ])([^AIOQWYaiuæɑɒɔəɛɜɪʊʌᵻ]*)(?=[AIOQWYaiuæɑɒɔəɛɜɪʊʌᵻ])")


def weight(phones: str) -> int:
    """How long a word is, roughly."""
    return sum(2 if one in LONG else 1 for one in phones)


def remove(phones: str) -> str:
    """Phones without stress."""
    return phones.replace(PRIMARY, "").replace(SECONDARY, "")


def weaken(phones: str) -> str:
    """Primary stress becomes secondary, secondary stress goes, if there is primary stress; else as it is."""
    if PRIMARY not in phones:
        return phones
    return phones.replace(SECONDARY, "").replace(PRIMARY, SECONDARY)


def mark(phones: str, stress: str) -> str:
    """A stress mark before the first vowel; phones without a vowel stay as they are."""
    return _MARK.sub(r"\2\1", stress + phones, count=1) if VOWELS & set(phones) else phones


def settled(phones: str) -> str:
    """One primary stress, the first; every mark directly before a vowel, and none without one."""
    if PRIMARY not in phones:
        phones = mark(remove(phones), PRIMARY)
    head, _, tail = phones.partition(PRIMARY)
    phones = _MARK.sub(r"\2\1", head + PRIMARY + tail.replace(PRIMARY, SECONDARY))
    return re.sub("[ˈˌ](?![AIOQWYaiuæɑɒɔəɛɜɪʊʌᵻ])", "", phones)


def raise_to(phones: str, level: float) -> str:
    """At least secondary stress where level is .5 to 1, primary stress where it is more; 0 is no change."""
    bare = PRIMARY not in phones and SECONDARY not in phones
    if level > 1 and bare:
        return mark(phones, PRIMARY)
    if level >= 1 and PRIMARY not in phones:
        return mark(phones, SECONDARY) if bare else phones.replace(SECONDARY, PRIMARY)
    return mark(phones, SECONDARY) if level > 0 and bare else phones


def spelled(names: list[str]) -> str:
    """The names of letters joined as one word: the last has primary stress, the others secondary."""
    joined = weaken("".join(names))
    said = joined if SECONDARY in joined else mark(joined, SECONDARY)
    return PRIMARY.join(said.rsplit(SECONDARY, 1))
