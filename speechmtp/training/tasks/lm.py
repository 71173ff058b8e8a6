"""Task `lm`: train a causal language model of transformers, and its byte-level BPE tokenizer, from plain text."""

import gzip
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from speechmtp.config import Range, Seed, Size, check_fields
from speechmtp.data.batch import seeded
from speechmtp.errors import ConfigError, DataError
from speechmtp.models.trunk import ScratchTrunkConfig, Trunk, build_trunk
from speechmtp.training.loop import LoopConfig, finished, load_finished, run_phase
from speechmtp.training.losses import in_chunks, rows_ce
from speechmtp.training.optim import OptimConfig
from speechmtp.training.packing import Piece, fill_rows, pack_rows, positions_in

SPECIAL = ("<pad>", "<s>", "</s>")
BYTES = 256
CHUNK = 1024  # tokens whose logits are in memory at a time


@dataclass(frozen=True)
class LmConfig:
    """Options of one training of a language model.

    `tokenizer` is a folder with a tokenizer of transformers; if empty, a byte-level BPE of `vocab_size` pieces is
    trained on the text. `lines` consecutive lines of a text file make a document; the last `held_out` documents are the
    development set if no file is given for it. A batch has `rows` rows of `size` tokens.
    """

    seed: Seed = 0
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    model: ScratchTrunkConfig = field(default_factory=ScratchTrunkConfig)
    tokenizer: str = ""
    vocab_size: Annotated[int, Range(BYTES + len(SPECIAL), 1 << 20)] = 1024
    lines: Annotated[int, Range(1)] = 8
    held_out: Annotated[int, Range(1)] = 200
    steps: Annotated[int, Range(1)] = 2000
    rows: Size = 8
    size: Annotated[int, Range(2, 1 << 16)] = 256
    optim: OptimConfig = field(
        default_factory=lambda: OptimConfig(lr=2e-3, warmup=100, schedule="cosine", clip=1.0, ema=0.99)
    )
    loop: LoopConfig = field(default_factory=LoopConfig)

    def __post_init__(self) -> None:
        check_fields(self, "lm")


@dataclass(frozen=True)
class LmBatch:
    """Token ids, labels (the next token of each, -1: none), positions and documents (-1: padding), all [B, L]."""

    ids: Tensor
    labels: Tensor
    positions: Tensor
    segments: Tensor


def read_documents(path: str | Path, lines: int) -> list[str]:
    """Read documents of `lines` consecutive lines, joined by spaces; `.gz` files are decompressed, empty lines left
    out. DataError for a file that cannot be read, is not UTF-8 or has no text."""
    packed = Path(path).suffix == ".gz"
    try:
        raw = Path(path).read_bytes()
        text = (gzip.decompress(raw) if packed else raw).decode("utf-8")
    except (OSError, EOFError) as error:
        raise DataError(f"{path}: {getattr(error, 'strerror', None) or error}; a text file is expected") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: byte {error.start} is not UTF-8; convert the file") from error
    found = [line.strip() for line in text.splitlines() if line.strip()]
    if not found:
        raise DataError(f"{path}: no text; a sentence a line is expected")
    return [" ".join(found[i : i + lines]) for i in range(0, len(found), lines)]


