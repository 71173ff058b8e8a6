"""The multi-token loss on sequences of prompt and text, shared by all phases that train heads."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from speechmtp.heads.contract import HeadSet, TrainBatch
from speechmtp.heads.labels import IGNORED, shifted_labels
from speechmtp.models.adapter import AudioPrompt
from speechmtp.models.trunk import Trunk
from speechmtp.training.losses import MultiTokenConfig, depth_weights, in_chunks, rows_against_teacher, rows_ce
from speechmtp.training.sequential import one_by_one
from speechmtp.types import States


@dataclass(frozen=True)
class Sequences:
    """Rows of entries in the same layout as in decoding: prompt, then text, then padding.

    `embeddings` [B, L, C]; `positions`, `ids` (-1: no token), `segments` (-1: padding) [B, L]; `starts` [B, L] marks
    entries at which a decoder call can start; `wanted` [B, L] is the loss mask over target tokens, None for all.
    `memory` [B, S, E] with `memory_lengths` [B] are the encoder outputs for an encoder-decoder trunk. `hints` [B, L, C]
    are the hints that `embeddings` contain (`models/hints.py`), None if there are none.
    """

    embeddings: Tensor
    positions: Tensor
    ids: Tensor
    segments: Tensor
    starts: Tensor
    wanted: Tensor | None = None
    memory: Tensor | None = None
    memory_lengths: Tensor | None = None
    hints: Tensor | None = None


def pad_text(texts: Sequence[Sequence[int]], bos: int, eos: int) -> tuple[Tensor, Tensor]:
    """Token ids [B, L] of `bos text eos`, padded with eos, and their lengths [B]."""
    rows = [torch.tensor([bos, *text, eos]) for text in texts]
    lengths = torch.tensor([len(r) for r in rows])
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=eos), lengths


def lay_behind(trunk: Trunk, audio: AudioPrompt, ids: Tensor, lengths: Tensor) -> Sequences:
    """Place texts `ids` [B, L] (start token first) of `lengths` [B] directly after their audio prompts, without padding
    in between."""
    prompt_size, size = audio.embeddings.shape[1], int((audio.lengths + lengths).max())
    index = torch.arange(size, device=ids.device)
    text = index - audio.lengths[:, None]  # index into the text
    in_prompt = text < 0
    source = torch.where(in_prompt, index, prompt_size + text.clamp(0, ids.shape[1] - 1))
    joined = torch.cat([audio.embeddings, trunk.embed(ids).to(audio.embeddings.dtype)], 1)
    embeddings = joined.gather(1, source[..., None].expand(-1, -1, joined.shape[2]))
    steps = torch.arange(ids.shape[1], device=ids.device)
    places = torch.cat([audio.positions, audio.text_position[:, None] + steps], 1).gather(1, source)
    tokens = torch.cat([audio.positions.new_full((len(ids), prompt_size), -1), ids], 1).gather(1, source)
    inside = text < lengths[:, None]
    segments = torch.where(inside, 0, -1)
    return Sequences(embeddings, places, tokens.where(inside, -1), segments, inside & ~in_prompt)


def anchors_of(labels: Tensor, max_anchors: int = 0) -> Tensor:
    """Indices [B, A] of the entries that have a label at any depth; at most `max_anchors` per row, sampled at random
    (0: all)."""
    asked = (labels != IGNORED).any(-1)
    size = max(1, int(asked.sum(1).max()))
    key = (~asked).to(torch.float32)
    if max_anchors and max_anchors < size:
        key, size = key + torch.rand_like(key) * 0.5, max_anchors
        return key.argsort(dim=1, stable=True)[:, :size].sort(1).values
    return key.argsort(dim=1, stable=True)[:, :size]


def multi_token_loss(
    trunk: Trunk, heads: HeadSet, sequences: Sequences, config: MultiTokenConfig, step: int | None = None,
    frozen: bool = False, anchors: int = 0, teacher: Tensor | None = None,
) -> tuple[Tensor, dict[str, float]]:  # fmt: skip
    """The summed loss of all depths, each scaled to the number of labels of depth 0, and sums for the log.

    With `frozen` the trunk gets no gradients and depth 0 has no loss. `teacher` [B, L, C] are trunk states of the
    weights before training; if given, the loss of depth 0 is the KL divergence from their distribution in place of the
    cross-entropy of the labels (self-distillation). `anchors` is the largest number of entries per row for which the
    heads are trained, sampled at random (0: all).
    """
    with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
        states = trunk(
            sequences.embeddings, sequences.positions, sequences.segments, heads.taps, sequences.memory,
            sequences.memory_lengths,
        )  # fmt: skip
    labels = shifted_labels(sequences.ids, sequences.segments, heads.depth, sequences.wanted, sequences.starts)
    weights = depth_weights(config, heads.depth, step)
    base = (labels[..., 0] != IGNORED).sum()
    values: dict[str, float] = {}
    total = states.hidden.new_zeros((), dtype=torch.float64 if states.hidden.dtype == torch.float64 else torch.float32)
    if config.base and not frozen:
        part = _base_loss(trunk, states.hidden, labels[..., 0], config, teacher)
        total, values["ce"] = config.base * part, float(part.detach())
    if not heads.depth:
        return total, values
    chosen = anchors_of(labels[..., 1:], anchors)
    inputs, embed, hints = sequences.embeddings, trunk.embed, sequences.hints
    if frozen:
        inputs, embed = inputs.detach(), lambda ids: trunk.embed(ids).detach()
        hints = None if hints is None else hints.detach()
    batch = TrainBatch(
        states, inputs, sequences.ids, sequences.positions, sequences.segments, embed,
        heads.narrow(trunk, frozen), sequences.memory, sequences.memory_lengths, chosen, hints,
    )  # fmt: skip
    asked = batch.at_anchors(labels)[..., 1:]
    heads_loss = _HeadsLoss(trunk, heads, batch, asked, weights[1:], config, base)
    if heads.independent:
        trained = [p for p in (*heads.parameters(), *trunk.unembedding().parameters()) if p.requires_grad]
        if frozen:
            trained = [p for p in heads.parameters() if p.requires_grad]
        total = total + one_by_one(heads_loss.parts, states.hidden, states.taps, trained)
    else:
        for loss in heads_loss.parts(states.hidden, states.taps):
            total = total + loss
    return total, values | heads_loss.values


def _base_loss(
    trunk: Trunk, hidden: Tensor, labels: Tensor, config: MultiTokenConfig, teacher: Tensor | None
) -> Tensor:
    rows = labels != IGNORED
    if teacher is not None:
        kept = MultiTokenConfig(kind="kd")

        def divergence(h: Tensor, wanted: Tensor) -> Tensor:
            return rows_against_teacher(trunk.teacher_logits(h), trunk.teacher_logits(wanted).detach(), None, kept)

        return in_chunks(divergence, config.chunk, hidden[rows], teacher[rows])
    return in_chunks(
        lambda h, y: rows_ce(trunk.teacher_logits(h), y, config.smoothing), config.chunk, hidden[rows], labels[rows]
    )


@dataclass
class _HeadsLoss:
    """The heads' part of the loss: the weighted losses of the depths, one after another."""

    trunk: Trunk
    heads: HeadSet
    batch: TrainBatch
    labels: Tensor  # [B, A, D]
    weights: list[float]
    config: MultiTokenConfig
    base: Tensor

    def __post_init__(self) -> None:
        self.values: dict[str, float] = {}

    def parts(self, hidden: Tensor, taps: Tensor | None) -> Iterator[Tensor]:
        """Weighted losses of depths 1..D from trunk states, which are arguments so that they may be detached."""
        batch = replace(self.batch, states=States(hidden, taps))
        extra = self.heads.regulariser(batch)
        if extra is not None:
            yield extra * self.base * self.weights[0]
        index = self.heads.places(self.labels)  # tokens outside the shortlist have no loss
        for d, features in enumerate(self.heads.train_depths(batch), 1):
            labels = index[..., d - 1]
            rows = labels >= 0
            if self.heads.revealed_count is not None:
                rows = rows & (self.heads.revealed_count < d)
            scale = self.base / rows.sum().clamp_min(1)
            loss = self._depth(features[rows], labels[rows], rows, d, hidden) * scale
            if d in (1, self.heads.depth):
                self.values[f"loss_{d}"] = float(loss.detach())
            if self.weights[d - 1]:
                yield self.weights[d - 1] * loss

    def _depth(self, features: Tensor, labels: Tensor, rows: Tensor, d: int, hidden: Tensor) -> Tensor:
        config, heads, unembed = self.config, self.heads, self.batch.unembed
        if config.kind == "ce":

            def ce(f: Tensor, y: Tensor) -> Tensor:
                return rows_ce(heads.logits(f, d, unembed), y, config.smoothing)

            return in_chunks(ce, config.chunk, features, labels)
        # The trunk predicts x_{t+1+d} from its state at t + d, which gets no gradient here.
        teacher = self.batch.at_anchors(self.batch.ahead(hidden, d))[rows].detach()

        def against(f: Tensor, h: Tensor) -> Tensor:
            with torch.no_grad():
                target = self.trunk.teacher_logits(h)
            return rows_against_teacher(heads.logits(f, d, unembed), target, heads.shortlist, config)

        return in_chunks(against, config.chunk, features, teacher)
