"""What heads are trained on: audio prompts with their texts, or packed text; batches are functions of their number."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from speechmtp.data.batch import pooled_rows, seeded
from speechmtp.decoding.engine import Limits, plain_outputs
from speechmtp.errors import DataError
from speechmtp.evaluation.held_out import text_prompt
from speechmtp.models.adapter import AudioPrompt
from speechmtp.models.encoder_lm import EncoderLM
from speechmtp.models.trunk import Trunk
from speechmtp.training.multi_token import Sequences, lay_behind, pad_text
from speechmtp.training.tasks.ctc import AudioData, AugmentConfig, augment
from speechmtp.types import TokenRules


class HeadData(Protocol):
    """Batches for the phase that trains heads."""

    def batch(self, number: int) -> Any:
        """What batch `number` is made of."""

    def count(self, batch: Any) -> int:
        """Tokens of a batch that the trunk's own head is asked for."""

    def sequences(self, batch: Any) -> Sequences:
        """The batch with the trunk's embeddings as they are now."""

    def tokens(self) -> Sequence[Sequence[int]]:
        """Every target text, for a shortlist of what can be drafted."""


@dataclass(frozen=True)
class HeardText:
    """An audio prompt [P, C] with its positions [P], the position of its start token, and a text."""

    embeddings: Tensor
    positions: Tensor
    text_position: int
    text: list[int]


class HeardData:
    """Texts behind audio prompts that were computed once."""

    def __init__(self, trunk: Trunk, items: Sequence[HeardText], rows: int, bos: int, eos: int, seed: int) -> None:
        if not items:
            raise DataError("heads: no utterance to train on; check the data directory")
        self._trunk, self._items, self._rows, self._bos, self._eos, self._seed = trunk, items, rows, bos, eos, seed

    def batch(self, number: int) -> list[HeardText]:
        """Rows of about one length."""
        sizes = [len(item.positions) + len(item.text) for item in self._items]
        return [self._items[i] for i in pooled_rows("heads", self._seed, number, sizes, self._rows)]

    def count(self, batch: Sequence[HeardText]) -> int:
        """Tokens with their end tokens."""
        return sum(len(item.text) + 1 for item in batch)

    def sequences(self, batch: Sequence[HeardText]) -> Sequences:
        """Texts behind their prompts."""
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
        """Texts with their end token."""
        return [[*item.text, self._eos] for item in self._items]


