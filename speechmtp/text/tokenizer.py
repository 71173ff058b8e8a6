"""Tokenizers of sentencepiece."""

import hashlib
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import sentencepiece

from speechmtp.errors import CheckpointError, ConfigError, DataError

UNK, BOS, EOS = 0, 1, 2


class Tokenizer:
    """A sentencepiece model whose ids 0, 1, 2 are unk, bos, eos; there is no padding id."""

    def __init__(self, model: bytes, name: str = "tokenizer.model") -> None:
        self.model = model
        self._pieces = sentencepiece.SentencePieceProcessor()
        try:
            self._pieces.LoadFromSerializedProto(model)
        except RuntimeError as error:
            raise CheckpointError(f"{name}: not a sentencepiece model ({error})") from error
        self.bos, self.eos, self.unk = self._pieces.bos_id(), self._pieces.eos_id(), self._pieces.unk_id()
        if min(self.bos, self.eos, self.unk) < 0:
            raise CheckpointError(
                f"{name}: bos, eos and unk pieces are needed; train it with speechmtp train tokenizer"
            )

    @classmethod
    def load(cls, path: str | Path) -> "Tokenizer":
        """Load a tokenizer from a file. CheckpointError if it cannot be read or is not a sentencepiece model."""
        try:
            return cls(Path(path).read_bytes(), str(path))
        except OSError as error:
            raise CheckpointError(f"{path}: {error.strerror or error}; a sentencepiece model is expected") from error

    def save(self, path: str | Path) -> None:
        """Write the sentencepiece model to a file, unchanged."""
        Path(path).write_bytes(self.model)

    def __len__(self) -> int:
        return int(self._pieces.GetPieceSize())

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, without bos and eos."""
        return list(self._pieces.EncodeAsIds(text))

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`, without bos and eos."""
        return str(self._pieces.DecodeIds([int(i) for i in ids if int(i) not in (self.bos, self.eos)]))

    def piece(self, token: int) -> str:
        """The piece of one id, in which sentencepiece marks the start of a word with U+2581."""
        return str(self._pieces.IdToPiece(int(token)))

    @property
    def sha256(self) -> str:
        """SHA-256 digest of the model, for checking that two models share a vocabulary."""
        return hashlib.sha256(self.model).hexdigest()


def train_tokenizer(lines: Iterable[str], vocab_size: int, kind: str = "unigram", hard_limit: bool = True) -> Tokenizer:
    """Train a sentencepiece tokenizer of `vocab_size` pieces, including unk, bos and eos (without `hard_limit`, of at
    most that many).

    Training uses one thread, since sentencepiece's vocabulary depends on the number of threads, and no normalisation,
    since `text/normalize.py` does that. DataError for empty text, ConfigError for a vocabulary size that does not fit
    the text.
    """
    texts = [line for line in lines if line.strip()]
    if not texts:
        raise DataError("tokenizer: no text to train on; give a non-empty text file")
    out = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.Train(
            sentence_iterator=iter(texts), model_writer=out, vocab_size=vocab_size, model_type=kind,
            character_coverage=1.0, normalization_rule_name="identity", num_threads=1,
            unk_id=UNK, bos_id=BOS, eos_id=EOS, pad_id=-1, hard_vocab_limit=hard_limit,
            minloglevel=2,
        )  # fmt: skip
    except (RuntimeError, ValueError) as error:
        raise ConfigError(f"tokenizer: vocab_size {vocab_size} does not fit the text: {error}") from error
    return Tokenizer(out.getvalue())
