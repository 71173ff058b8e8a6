"""Chunk-causal Conformer encoder with a CTC head on the trunk's vocabulary.

The attention mask selects full, chunked or causal attention with the same weights. Convolutions are causal and
normalised by LayerNorm, so streaming gives the same output as the masked offline pass (Conformer, arXiv 2005.08100;
dynamic chunks, arXiv 2012.05481; self-conditioned intermediate CTC, arXiv 2104.02724).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechmtp.config import Count, Range, Share, Size, check_fields
from speechmtp.errors import ConfigError, ShapeError
from speechmtp.models.encoder_state import LEFT_PAD, EncoderState
from speechmtp.models.masks import chunk_mask, chunk_step_mask, length_mask, padded_mask
from speechmtp.models.rotary import encoder_rotary, rotate
from speechmtp.models.shape import check_weights

STRIDE = 4  # feature frames per encoder step: two stride-2 convolutions


@dataclass(frozen=True)
class EncoderConfig:
    """Sizes of the encoder; `chunk` is in encoder steps, 0 means attention over the whole utterance."""

    features: Annotated[int, Range(7, 1 << 16)] = 80  # fewer leave nothing behind the convolutions
    width: Size = 128
    layers: Count = 7
    heads: Count = 4
    ff_width: Size = 256
    kernel: Count = 15
    channels: Size = 32
    dropout: Share = 0.1
    inter_ctc: tuple[int, ...] = (4,)  # layers (counted from 1) after which the CTC posterior is fed back
    chunk: Annotated[int, Range(0, 1 << 20)] = 0
    left_chunks: Annotated[int, Range(-1, 1 << 20)] = -1  # -1: unlimited

    def __post_init__(self) -> None:
        check_fields(self, "encoder")
        check_weights("encoder", self.layers, self.width, self.ff_width)
        if self.width % self.heads or (self.width // self.heads) % 2:
            raise ConfigError(f"encoder: width {self.width} must be an even multiple of heads {self.heads}")


@dataclass(frozen=True)
class EncoderOutput:
    """`states` [B, S, E]; `logits` [B, S, V + 1], blank last; `lengths` [B]; `inter`: logits of intermediate CTC."""

    states: Tensor
    logits: Tensor
    lengths: Tensor
    inter: list[Tensor]


class Subsampling(nn.Module):
    """Convolutions that map frames [B, T, F], with 3 frames of left context in front, to [B, (T - 3) // 4, E]."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, config.channels, 3, 2)
        self.second = nn.Conv2d(config.channels, config.channels, 3, 2)
        bins = ((config.features - 1) // 2 - 1) // 2
        self.out = nn.Linear(config.channels * bins, config.width)

    def forward(self, frames: Tensor) -> Tensor:
        """Return [B, (T - 3) // 4, E] for frames [B, T, F]."""
        x = F.relu(self.second(F.relu(self.first(frames[:, None]))))
        return self.out(x.transpose(1, 2).flatten(2))


class ConformerBlock(nn.Module):
    """Half feed-forward, attention, causal convolution, half feed-forward, norm."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        width = config.width
        self.heads, self.kernel = config.heads, config.kernel
        self.ff1, self.ff2 = self._feed_forward(config), self._feed_forward(config)
        self.attention_norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.attention_out = nn.Linear(width, width)
        self.conv_norm = nn.LayerNorm(width)
        self.conv_in = nn.Linear(width, 2 * width)
        self.depthwise = nn.Conv1d(width, width, config.kernel, groups=width)
        self.depthwise_norm = nn.LayerNorm(width)
        self.conv_out = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.drop = nn.Dropout(config.dropout)

    @staticmethod
    def _feed_forward(config: EncoderConfig) -> nn.Sequential:
        return nn.Sequential(
            nn.LayerNorm(config.width), nn.Linear(config.width, config.ff_width), nn.SiLU(),
            nn.Linear(config.ff_width, config.width), nn.Dropout(config.dropout),
        )  # fmt: skip

    def _attend(
        self, x: Tensor, mask: Tensor | None, rotary: tuple[Tensor, Tensor], past: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        rows, steps, width = x.shape
        qkv = self.qkv(self.attention_norm(x)).view(rows, steps, 3, self.heads, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        query, key = rotate(query, rotary).to(query.dtype), rotate(key, rotary).to(key.dtype)
        if past is not None:
            key, value = torch.cat([past[0], key], 2), torch.cat([past[1], value], 2)
        # Not the fused call: on a CPU this trains a fifth faster for such short sequences.
        scores = query @ key.transpose(2, 3) * query.shape[-1] ** -0.5
        if mask is not None:
            scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
        mixed = scores.softmax(-1).to(value.dtype) @ value
        return self.attention_out(mixed.transpose(1, 2).reshape(rows, steps, width)), key, value

    def _convolve(self, x: Tensor, valid: Tensor | None, past: Tensor | None) -> tuple[Tensor, Tensor]:
        gated = F.glu(self.conv_in(self.conv_norm(x)), -1)
        if valid is not None:
            gated = gated * valid[..., None]
        line = gated.transpose(1, 2)
        line = F.pad(line, (self.kernel - 1, 0)) if past is None else torch.cat([past, line], 2)
        mixed = self.depthwise(line).transpose(1, 2)
        return self.conv_out(F.silu(self.depthwise_norm(mixed))), line[:, :, line.shape[2] - self.kernel + 1 :]

    def forward(self, x: Tensor, mask: Tensor, rotary: tuple[Tensor, Tensor], valid: Tensor) -> Tensor:
        """Process x [B, S, E]; `mask` bool [B, 1, S, S] for attention, `valid` bool [B, S] for the convolution."""
        x = x + 0.5 * self.ff1(x)
        x = x + self.drop(self._attend(x, mask, rotary, None)[0])
        x = x + self.drop(self._convolve(x, valid, None)[0])
        return self.norm(x + 0.5 * self.ff2(x))

    def step(
        self, x: Tensor, mask: Tensor | None, rotary: tuple[Tensor, Tensor],
        past: tuple[Tensor, Tensor], conv: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
        """Process one chunk with cached keys, values and convolution inputs; return its output and the new caches."""
        x = x + 0.5 * self.ff1(x)
        mixed, key, value = self._attend(x, mask, rotary, past)
        x = x + mixed
        mixed, conv = self._convolve(x, None, conv)
        x = x + mixed
        return self.norm(x + 0.5 * self.ff2(x)), key, value, conv


class Encoder(nn.Module):
    """Map frames [B, T, F] to states [B, T // 4, E] and CTC logits over the vocabulary plus blank."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: EncoderConfig, vocab_size: int) -> None:
        super().__init__()
        self.config, self.blank, self.stride = config, vocab_size, STRIDE
        self.register_buffer("mean", torch.zeros(config.features))
        self.register_buffer("std", torch.ones(config.features))
        self.subsampling = Subsampling(config)
        self.drop = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(ConformerBlock(config) for _ in range(config.layers))
        self.ctc = nn.Linear(config.width, vocab_size + 1)
        self.feedback = nn.Linear(vocab_size + 1, config.width)

    def _normalise(self, frames: Tensor) -> Tensor:
        if frames.dim() != 3 or frames.shape[-1] != self.config.features:
            raise ShapeError(f"encoder: frames {tuple(frames.shape)}, expected [B, T, {self.config.features}]")
        return (frames - self.mean) / self.std

    def forward(
        self, frames: Tensor, lengths: Tensor, chunk: int | None = None, left_chunks: int | None = None,
        normalised: bool = False,
    ) -> EncoderOutput:  # fmt: skip
        """Encode a padded batch [B, T, F] with `lengths` [B] in frames. `chunk` and `left_chunks` default to the
        configuration's; `normalised` frames are used as they are. ShapeError for frames of another shape."""
        chunk = self.config.chunk if chunk is None else chunk
        left = self.config.left_chunks if left_chunks is None else left_chunks
        x = frames if normalised else self._normalise(frames)
        # Audio too short for one step still gives one (past its length), so that empty utterances work.
        x = self.drop(self.subsampling(F.pad(x, (0, 0, LEFT_PAD, max(0, STRIDE - x.shape[1])))))
        steps = x.shape[1]
        lengths = lengths.to(x.device) // STRIDE
        valid = length_mask(lengths, steps)
        mask = padded_mask(chunk_mask(steps, chunk, left, x.device), valid)
        rotary = encoder_rotary(lengths.new_zeros(1), steps, self.config.width // self.config.heads)
        inter: list[Tensor] = []
        for number, block in enumerate(self.blocks, 1):
            x = block(x, mask, rotary, valid)
            x = self._feed_back(number, x, inter)
        return EncoderOutput(x, self.ctc(x), lengths, inter)

    def _feed_back(self, number: int, x: Tensor, inter: list[Tensor]) -> Tensor:
        if number not in self.config.inter_ctc or number == len(self.blocks):
            return x
        inter.append(self.ctc(x))
        return x + self.feedback(inter[-1].float().softmax(-1).to(x.dtype))

    def start(self, rows: int = 1) -> EncoderState:
        """Return the initial state of `rows` streams; ConfigError unless the configuration is chunked."""
        if self.config.chunk <= 0:
            raise ConfigError("encoder: streaming needs chunk > 0; set encoder.chunk")
        weight, layers = self.ctc.weight, len(self.blocks)
        empty = weight.new_zeros(rows, self.config.heads, 0, self.config.width // self.config.heads)
        conv = weight.new_zeros(rows, self.config.width, self.config.kernel - 1)
        return EncoderState(
            weight.new_zeros(rows, LEFT_PAD, self.config.features), (LEFT_PAD,) * rows, (0,) * rows, (False,) * rows,
            (empty,) * layers, (empty,) * layers, (conv,) * layers,
        )  # fmt: skip

    def step(
        self, frames: Tensor, state: EncoderState, last: bool | Sequence[bool] = False,
        lengths: Sequence[int] | None = None,
    ) -> tuple[EncoderOutput, EncoderState]:  # fmt: skip
        """Encode all complete chunks, and the remaining frames of rows that end; return the output and the new state.

        Row b takes the first `lengths[b]` of frames [B, T, F] (default: all; 0: none) and ends after them if `last` is
        true for it. Each row emits as many steps as its own frames complete. Its output equals `forward` on its own
        audio to 1e-5, independently of the other rows. ShapeError if a row gets frames after its end.
        """
        rows, chunk = state.rows, self.config.chunk
        ends = [last] * rows if isinstance(last, bool) else list(last)
        sizes = [frames.shape[1]] * len(frames) if lengths is None else list(lengths)
        state = state.fed(self._normalise(frames), sizes, ends)
        ready = [(held - LEFT_PAD) // STRIDE for held in state.held]
        total = [n if end else n // chunk * chunk for n, end in zip(ready, state.ended)]
        pieces: list[list[Tensor]] = []
        for start in range(0, max(total, default=0), chunk):
            live = [row for row in range(rows) if total[row] > start]
            took = [min(chunk, total[row] - start) for row in live]
            piece, state = self._step_chunk(state, live, took, start * STRIDE)
            pieces.append(piece)
        return self._join(pieces, total), state.without([n * STRIDE for n in total])

    def _step_chunk(
        self, state: EncoderState, live: list[int], took: list[int], at: int
    ) -> tuple[list[Tensor], EncoderState]:
        """Encode `took` steps of each row in `live` from its pending frame `at` on. Returns states, logits and
        intermediate logits [B, max(took), ..] of all rows (zeros for rows not in `live`), and the new state."""
        size, rows = max(took), state.rows
        window = state.pending[:, at : at + size * STRIDE + LEFT_PAD]
        index = torch.tensor(live, dtype=torch.long, device=window.device)
        everyone = len(live) == rows
        past = state if everyone else state.select(live)
        x = self.subsampling(window if everyone else window[index])
        steps = torch.tensor(past.steps, device=x.device)
        rotary = encoder_rotary(steps, size, self.config.width // self.config.heads)
        width = max(self._cached(n) for n in past.steps)
        mask = chunk_step_mask([self._cached(n) for n in past.steps], took, x.device)
        keep = width + size if self.config.left_chunks < 0 else self.config.left_chunks * self.config.chunk
        keys, values, convs, inter = [], [], [], []  # type: ignore[var-annotated]
        for number, block in enumerate(self.blocks, 1):
            assert isinstance(block, ConformerBlock)
            key, value = past.keys[number - 1], past.values[number - 1]
            cache = (key[:, :, key.shape[2] - width :], value[:, :, value.shape[2] - width :])
            x, key, value, conv = block.step(x, mask, rotary, cache, past.convs[number - 1])
            keys.append(key[:, :, max(0, key.shape[2] - keep) :])
            values.append(value[:, :, max(0, value.shape[2] - keep) :])
            convs.append(conv)
            x = self._feed_back(number, x, inter)

        def spread(values: Tensor) -> Tensor:
            return values if everyone else values.new_zeros(rows, *values.shape[1:]).index_copy(0, index, values)

        parts = [spread(each) for each in (x, self.ctc(x), *inter)]
        return parts, state.grown(live, took, keys, values, convs)

    def _cached(self, steps: int) -> int:
        """Number of cached entries that attention sees after a stream has emitted `steps` steps."""
        return steps if self.config.left_chunks < 0 else min(steps, self.config.left_chunks * self.config.chunk)

    def _join(self, pieces: list[list[Tensor]], total: list[int]) -> EncoderOutput:
        """Concatenate chunks; each row's steps come first, since every row takes part from the first chunk on."""
        weight = self.ctc.weight
        lengths = torch.tensor(total, dtype=torch.long, device=weight.device)
        if not pieces:
            states = weight.new_zeros(len(total), 0, weight.shape[1])
            return EncoderOutput(states, states.new_zeros(len(total), 0, self.blank + 1), lengths, [])
        states, logits, *inter = (torch.cat(chunks, 1) for chunks in zip(*pieces))
        return EncoderOutput(states, logits, lengths, inter)