class PackedText:
    """Token lists packed into rows of `size` entries, a segment each; positions start anew with each. No call starts
    before the last of a text's first `prompt_tokens` tokens, which are its prompt; texts without more are left out."""

    def __init__(
        self, trunk: Trunk, texts: Sequence[Sequence[int]], rows: int, size: int, prompt_tokens: int, seed: int
    ) -> None:
        self._texts = [list(t[:size]) for t in texts if len(t) > prompt_tokens]
        if not self._texts or size <= prompt_tokens:
            raise DataError(
                f"heads: no text longer than its prompt of {prompt_tokens} tokens to train on, rows of {size}; lower "
                f"`prompt_tokens` or give longer texts"
            )
        self._trunk, self._rows, self._size, self._prompt_tokens, self._seed = trunk, rows, size, prompt_tokens, seed
        self._packs = self._pack()

    def _pack(self) -> list[list[int]]:
        """Indices of the texts of each packed row: texts in random order, as many as fit."""
        packs: list[list[int]] = []
        room = 0
        for index in seeded("packed", self._seed).permutation(len(self._texts)).tolist():
            if len(self._texts[index]) > room:
                packs.append([])
                room = self._size
            packs[-1].append(index)
            room -= len(self._texts[index])
        return packs

    def batch(self, number: int) -> tuple[Tensor, Tensor, Tensor]:
        """Ids, segments and positions [B, L]: packed rows, each once before any comes again."""
        ids = torch.full((self._rows, self._size), -1)
        segments, positions = torch.full_like(ids, -1), torch.zeros_like(ids)
        for row, pack in enumerate(self._drawn(number)):
            used = 0
            for sample, index in enumerate(pack):
                text = self._texts[index]
                part = slice(used, used + len(text))
                ids[row, part], segments[row, part] = torch.tensor(text), sample
                positions[row, part] = torch.arange(len(text))
                used += len(text)
        return ids, segments, positions

    def _drawn(self, number: int) -> list[list[int]]:
        """The packed rows of batch `number`."""
        size, found = len(self._packs), []
        for epoch in range(number * self._rows // size, ((number + 1) * self._rows - 1) // size + 1):
            order = seeded("packed", self._seed, epoch).permutation(size)
            first, last = number * self._rows - epoch * size, (number + 1) * self._rows - epoch * size
            found += [self._packs[i] for i in order[max(0, first) : last]]
        return found

    def count(self, batch: tuple[Tensor, Tensor, Tensor]) -> int:
        """Tokens behind the prompts."""
        _, segments, positions = batch
        return int(((segments >= 0) & (positions >= self._prompt_tokens)).sum())

    def sequences(self, batch: tuple[Tensor, Tensor, Tensor]) -> Sequences:
        """The rows with their embeddings."""
        device = self._trunk.unembedding().weight.device
        ids, segments, positions = (part.to(device) for part in batch)
        starts = (segments >= 0) & (positions >= self._prompt_tokens - 1)
        return Sequences(self._trunk.embed(ids.clamp_min(0)), positions, ids, segments, starts)

    def tokens(self) -> Sequence[Sequence[int]]:
        """The texts behind their prompts."""
        return [text[self._prompt_tokens :] for text in self._texts]


@torch.no_grad()
def hear_texts(
    model: EncoderLM, data: AudioData, passes: int, settings: AugmentConfig, eos: int, own: bool, seed: int,
    note: Callable[[int, int], None] = lambda done, total: None,
) -> list[HeardText]:  # fmt: skip
    """Prompts of all utterances: once as recorded, then in `passes` - 1 augmented forms.

    Texts are the transcripts or, with `own`, what the model itself says to each prompt (self-distillation: the
    heads learn the distribution that they will be verified against).
    """
    random = seeded("head-prompts", seed)
    generator = torch.Generator().manual_seed(seed)
    names = sorted(data.tokens, key=lambda n: (data.durations[n], n))
    device = model.encoder.mean.device
    found: list[HeardText] = []
    model.eval()
    for number in range(passes):
        for start in range(0, len(names), 16):
            speeds = random.choice((0.9, 1.0, 1.1), 16) if number else [1.0] * 16
            batch = data.collate((n, float(s)) for n, s in zip(names[start : start + 16], speeds))
            frames = (batch.frames - model.encoder.mean.cpu()) / model.encoder.std.cpu()
            if number:
                frames = augment(frames, batch.lengths, settings, generator)
            out = model.encoder(frames.to(device), batch.lengths.to(device), 0, normalised=True)
            audio = model.adapter(model.adapter.segments(out))
            texts = [data.tokens[n] for n in batch.ids]
            if own:
                said = plain_outputs(model.trunk, model.close_prompt(audio), TokenRules((eos,)))
                texts = [[t for t in row if t != eos] for row in said]
            found += _rows(audio, texts)
            note(number * len(names) + min(len(names), start + 16), passes * len(names))
    return found


def _rows(audio: AudioPrompt, texts: Sequence[list[int]]) -> list[HeardText]:
    lengths = audio.lengths.tolist()
    starts = audio.text_position.tolist()
    return [
        HeardText(audio.embeddings[i, :n].cpu().clone(), audio.positions[i, :n].cpu().clone(), starts[i], text)
        for i, (n, text) in enumerate(zip(lengths, texts))
    ]


def own_continuations(trunk: Trunk, texts: Sequence[Sequence[int]], prompt_tokens: int, eos: int) -> list[list[int]]:
    """Texts whose tokens behind the first `prompt_tokens` are the model's own greedy ones, as many as there were; texts
    without more are left out."""
    known = sorted((list(t) for t in texts if len(t) > prompt_tokens), key=len)  # few finish long before their batch
    found: list[list[int]] = []
    rules = TokenRules((eos,))
    for start in range(0, len(known), 16):
        group = known[start : start + 16]
        most = len(group[-1]) - prompt_tokens
        said = plain_outputs(
            trunk, text_prompt(trunk, [t[:prompt_tokens] for t in group]), rules, Limits(0.0, most, most)
        )
        found += [t[:prompt_tokens] + s[: len(t) - prompt_tokens] for t, s in zip(group, said)]
    return found
