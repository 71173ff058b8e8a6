"""Phones of words: misaki's lexicon, its endings -s, -ed and -ing, and its rules of stress (Apache-2.0, followed)."""

import re
from collections.abc import Mapping

from speechmtp.g2p import stress as accent

Entry = str | dict[str, str]  # phones, or phones by part of speech with a `DEFAULT`; "" asks to spell the word
_TAUS = frozenset("AIOWYiuæɑəɛɪɹʊʌ")  # a t after these is flapped before a weak vowel
_ENDING_ING = re.compile(r"([bcdgklmnprstvxz])\1ing$|cking$")
_INITIALS = re.compile(r"(?:[A-Za-z]{1,2}\.)+[A-Za-z]{1,2}\.?$")


def parent(tag: str) -> str:
    """The coarse part of speech that entries of the lexicon name."""
    for start, name in (("VB", "VERB"), ("NN", "NOUN"), ("RB", "ADV"), ("JJ", "ADJ")):
        if tag.startswith(start):
            return name
    return tag


class Lexicon:
    """Words to phones.

    Arguments:
        gold: entries that were checked by hand
        silver: further entries, of which fewer were checked; used for what gold lacks
        bronze: words in small letters, mostly names, that both lack
        own: a user's entries, which win over all rules
    """

    def __init__(
        self,
        gold: Mapping[str, Entry],
        silver: Mapping[str, Entry],
        bronze: Mapping[str, Entry],
        own: Mapping[str, str],
    ) -> None:
        self.gold, self.silver, self.bronze, self.own = gold, silver, bronze, own

    def say(self, word: str, tag: str, vowel: bool | None, to_next: bool = False) -> str | None:
        """Phones of a word as it is written, None if it is unknown.

        Arguments:
            tag: its part of speech (Penn Treebank)
            vowel: whether the next sound is a vowel; None before punctuation and at the end
            to_next: the next word is "to"
        """
        if own := self._own(word):
            return own
        level = 0.0 if word == word.lower() else 2.0 if word == word.upper() else 0.5
        said = self._function_word(word, tag, vowel, to_next)
        return said if said is not None else self._word(word, tag, level, vowel)

    def known(self, word: str, names: bool = True) -> bool:
        """Whether there is an entry for this writing or one that differs in case alone; `names` looks in bronze too."""
        layers = (self.gold, self.silver, self.bronze) if names else (self.gold, self.silver)
        return any(self._find(entries, word) is not None for entries in layers)

    def inflected(self, word: str) -> bool:
        """Whether the word is another one with -s, -ed or -ing."""
        return self._inflected(word, "", 0.0, False) is not None

    def spell(self, letters: str) -> str:
        """The names of letters, joined as one word; what is no letter from a to z is left out."""
        names = [self.gold[one.upper()] for one in letters if one.isascii() and one.isalpha()]
        return accent.spelled([name if isinstance(name, str) else name["DEFAULT"] for name in names])

    def _function_word(self, word: str, tag: str, vowel: bool | None, to_next: bool) -> str | None:
        """Words whose sound depends on their neighbours or on their part of speech."""
        lower = word.lower()
        capitals = word == word.upper() and len(word) > 1
        if _INITIALS.match(word):
            return self.spell(word)
        if lower == "a":
            return "ɐ" if tag == "DT" and vowel is not None else "ˈA"
        if lower in ("am", "an") and capitals and tag.startswith("NN"):
            return self.spell(word)
        if lower == "an" or (word == "am" and vowel is not None):
            return f"ɐ{lower[1]}"
        if lower == "am":
            return str(self.gold["am"])
        if word == "I" and tag == "PRP":
            return "ˌI"
        if lower == "by" and parent(tag) == "ADV":
            return "bˈI"
        if lower == "to" and (not capitals or tag in ("TO", "IN")):
            return str(self.gold["to"]) if vowel is None else "tʊ" if vowel else "tə"
        if lower == "in" and not (capitals and tag == "NNP"):
            return "ˈɪn" if vowel is None or tag != "IN" else "ɪn"
        if lower == "the" and (not capitals or tag == "DT"):
            return "ði" if vowel else "ðə"
        if lower == "used":
            entry = self.gold["used"]
            past = tag in ("VBD", "JJ") and to_next
            return entry if isinstance(entry, str) else entry["VBD" if past else "DEFAULT"]
        return None

    def _word(self, word: str, tag: str, level: float, vowel: bool | None) -> str | None:
        lower = word.lower()
        plain = lower.replace("'", "")
        listed = word in self.gold or word in self.silver
        known = lower in self.gold or lower in self.silver or lower in self.bronze
        if len(word) > 1 and plain.isalpha() and word != lower and not listed and (tag != "NNP" or len(word) > 7):
            regular = word == word.upper() or word[1:] == lower[1:]
            if regular and (known or self._inflected(lower, tag, level, vowel)):
                word = lower
        for form in (word, f"{word[:-2]}'s" if word.endswith("s'") else "", word[:-1] if word.endswith("'") else ""):
            if form and self._readable(form):
                return self._look_up(form, tag, level, vowel)
        said = self._inflected(word, tag, level, vowel)
        if said is None and word not in (lower, word.upper()):  # McDonald, O'Keefe's
            said = self._word(lower, tag, level, vowel)
        return said

    def _own(self, word: str) -> str | None:
        return self.own.get(word) or self.own.get(word.lower())

    @staticmethod
    def _find(entries: Mapping[str, Entry], word: str) -> Entry | None:
        """An entry by its word; "Word" and "word" stand for each other where only one is listed."""
        found = entries.get(word)
        if found is None and len(word) > 1:
            if word == word.lower():
                found = entries.get(word.capitalize())
            elif word == word.capitalize():
                found = entries.get(word.lower())
        return found

    def _readable(self, word: str, names: bool = True) -> bool:
        """Whether the word is listed, or letters that are to be spelled."""
        if self._own(word) or self.known(word, names):
            return True
        if not (word.isascii() and word.isalpha()):
            return False
        return len(word) == 1 or word[1:] == word[1:].upper()

    def _look_up(self, word: str, tag: str, level: float, vowel: bool | None) -> str | None:
        """Phones of a readable word; a name in capitals that no entry stresses is spelled."""
        if own := self._own(word):
            return own
        name = False
        if word == word.upper() and self._find(self.gold, word) is None:
            word = word.lower()
            name = tag == "NNP"
        entry = self._find(self.gold, word)
        if entry is None and not name:
            entry = self._find(self.silver, word) or self._find(self.bronze, word)
        if not entry and len(word) > 5 and not name:
            return None
        if isinstance(entry, dict):
            chosen = "None" if vowel is None and "None" in entry else tag if tag in entry else parent(tag)
            entry = entry.get(chosen, entry["DEFAULT"])
        if not entry or (name and accent.PRIMARY not in entry):
            return self.spell(word) or entry or None
        return accent.raise_to(entry, level)

    def _inflected(self, word: str, tag: str, level: float, vowel: bool | None) -> str | None:
        """A listed stem with the ending -s, -ed or -ing; "wanted" is from "want", not from the name "Wante"."""
        for names in (False, True):
            for stems, ending in (
                (self._stems_s(word), with_s),
                (self._stems_ed(word), _add_ed),
                (self._stems_ing(word), _add_ing),
            ):
                stem = next((one for one in stems if self._readable(one, names)), None)
                if stem is not None:
                    said = self._look_up(stem, tag, level or (0.5 if ending is _add_ing else 0.0), vowel)
                    return said and ending(said)
        return None

    @staticmethod
    def _stems_s(word: str) -> list[str]:
        if len(word) < 3 or not word.endswith("s"):
            return []
        stems = [] if word.endswith("ss") else [word[:-1]]
        if word.endswith("'s") or (len(word) > 4 and word.endswith("es") and not word.endswith("ies")):
            stems.append(word[:-2])
        if len(word) > 4 and word.endswith("ies"):
            stems.append(f"{word[:-3]}y")
        return stems

    @staticmethod
    def _stems_ed(word: str) -> list[str]:
        if len(word) < 4 or not word.endswith("d"):
            return []
        stems = [] if word.endswith("dd") else [word[:-1]]
        if len(word) > 4 and word.endswith("ed") and not word.endswith("eed"):
            stems.append(word[:-2])
        return stems

    @staticmethod
    def _stems_ing(word: str) -> list[str]:
        if len(word) < 5 or not word.endswith("ing"):
            return []
        stems = [word[:-3]] if len(word) > 5 else []
        stems.append(f"{word[:-3]}e")
        if len(word) > 5 and _ENDING_ING.search(word):
            stems.append(word[:-4])
        return stems


def with_s(stem: str) -> str:
    """Phones of a word with the ending -s or 's."""
    return stem + ("s" if stem[-1] in "ptkfθ" else "ᵻz" if stem[-1] in "szʃʒʧʤ" else "z")


def _add_ed(stem: str) -> str:
    if stem[-1] in "pkfθʃsʧ":
        return f"{stem}t"
    if stem[-1] == "t" and len(stem) > 1 and stem[-2] in _TAUS:
        return f"{stem[:-1]}ɾᵻd"
    return stem + ("ɪd" if stem == "t" else "ᵻd" if stem[-1] in "td" else "d")


def _add_ing(stem: str) -> str:
    if stem[-1] == "t" and len(stem) > 1 and stem[-2] in _TAUS:
        return f"{stem[:-1]}ɾɪŋ"
    return f"{stem}ɪŋ"
