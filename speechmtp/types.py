"""Data types that several packages share: plain data with small derived values.

Letters: B rows, P prompt or draft entries, Q fed entries, C trunk width, D depth, V vocabulary, n taps.
"""

from collections.abc import Callable, Iterable, Sequence
from copy import copy
from dataclasses import dataclass, field
from functools import cached_property
from itertools import zip_longest
from typing import ClassVar, TypeVar

import numpy as np
import torch
from torch import Tensor

from speechmtp.ancestors import ancestors_of
from speechmtp.errors import ConfigError, ShapeError
from speechmtp.outputs import ONE_APART, OutputPositions, RowProcessor


@dataclass(frozen=True)
class Prompt:
    """The trunk's input before the first output token.

    `embeddings` [B, P, C], `positions` [B, P] and `lengths` [B], with zeros past the lengths. `next_position` [B] is
    the position of the first output token; `output_positions` gives those of later ones. `memory` [B, S, E] with
    `memory_lengths` [B] are the encoder outputs that the layers of an encoder-decoder trunk attend to; else None.
    `hints` [B, T, C] with `hint_lengths` [B], zeros past them, say what the output is to be like: vector i is added to
    the entry that output token i is predicted from, the last one of the prompt (`entries`) or that of token i - 1.
    """

    embeddings: Tensor
    positions: Tensor
    lengths: Tensor
    next_position: Tensor
    memory: Tensor | None = None
    memory_lengths: Tensor | None = None
    output_positions: OutputPositions = ONE_APART
    hints: Tensor | None = None
    hint_lengths: Tensor | None = None

    @property
    def entries(self) -> Tensor:
        """What the trunk reads: the embeddings, with the first hint added to each row's last entry."""
        if self.hints is None or not self.hints.shape[1] or not self.embeddings.shape[1]:
            return self.embeddings
        rows, entries = torch.arange(len(self.lengths), device=self.lengths.device), self.embeddings.clone()
        entries[rows, self.lengths - 1] += self.hints[:, 0].to(entries.dtype)
        return entries

    def row(self, index: int) -> "Prompt":
        """Return one row without padding."""
        size = int(self.lengths[index])
        one = slice(index, index + 1)
        memory, lengths = self.memory, self.memory_lengths
        if memory is not None and lengths is not None:
            memory, lengths = memory[one, : int(lengths[index])], lengths[one]
        hints, known = self.hints, self.hint_lengths
        if hints is not None:
            hints = hints[one, : None if known is None else int(known[index])]
        if known is not None:
            known = known[one]
        return Prompt(self.embeddings[one, :size], self.positions[one, :size], self.lengths[one],
                      self.next_position[one], memory, lengths, self.output_positions, hints, known)  # fmt: skip


def stack_prompts(prompts: list[Prompt]) -> Prompt:
    """Stack single-row prompts into one padded batch; it keeps their output positions if these are equal, and has the
    default ones otherwise."""
    pad = torch.nn.utils.rnn.pad_sequence
    encoder_outputs = [p.memory[0] for p in prompts if p.memory is not None]
    lengths = [p.memory_lengths for p in prompts if p.memory_lengths is not None]
    like = next((p.hints for p in prompts if p.hints is not None), None)
    hints = [] if like is None else [like[0, :0] if p.hints is None else p.hints[0] for p in prompts]
    return Prompt(
        pad([p.embeddings[0] for p in prompts], batch_first=True),
        pad([p.positions[0] for p in prompts], batch_first=True),
        torch.cat([p.lengths for p in prompts]),
        torch.cat([p.next_position for p in prompts]),
        pad(encoder_outputs, batch_first=True) if encoder_outputs else None,
        torch.cat(lengths) if lengths else None,
        prompts[0].output_positions
        if all(p.output_positions == prompts[0].output_positions for p in prompts)
        else ONE_APART,
        pad(hints, batch_first=True) if hints else None,
        torch.tensor([len(own) for own in hints], device=prompts[0].lengths.device) if hints else None,
    )


