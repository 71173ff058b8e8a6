"""Tokenizers from a `tokenizer.json` of transformers, and the strings of their tokens for drafters."""

import hashlib
import json
import lzma
from collections.abc import Callable, Sequence, Set
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speechmtp.errors import CheckpointError
from speechmtp.text.marked_pieces import BYTE, MARK, MarkedPieces
from speechmtp.types import TokenSpelling

if TYPE_CHECKING:
    import tokenizers

PLAIN, PACKED = "tokenizer.json", "tokenizer.json.xz"


class HubTokenizer:
    """A tokenizer of the `tokenizers` library with the interface of `Tokenizer`; `bos` and `eos` are the model's ids.

    Every added token is special, even if it is not marked as such (Whisper's timestamps are not): it is never encoded
    from a text, and decodes to nothing. Pieces that no merge produces, such as Moonshine's `<<ST_0>>`, decode to
    nothing too. `unk` is eos if the vocabulary has no unknown token.
    """

    def __init__(self, source: str | bytes, bos: int, eos: int, name: str = PLAIN) -> None:
        """Parse the JSON of `tokenizer.json`. CheckpointError if it is not a tokenizer, or `bos` or `eos` is not in
        it."""
        self._settings, self._source, self._name = _parse(source, name), source, name
        self.bos, self.eos = bos, eos
        self._pieces = MarkedPieces.of(self._settings)
        vocabulary = self._tokens.get_vocab(with_added_tokens=True) if self._pieces is None else self._pieces.vocabulary
        self._size = max(vocabulary.values(), default=-1) + 1
        if not (0 <= bos < self._size and 0 <= eos < self._size):
            raise CheckpointError(
                f"{name}: {self._size} tokens, bos {bos} and eos {eos} are none of them; give the model's own tokenizer"
            )
        self.unk = vocabulary.get(self._settings["model"].get("unk_token"), eos)
        added = self._tokens.get_added_tokens_decoder() if self._pieces is None else self._pieces.added
        made = None if self._pieces is None else self._pieces.made
        self._special = {bos, eos, *added, *_placeholders(self._settings["model"], made)}

    @cached_property
    def _tokens(self) -> "tokenizers.Tokenizer":
        """The library's tokenizer, whose merges take a tenth of a second to read."""
        return _build(self._settings, self._name, self._source)

    @classmethod
    def load(cls, path: str | Path, bos: int, eos: int) -> "HubTokenizer":
        """Load `tokenizer.json`, or one compressed with xz. CheckpointError if the file is not a tokenizer."""
        try:
            data = Path(path).read_bytes()
            return cls(lzma.decompress(data) if Path(path).suffix == ".xz" else data, bos, eos, str(path))
        except (OSError, lzma.LZMAError) as error:
            reason = getattr(error, "strerror", None) or error
            raise CheckpointError(f"{path}: {reason}; a tokenizer.json of transformers is expected") from error

    def save(self, path: str | Path, packed: bool = False) -> Path:
        """Write `tokenizer.json` (if `packed`, `tokenizer.json.xz`) to a folder, or to a file of any name; returns the
        path of the file."""
        path = Path(path)
        path = path / (PACKED if packed else PLAIN) if path.is_dir() else path
        path.write_bytes(lzma.compress(self._json, preset=9 | lzma.PRESET_EXTREME) if packed else self._json)
        return path

    def __len__(self) -> int:
        return self._size

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, without special tokens."""
        return _ids(self._tokens, text)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`, without leading spaces and special tokens."""
        kept = [int(i) for i in ids if int(i) not in self._special]
        return (str(self._tokens.decode(kept)) if self._pieces is None else self._pieces.text(kept)).lstrip(" ")

    def piece(self, token: int) -> str:
        """The piece of one id as in the vocabulary; empty for an id outside it."""
        if self._pieces is not None:
            return self._pieces.by_id.get(int(token), "")
        return self._tokens.id_to_token(int(token)) or ""

    def id(self, piece: str) -> int | None:
        """The id of a piece or an added token; None if there is none."""
        return self._tokens.token_to_id(piece) if self._pieces is None else self._pieces.vocabulary.get(piece)

    def spelling(self, size: int = 0) -> TokenSpelling:
        """The string that each token adds to a text, and an encoder of strings inside a text. `size` is the size of the
        model's vocabulary, which may be larger than the tokenizer's."""
        return TokenSpelling(partial(self._added_texts, max(size, self._size)), self._inner_encoder)

    def _added_texts(self, size: int) -> list[str]:
        """The string that each of the first `size` token ids adds to a text."""
        bytewise = self._of_type("ByteLevel")
        return [self._added_text(i, bytewise) for i in range(size)]

    def _inner_encoder(self) -> Callable[[str], list[int]]:
        """An encoder of strings inside a text, which get no prefix."""
        return partial(_ids, _build(_unprefixed(self._settings), "spelling"))

    def _added_text(self, token: int, bytewise: bool) -> str:
        """The string that a token adds to a text; empty for bytes that are not a character on their own."""
        piece = "" if token in self._special else self.piece(token)
        if bytewise:
            from tokenizers.decoders import ByteLevel

            text = str(ByteLevel().decode([piece]))
            return "" if "\N{REPLACEMENT CHARACTER}" in text else text
        byte = BYTE.fullmatch(piece) if self._settings["model"].get("byte_fallback") else None
        if byte is None:
            return "" if token == self.unk else piece.replace(MARK, " ")
        text = chr(int(byte[1], 16))
        return text if text.isascii() and text.isprintable() else ""

    def _of_type(self, kind: str) -> bool:
        return any(part["type"] == kind for part in _parts(self._settings.get("decoder"), "decoders"))

    @property
    def _json(self) -> bytes:
        return json.dumps(self._settings, ensure_ascii=False, separators=(",", ":")).encode()

    @property
    def sha256(self) -> str:
        """Digest of the content, packed or not, for checking that two models share a vocabulary."""
        return hashlib.sha256(self._json).hexdigest()


