"""The table of corpora that can be prepared by name, one line each."""

from __future__ import annotations

from difflib import get_close_matches

from speechmtp.data.corpora.an4 import An4
from speechmtp.data.corpora.contract import Corpus
from speechmtp.errors import ConfigError

CORPORA: dict[str, Corpus] = {
    corpus.name: corpus
    for corpus in (
        An4(),
    )
}  # fmt: skip


def corpus_named(name: str) -> Corpus:
    """The corpus of this name; ConfigError for an unknown name, with the nearest and all known names."""
    if name in CORPORA:
        return CORPORA[name]
    near = get_close_matches(name, CORPORA, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ConfigError(f"corpus {name!r}: no such corpus; {hint}there are {', '.join(CORPORA)}")
