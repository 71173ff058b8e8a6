"""Text normalisers: versioned pure functions, applied to both references and hypotheses.

Error rates are comparable only if the same normaliser was used. `record()` gives its id, version, language and a hash
of its specification, and results with different records are not compared.
"""

import hashlib
import json
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from speechmtp.errors import ConfigError

_APOSTROPHES = str.maketrans(dict.fromkeys("\u2018\u2019\u02bc\u00b4", "'"))


@dataclass(frozen=True)
class Normalizer:
    """A named function from text to text; `spec` describes it in JSON and is covered by the hash of `record`."""

    id: str
    version: int
    lang: str  # ISO 639 code, "mul" for any language
    spec: Mapping[str, Any]
    function: Callable[[str], str]

    def __call__(self, text: str) -> str:
        """The normalised text."""
        return self.function(text)

    def record(self) -> dict[str, Any]:
        """The record `{id, version, sha256, lang}`; for `whisper-en` also the `spelling_map` (entries, sha256)."""
        body = json.dumps(
            {"id": self.id, "version": self.version, "lang": self.lang, "spec": self.spec}, sort_keys=True
        )
        record: dict[str, Any] = {
            "id": self.id,
            "version": self.version,
            "sha256": hashlib.sha256(body.encode()).hexdigest(),
            "lang": self.lang,
        }
        if "spelling_map" in self.spec:
            record["spelling_map"] = self.spec["spelling_map"]
        return record


def kaldi_basic(text: str) -> str:
    """Normalise `text` to NFKC and upper case, with letters, marks, numbers, apostrophes and single spaces only.

    Curly apostrophes become `'`. Format characters are removed, except that a zero-width space separates words. All
    other characters become spaces. Marks are kept only after a letter, number or mark, apostrophes only in words that
    have other characters.
    """
    text = unicodedata.normalize("NFKC", text.translate(_APOSTROPHES)).translate(_APOSTROPHES)
    kept: list[str] = []
    in_word = False  # a mark without a preceding letter or number would be a word of its own
    for char in unicodedata.normalize("NFKC", text.upper()):
        kind = unicodedata.category(char)
        if kind[0] in "LN" or (kind[0] == "M" and in_word):
            kept.append(char)
            in_word = True
        elif char == "'":
            kept.append(char)
            in_word = False
        elif kind != "Cf" or char == "\u200b":
            kept.append(" ")
            in_word = False
    words = "".join(kept).split()
    joined = " ".join(word for word in words if word.strip("'"))
    # removing a character between a letter and its mark can make them adjacent
    return unicodedata.normalize("NFKC", joined)


def get_normalizer(name: str, spelling_map: str | Path | None = None) -> Normalizer:
    """Build the normaliser `name` of `NORMALIZERS`.

    `spelling_map` is a JSON file that maps British to American spellings for `whisper-en` (the `normalizer.json` of a
    Whisper tokenizer). transformers has the code but not the map, so without the file the map is empty, spellings are
    not changed, and the record contains 0 entries. ConfigError for an unknown name or an invalid map.
    """
    if name not in NORMALIZERS:
        near = get_close_matches(name, NORMALIZERS, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"use one of {', '.join(NORMALIZERS)}"
        raise ConfigError(f"normalizer: no such normaliser '{name}'; {hint}")
    build = NORMALIZERS[name]
    if build is _whisper_english:
        return _whisper_english(_read_spelling_map(spelling_map))
    if spelling_map is not None:
        raise ConfigError(f"normalizer: '{name}' takes no spelling map, only whisper-en does; leave it out")
    return build()


def _none() -> Normalizer:
    """The identity."""
    return Normalizer("none", 1, "mul", {"steps": []}, str)


def _kaldi_basic() -> Normalizer:
    """`kaldi_basic`; the hash covers a description of its steps."""
    steps = [
        "apostrophes U+2018 U+2019 U+02BC U+00B4 to U+0027",
        "NFKC",
        "upper case",
        "keep L, N, M behind L or N, apostrophe; drop Cf but U+200B; else space",
        "drop words of apostrophes alone",
        "single spaces",
    ]
    return Normalizer("kaldi-basic", 1, "mul", {"steps": steps}, kaldi_basic)


def _whisper_english(spellings: Mapping[str, str] | None = None) -> Normalizer:
    """transformers' English Whisper normaliser with a spelling map; the hash covers the source of its module."""
    spellings = dict(spellings or {})
    try:
        from transformers.models.whisper import english_normalizer
    except ImportError as error:
        raise ConfigError(f"normalizer: whisper-en needs transformers, found none ({error}); install it") from error
    normalize = english_normalizer.EnglishTextNormalizer(spellings)
    source = hashlib.sha256(Path(str(english_normalizer.__file__)).read_bytes()).hexdigest()
    digest = hashlib.sha256(json.dumps(spellings, sort_keys=True).encode()).hexdigest() if spellings else None
    spec = {
        "function": "transformers.models.whisper.english_normalizer.EnglishTextNormalizer",
        "source_sha256": source,
        "spelling_map": {"entries": len(spellings), "sha256": digest},
    }
    return Normalizer("whisper-en", 1, "en", spec, lambda text: normalize(text).strip())


def _read_spelling_map(path: str | Path | None) -> dict[str, str]:
    """Read the map from words to words in the JSON file `path`; empty for None."""
    if path is None:
        return {}
    try:
        spellings = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot read the spelling map ({error}); give a JSON file") from error
    if not isinstance(spellings, dict) or not all(isinstance(value, str) for value in spellings.values()):
        raise ConfigError(f"{path}: no map of words to words; give a JSON object of strings")
    return spellings


# All normalisers by name; a new one is one function and one line here.
NORMALIZERS: dict[str, Callable[[], Normalizer]] = {
    "none": _none,
    "kaldi-basic": _kaldi_basic,
    "whisper-en": _whisper_english,
}
