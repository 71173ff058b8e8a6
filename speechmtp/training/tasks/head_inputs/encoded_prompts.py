"""Training data for heads: audio prompts that are computed once, and the texts that follow them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from speechmtp.data.batch import pooled_rows
from speechmtp.errors import DataError
from speechmtp.models.adapter import AudioPrompt
from speechmtp.models.trunk import Trunk
from speechmtp.training.multi_token import Sequences, lay_behind, pad_text


@dataclass(frozen=True)
class EncodedPrompt:
    """An audio prompt [P, C] with its positions [P], the position of its start token, and a text."""

    embeddings: Tensor
    positions: Tensor
    text_position: int
    text: list[int]


class EncodedPrompts:
    """Batches of texts after audio prompts, between start token `bos` and end token `eos`. DataError for no items."""

    def __init__(self, trunk: Trunk, items: Sequence[EncodedPrompt], rows: int, bos: int, eos: int, seed: int) -> None:
        if not items:
            raise DataError("heads: no utterance to train on; check the data directory")
        self._trunk, self._items, self._rows, self._bos, self._eos, self._seed = trunk, items, rows, bos, eos, seed

    def batch(self, number: int) -> list[EncodedPrompt]:
        """Rows of similar length."""
        sizes = [len(item.positions) + len(item.text) for item in self._items]
        return [self._items[i] for i in pooled_rows("heads", self._seed, number, sizes, self._rows)]

    def count(self, batch: Sequence[EncodedPrompt]) -> int:
        """Number of tokens, including end tokens."""
        return sum(len(item.text) + 1 for item in batch)

    def sequences(self, batch: Sequence[EncodedPrompt]) -> Sequences:
        """The texts after their prompts."""
        items = batch
        pad = torch.nn.utils.rnn.pad_sequence
        device = self._trunk.unembedding().weight.device
        audio = AudioPrompt(
            pad([i.embeddings for i in items], batch_first=True).to(device),
            pad([i.positions for i in items], batch_first=True).to(device),
            torch.tensor([len(i.positions) for i in items], device=device),
            torch.tensor([i.text_position for i in items], device=device),
        )
        ids, lengths = pad_text([i.text for i in items], self._bos, self._eos)
        return lay_behind(self._trunk, audio, ids.to(device), lengths.to(device))

    def tokens(self) -> Sequence[Sequence[int]]:
        """The token ids of all texts, each with an end token."""
        return [[*item.text, self._eos] for item in self._items]
