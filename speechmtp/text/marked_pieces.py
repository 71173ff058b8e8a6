"""Texts of the commonest kind of tokenizer without the `tokenizers` library: BPE with word marks and fallback bytes, as
Moonshine's and Llama's."""

import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any

BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
MARK = "\N{LOWER ONE EIGHTH BLOCK}"  # stands for a space
_DECODERS: list[dict[str, Any]] = [
    {"type": "Replace", "pattern": {"String": MARK}, "content": " "},
    {"type": "ByteFallback"},
    {"type": "Fuse"},
    {"type": "Strip", "content": " ", "start": 1, "stop": 0},
]


@dataclass(frozen=True)
class MarkedPieces:
    """The pieces of a tokenizer by id, and the texts of ids but for a space in front."""

    vocabulary: Mapping[str, int]
    added: Sequence[int]  # ids of added tokens
    made: Set[str]  # the pieces that merges make

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> "MarkedPieces | None":
        """Return the pieces of a parsed tokenizer.json; None if its decoder is another, or if the library might read
        it otherwise or refuse it."""
        model, added = settings["model"], settings.get("added_tokens") or []
        decoder = settings.get("decoder") or {}
        vocabulary, merges = model.get("vocab"), model.get("merges")
        if model.get("type") != "BPE" or decoder.get("type") != "Sequence" or decoder.get("decoders") != _DECODERS:
            return None
        if not isinstance(vocabulary, dict) or not isinstance(merges, list) or not isinstance(added, list):
            return None
        if model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
            return None
        if set(map(type, vocabulary.values())) != {int}:
            return None
        ids = set(vocabulary.values())
        if len(ids) != len(vocabulary) or min(ids) < 0:
            return None
        if {*map(type, merges)} - {list} or {*map(len, merges)} - {2}:
            return None
        try:
            made = set(map("".join, merges))
            known = vocabulary.keys() >= made and vocabulary.keys() >= {*chain.from_iterable(merges)}
            found = [(token["id"], token["content"]) for token in added]
        except (TypeError, KeyError):
            return None
        if not known or any(vocabulary.get(content) != number for number, content in found):
            return None
        return cls(vocabulary, [number for number, _ in found], made)

    @cached_property
    def by_id(self) -> dict[int, str]:
        """The piece of every id."""
        return {number: piece for piece, number in self.vocabulary.items()}

    def text(self, ids: Sequence[int]) -> str:
        """Return the text of ids, unknown ones left out. Bytes that are no character become a replacement character
        each."""
        parts: list[str] = []
        waiting = bytearray()
        for piece in filter(None, map(self.by_id.get, ids)):
            byte = BYTE.fullmatch(piece)
            if byte is not None:
                waiting.append(int(byte[1], 16))
                continue
            parts += [_characters(waiting), piece.replace(MARK, " ")]
            waiting.clear()
        return "".join([*parts, _characters(waiting)])


def _characters(found: bytearray) -> str:
    try:
        return found.decode()
    except UnicodeDecodeError:
        return "\N{REPLACEMENT CHARACTER}" * len(found)