def _ids(tokens: "tokenizers.Tokenizer", text: str) -> list[int]:
    return list(tokens.encode(text, add_special_tokens=False).ids)


def _parse(source: str | bytes, name: str) -> dict[str, Any]:
    try:
        settings = json.loads(source)
    except ValueError as error:  # invalid JSON or invalid UTF-8
        raise CheckpointError(f"{name}: not JSON ({error}); a tokenizer.json of transformers is expected") from error
    if not isinstance(settings, dict) or not isinstance(settings.get("model"), dict):
        raise CheckpointError(
            f"{name}: JSON without a tokenizer's `model`; a tokenizer.json of transformers is expected"
        )
    return settings


def _build(settings: dict[str, Any], name: str, source: str | bytes | None = None) -> "tokenizers.Tokenizer":
    """Build a tokenizer that does not encode special tokens from a text; `source` is the JSON of the settings, if
    known."""
    import tokenizers

    added = settings.get("added_tokens") or []
    if source is None or not all(token.get("special") for token in added):
        source = json.dumps(settings | {"added_tokens": [token | {"special": True} for token in added]})
    try:
        built = tokenizers.Tokenizer.from_str(source if isinstance(source, str) else source.decode())
    except Exception as error:  # the library raises plain Exception
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{name}: not a tokenizer ({reason}); give the model's own tokenizer.json") from error
    built.encode_special_tokens = True
    built.no_truncation()
    built.no_padding()
    return built


def _placeholders(model: dict[str, Any], made: Set[str] | None) -> set[int]:
    """Ids of BPE pieces that no text is encoded to: longer than a character, not made by a merge, no fallback byte.
    `made` are the pieces that merges make, if known."""
    if model["type"] != "BPE" or model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        return set()
    if made is None:
        made = {merge.replace(" ", "") if isinstance(merge, str) else "".join(merge) for merge in model["merges"]}
    vocabulary = model["vocab"]
    return {vocabulary[p] for p in vocabulary.keys() - made if len(p) > 1 and not BYTE.fullmatch(p)}


def _parts(part: dict[str, Any] | None, key: str) -> list[dict[str, Any]]:
    """The parts of a normaliser, pre-tokenizer or decoder, as a list."""
    return part[key] if part is not None and part["type"] == "Sequence" else [part] if part is not None else []


def _unprefixed(settings: dict[str, Any]) -> dict[str, Any]:
    """The same tokenizer without a prefix before a text."""
    normalizers = [p for p in _parts(settings.get("normalizer"), "normalizers") if p["type"] != "Prepend"]
    splitters = [
        part
        | ({"prepend_scheme": "never"} if part["type"] == "Metaspace" else {})
        | ({"add_prefix_space": False} if part["type"] == "ByteLevel" else {})
        for part in _parts(settings.get("pre_tokenizer"), "pretokenizers")
    ]
    return settings | {
        "normalizer": {"type": "Sequence", "normalizers": normalizers},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": splitters},
    }