def train_bpe(documents: Iterable[str], vocab_size: int) -> Any:
    """Train a byte-level BPE tokenizer of at most `vocab_size` pieces; returns a fast tokenizer of transformers, which
    adds the start token `<s>` to a text and whose end token is `</s>`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokens = Tokenizer(models.BPE())
    tokens.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokens.decoder = decoders.ByteLevel()
    options: dict[str, Any] = {
        "vocab_size": vocab_size, "special_tokens": list(SPECIAL), "show_progress": False,
        "initial_alphabet": pre_tokenizers.ByteLevel.alphabet(),
    }  # fmt: skip
    tokens.train_from_iterator(documents, trainers.BpeTrainer(**options))
    pad, bos, eos = SPECIAL
    marks = [(bos, tokens.token_to_id(bos))]
    tokens.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=marks)
    return PreTrainedTokenizerFast(tokenizer_object=tokens, pad_token=pad, bos_token=bos, eos_token=eos)


def load_tokenizer(folder: str | Path) -> Any:
    """Load a tokenizer of transformers from a folder. ConfigError if it cannot be loaded or has no end token."""
    from transformers import AutoTokenizer

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(str(folder))
    except (OSError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"tokenizer {folder}: cannot be loaded: {reason}; give a folder of transformers") from error
    if tokenizer.eos_token_id is None:
        raise ConfigError(f"tokenizer {folder}: no end token; set eos_token in its tokenizer_config.json")
    return tokenizer


def encode_documents(tokenizer: Any, documents: Sequence[str]) -> list[list[int]]:
    """Token ids of documents, with the start token, if the tokenizer has one, and the end token."""
    bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    encoded = tokenizer(list(documents), add_special_tokens=False)["input_ids"]
    return [[*bos, *ids, tokenizer.eos_token_id] for ids in encoded]


class PackedDocuments:
    """Documents packed into rows of `size` tokens, in another order each epoch.

    A document that does not fit into a row continues in the next row, whose first input token is the last label of the
    row before. Every token except a document's first is a label once per epoch. Batch n is a function of n and the
    seed. DataError if no document has two tokens.
    """

    def __init__(self, texts: Sequence[Sequence[int]], rows: int, size: int, seed: int) -> None:
        self._texts = [np.array(text, dtype=np.int32) for text in texts if len(text) > 1]
        if not self._texts:
            raise DataError("lm: no document of two tokens or more; give a longer text")
        self._together, self._size, self._seed = rows, size, seed
        self._lengths = [len(text) - 1 for text in self._texts]  # numbers of labels
        self.tokens = sum(self._lengths)
        self.rows = math.ceil(self.tokens / size)  # of an epoch
        self._epoch = lru_cache(maxsize=1)(self._make_epoch)

    def batch(self, number: int) -> LmBatch:
        """Batch `number`; epochs are unlimited."""
        places = (divmod(number * self._together + i, self.rows) for i in range(self._together))
        return self._batch([self._epoch(epoch)[place] for epoch, place in places])

    def epoch(self) -> Iterable[LmBatch]:
        """The batches of one epoch, each row once."""
        packed = self._epoch(0)
        for start in range(0, self.rows, self._together):
            yield self._batch(packed[start : start + self._together])

    def _batch(self, rows: Sequence[Sequence[Piece]]) -> LmBatch:
        ids = fill_rows(rows, self._size, 0, lambda piece: self._texts[piece.text][piece.begin : piece.end])
        labels = fill_rows(rows, self._size, -1, lambda piece: self._texts[piece.text][piece.begin + 1 : piece.end + 1])
        segments = fill_rows(rows, self._size, -1, lambda piece: piece.text)
        return LmBatch(ids, labels, positions_in(segments), segments)

    def _make_epoch(self, number: int) -> list[list[Piece]]:
        """The rows of an epoch."""
        order = seeded("lm", self._seed, number).permutation(len(self._texts)).tolist()
        return pack_rows(self._lengths, order, self._size, cut=True)


class LmPhase:
    """Training of a causal LM on packed documents."""

    name = "lm"

    def __init__(
        self, config: LmConfig, trunk: Trunk, train: PackedDocuments, dev: PackedDocuments, precision: torch.dtype
    ) -> None:
        self.steps, self.optim, self.module = config.steps, config.optim, trunk
        self._trunk, self._train, self._dev, self._precision = trunk, train, dev, precision
        self._device = trunk.unembedding().weight.device
        trunk.train()

    def parameters(self) -> Iterable[tuple[nn.Parameter, float]]:
        """All weights, at the full learning rate."""
        return ((p, 1.0) for p in self._trunk.parameters())

    def batch(self, number: int) -> LmBatch:
        """Rows of packed documents."""
        return self._train.batch(number)

    def weight(self, batch: LmBatch) -> float:
        """Number of labels."""
        return float((batch.labels >= 0).sum())

    def loss(self, batch: LmBatch, step: int) -> tuple[Tensor, dict[str, float]]:
        """Summed cross-entropy of the labels."""
        with torch.autocast(self._device.type, self._precision, enabled=self._precision != torch.float32):
            return self._nats(batch), {}

    def _nats(self, batch: LmBatch) -> Tensor:
        ids, labels, positions, segments = (
            part.to(self._device) for part in (batch.ids, batch.labels, batch.positions, batch.segments)
        )
        hidden = self._trunk(self._trunk.embed(ids), positions, segments).hidden
        asked = labels >= 0
        return in_chunks(lambda h, y: rows_ce(self._trunk.unembed(h), y), CHUNK, hidden[asked], labels[asked])

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Cross-entropy in nats per token and perplexity on the development set."""
        nats = sum(float(self._nats(batch)) for batch in self._dev.epoch()) / self._dev.tokens
        return {"score": nats, "nats": nats, "perplexity": math.exp(nats)}


def train_lm(
    config: LmConfig, tokenizer: Any, train: Sequence[str], dev: Sequence[str], out: Path, precision: torch.dtype,
    resume: bool = False, device: torch.device | None = None,
) -> tuple[Trunk, dict[str, float]]:  # fmt: skip
    """Train a model on documents `train` in folder `out`, with its final weights selected on `dev`; returns the model
    and its development metrics."""
    torch.manual_seed(config.seed)
    trunk = build_trunk(config.model, len(tokenizer)).to(device)
    set_special_tokens(trunk, tokenizer)
    text, held_out = (
        PackedDocuments(encode_documents(tokenizer, texts), config.rows, config.size, config.seed)
        for texts in (train, dev)
    )
    phase = LmPhase(config, trunk, text, held_out, precision)
    if resume and finished(out):
        figures = load_finished(trunk, out)
    else:
        figures = run_phase(phase, out, config.loop, config.seed, resume)
    trunk.eval()
    return trunk, figures | {"epochs": config.steps * config.rows / text.rows}


def set_special_tokens(trunk: Trunk, tokenizer: Any) -> None:
    """Set the ids of start, end and padding token in a model's configuration."""
    from transformers import GenerationConfig

    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    for name in names:
        setattr(trunk.model.config, name, getattr(tokenizer, name))
    trunk.model.generation_config = GenerationConfig(**{name: getattr(tokenizer, name) for name in names})