@dataclass(frozen=True)
class States:
    """Trunk output of one call: `hidden` [B, Q, C] after the final norm; `taps` [B, Q, n, C] of n layers, or None."""

    hidden: Tensor
    taps: Tensor | None = None


@dataclass(frozen=True)
class Draft:
    """Drafted tokens: `tokens` [B, P], -1 (absent) only after a row's last node, and `parent` [B, P], -1 for the base
    token; parents come before their children.

    `confidence` [B, P] is the drafter's probability of each token, if known. `chain` says that node i's parent is node
    i - 1 in every row. `q` [B, P, V] is the distribution that each token was sampled from, without its earlier
    siblings; None if nothing was sampled (argmax, top-k, lists), or with noise shared with the trunk. `seen`: the
    ancestors, if the drafter has them.
    """

    tokens: Tensor
    parent: Tensor
    confidence: Tensor | None = None
    chain: bool = True
    q: Tensor | None = None
    seen: Tensor | None = field(default=None, repr=False)

    @property
    def count(self) -> Tensor:
        """Number of drafted tokens per row [B]."""
        return (self.tokens >= 0).sum(1)

    @cached_property
    def ancestors(self) -> Tensor:
        """Bool [B, P, P], true in row i at node i and at all its ancestors."""
        if self.seen is not None:
            return self.seen
        size = self.tokens.shape[1]
        if self.chain:
            seen = torch.ones(size, size, dtype=torch.bool, device=self.tokens.device).tril_()
            return seen.expand(len(self.tokens), -1, -1)
        return ancestors_of(self.parent)

    @cached_property
    def depth(self) -> Tensor:
        """Depth [B, P] of each node; children of the base token have depth 0."""
        if self.chain:
            return torch.arange(self.tokens.shape[1], device=self.tokens.device).expand_as(self.tokens)
        return self.ancestors.sum(-1) - 1


def chain_draft(tokens: Tensor, confidence: Tensor | None = None, q: Tensor | None = None) -> Draft:
    """Build a draft in which each token's parent is the token before; tokens [B, P], -1 for absent."""
    parent = torch.arange(-1, tokens.shape[1] - 1, device=tokens.device).expand_as(tokens)
    return Draft(tokens, parent, confidence, q=q)


class Source:
    """Base class of a drafter's inputs besides the prompt. A drafter names the class that it reads; `name` is its name
    in strategies and errors."""

    name: ClassVar[str] = ""


class CtcSource(Source):
    """Output of a CTC head, or what computes it at each `read`, so that every strategy that reads it takes the time."""

    name = "ctc"

    def read(self) -> "CtcSource":
        """Return the output, `CtcLabels` or `CtcCharacters`."""
        return self


@dataclass(frozen=True)
class Reference(Source):
    """The tokens that decoding without drafts emits."""

    tokens: tuple[int, ...]
    name: ClassVar[str] = "reference"


@dataclass(frozen=True)
class PreviousPass(Source):
    """The tokens of the previous pass over an overlapping or growing window."""

    tokens: tuple[int, ...]
    name: ClassVar[str] = "previous"


@dataclass(frozen=True)
class CtcLabels(CtcSource):
    """Greedy CTC labels of one utterance. `confidence` is each label's mean posterior over its run, `runner_up` the
    second most likely class there (the blank: the label may be spurious) and `runner_up_confidence` its posterior.
    `gaps` are labels that may have been missed: (labels before it, label, highest posterior)."""

    labels: tuple[int, ...]
    confidence: tuple[float, ...] = ()
    runner_up: tuple[int, ...] = ()
    runner_up_confidence: tuple[float, ...] = ()
    gaps: tuple[tuple[int, int, float], ...] = ()


@dataclass(frozen=True)
class CtcText:
    """Greedy text of one utterance by a character CTC head, and the posterior of each character."""

    text: str
    confidence: tuple[float, ...] = ()


class TokenSpelling:
    """The string that each token of a vocabulary adds to a text, and the tokens of a string.

    Both are made at first use, since a vocabulary is large and most strategies do not need them.
    """

    def __init__(self, pieces: Callable[[], Sequence[str]], encode: Callable[[], Callable[[str], list[int]]]) -> None:
        self._make_pieces, self._make_encode = pieces, encode

    @cached_property
    def pieces(self) -> Sequence[str]:
        """The string that each token id adds to a text; special tokens add none."""
        return self._make_pieces()

    @cached_property
    def encode(self) -> Callable[[str], list[int]]:
        """The function that returns the token ids of a string inside a text."""
        return self._make_encode()


@dataclass(frozen=True)
class CtcCharacters(CtcSource):
    """Characters of a CTC head to draft from, and the vocabulary that turns them into tokens."""

    text: CtcText
    spelling: TokenSpelling


@dataclass(frozen=True)
class TokenRules:
    """Which tokens a model may emit: any of `eos` ends a text, and drafters use the first of them; ids in `suppress`
    are never emitted, ids in `begin_suppress` never first (transformers' names). Without end tokens a text ends at its
    request's limit, its known length. Repetitions of ids in `may_repeat` alone, such as a held silence, are no
    error."""

    eos: tuple[int, ...]
    suppress: tuple[int, ...] = ()
    begin_suppress: tuple[int, ...] = ()
    may_repeat: tuple[int, ...] = ()


S = TypeVar("S", bound=Source)


@dataclass(frozen=True)
class Request:
    """One utterance or text, ready to decode, unpadded, the same for every strategy and batch.

    `prompt` has one row. `limit` is the most tokens to emit, the end token included (None: the engine's limits). `ids`
    are the prompt's token ids, if it has any that drafters and logits processors should see; fixed ones in front of
    every text (Whisper's special tokens) are `start_tokens` instead. `sources` are for drafters; `noise_key` selects
    the row's noise if tokens are sampled. `audio_seconds` of audio were encoded in `listen_seconds`; `empty` says that
    there was no speech, so that the text is empty. `language` is the language code, if known. If it is `open`, it waits
    at its limit, which `Engine.extend` raises. `processors` change the logits of its tokens. `first` is the position of
    the first output token. ShapeError for a prompt of several rows, ConfigError for a negative limit, or for an open
    request without one.
    """

    prompt: Prompt
    rules: TokenRules
    limit: int | None = None
    ids: tuple[int, ...] = ()
    sources: tuple[Source, ...] = ()
    noise_key: int = 0
    audio_seconds: float = 0.0
    listen_seconds: float = 0.0
    empty: bool = False
    language: str | None = None
    start_tokens: tuple[int, ...] = ()
    open: bool = False
    processors: tuple[RowProcessor, ...] = ()
    first: int = field(init=False, repr=False, compare=False)  # on the host, so that no step reads the device

    def __post_init__(self) -> None:
        at = self.prompt.next_position
        if at.numel() > 1:
            raise ShapeError(f"request: a prompt of {at.numel()} rows, expected one; take Prompt.row")
        if self.limit is not None and self.limit < 0:
            raise ConfigError(f"request: limit {self.limit}, expected 0 or more")
        if self.open and not self.limit:
            raise ConfigError(f"request: open at limit {self.limit}, expected 1 or more; give the length known so far")
        object.__setattr__(self, "first", int(at[0]) if at.numel() else 0)

    def source(self, kind: type[S]) -> S | None:
        """Return the source of this class or of a subclass; None if there is none."""
        return next((source for source in self.sources if isinstance(source, kind)), None)

    def knowing(self, *sources: Source) -> "Request":
        """Return a copy of the request with these sources, which replace those of the same names."""
        names = {source.name for source in sources}
        other = copy(self)  # not `replace`, which would read `first` from the device again
        object.__setattr__(other, "sources", (*(s for s in self.sources if s.name not in names), *sources))
        return other

    @property
    def size(self) -> int:
        """The sort key of batches: the prompt's entries, or milliseconds of audio for encoder-decoder requests, whose
        prompts have one length (as do Whisper's encoder outputs)."""
        if self.prompt.memory is not None:
            return round(1000 * self.audio_seconds)
        return int(self.prompt.lengths[0])


@dataclass(frozen=True)
class Accepted:
    """Accepted tokens: `path` [B, A] are their node indices in order, -1 after them; `count` [B]; `next` [B] is the
    token that follows them."""

    path: Tensor
    count: Tensor
    next: Tensor


@dataclass
class Trace:
    """Counts of one utterance's decoding, named as in vLLM where it has them.

    A call is one trunk forward that yields output, the prompt's included; `emitted` counts tokens after trimming, the
    end token included; `draft_calls` are forwards that only draft, of the trunk or of a draft model. `fed` counts the
    entries that the trunk ran for this row: prompt, base tokens and draft nodes, unused ones too, but no padding.
    """

    calls: int = 0
    prompt_calls: int = 0
    draft_calls: int = 0
    fed: int = 0
    emitted: int = 0
    num_drafts: int = 0
    num_draft_tokens: int = 0
    num_accepted_tokens: int = 0
    num_accepted_tokens_per_pos: list[int] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)  # top-1 minus top-2 logit at each emitted token, if recorded
    # Log probability of each emitted token under the trunk's distribution, processors applied, if recorded.
    logprobs: list[float] = field(default_factory=list)
    finished: bool = False  # ended by an end token or at its known length, not by the limit
    flags: tuple[str, ...] = ()  # warnings about the output: `empty`, `limit`, `repetition`
    examined: int = 0  # drafted tokens up to a row's first rejected one, if overlaps are recorded
    overlap: float = 0.0  # sum over them of min(p, q), the expected acceptance
    draft_seconds: float = field(default=0.0, compare=False)  # a batch's time is divided among its rows

    @property
    def tokens_per_call(self) -> float | None:
        """Emitted tokens per call; None without calls."""
        return self.emitted / self.calls if self.calls else None

    @property
    def mean_acceptance_length(self) -> float | None:
        """1 + accepted tokens / drafts, as in vLLM; None without drafts."""
        return 1 + self.num_accepted_tokens / self.num_drafts if self.num_drafts else None


def sum_traces(traces: Iterable[Trace]) -> Trace:
    """Sum the counts of several utterances; gaps, log probabilities and flags are left out."""
    total = Trace(finished=True)
    for trace in traces:
        for name in ("calls", "prompt_calls", "draft_calls", "fed", "emitted", "draft_seconds", "examined", "overlap"):
            setattr(total, name, getattr(total, name) + getattr(trace, name))
        for name in ("num_drafts", "num_draft_tokens", "num_accepted_tokens"):
            setattr(total, name, getattr(total, name) + getattr(trace, name))
        total.finished &= trace.finished
        longest = zip_longest(total.num_accepted_tokens_per_pos, trace.num_accepted_tokens_per_pos, fillvalue=0)
        total.num_accepted_tokens_per_pos = [a + b for a, b in longest]
    return total


@dataclass(frozen=True)
class Event:
    """The tokens that a step emitted in a slot, the end token included; `done` if the slot has finished."""

    slot: int
    tokens: tuple[int, ...]
    done: bool


@dataclass(frozen=True)
class Result:
    """One decoded request: `text` of its tokens, empty if they are not text, and `audio` of speech tokens if the model
    has a codec: samples [N] float32 and their rate in Hz."""

    text: str
    tokens: tuple[int, ...]
    trace: Trace
    seconds: float = 0.0
    audio: tuple[np.ndarray, int] | None = field(default=None, compare=False, repr=False)
