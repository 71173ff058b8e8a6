"""How tokens are drawn: logits processors of transformers, applied alike to the trunk and to what drafts for it, and
the choice of drafted tokens from a drafter's logits, once for all drafters.

Every candidate sees its own prefix: what was emitted, and the drafted tokens on its path. Where the trunk takes its
first choice, so does the drafter. Where tokens are drawn, drafts are drawn by the trunk's own noise (seeded coupling),
by noise of their own (ratio rules, which need the distribution they were drawn from), or not at all.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any

import torch
from torch import Tensor
from transformers import (
    EpsilonLogitsWarper,
    EtaLogitsWarper,
    LogitsProcessorList,
    MinPLogitsWarper,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from speechmtp.config import Range, check_fields
from speechmtp.decoding.noise import DRAFT, TARGET

if TYPE_CHECKING:
    from speechmtp.decoding.state import DecodeState

Prefixes = Callable[[], Sequence[Sequence[Sequence[int]]]]

# These look at the logits alone, so that all candidates can be processed at once.
_WITHOUT_PREFIX = (
    EpsilonLogitsWarper, EtaLogitsWarper, MinPLogitsWarper, TemperatureLogitsWarper, TopKLogitsWarper,
    TopPLogitsWarper, TypicalLogitsWarper,
)  # fmt: skip


@dataclass(frozen=True)
class SamplingConfig:
    """How tokens are drawn, under transformers' names; temperature 0 takes the likeliest. Row i of a run draws
    stream i of `seed`, whatever the batch."""

    temperature: Annotated[float, Range(0)] = 0.0
    top_k: Annotated[int, Range(0)] = 0
    top_p: Annotated[float, Range(0, 1, above=True)] = 1.0
    min_p: Annotated[float, Range(0, 1)] = 0.0
    repetition_penalty: Annotated[float, Range(0, above=True)] = 1.0
    no_repeat_ngram_size: Annotated[int, Range(0)] = 0
    seed: int = 0

    def __post_init__(self) -> None:
        """ConfigError for a value that is not allowed."""
        check_fields(self, "sampling")

    @property
    def plain(self) -> bool:
        """Whether it is greedy decoding with nothing done to the logits."""
        return self.temperature == 0 and self.processors() is None

    def processors(self) -> "Processors | None":
        """The processors it names, in transformers' order; None where there are none."""
        # Cutting tokens off changes nothing where the likeliest is taken.
        drawn = self.temperature > 0
        made: list[Any] = []
        if self.repetition_penalty != 1:
            made.append(RepetitionPenaltyLogitsProcessor(self.repetition_penalty))
        if self.no_repeat_ngram_size:
            made.append(NoRepeatNGramLogitsProcessor(self.no_repeat_ngram_size))
        if drawn and self.temperature != 1:
            made.append(TemperatureLogitsWarper(self.temperature))
        if drawn and self.top_k:
            made.append(TopKLogitsWarper(self.top_k))
        if drawn and self.top_p < 1:
            made.append(TopPLogitsWarper(self.top_p))
        if drawn and self.min_p:
            made.append(MinPLogitsWarper(self.min_p))
        return Processors(made) if made else None

    def described(self) -> dict[str, Any]:
        """What differs from the defaults."""
        return {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}


class Processors:
    """A list of transformers' processors. They have to be pure functions of prefix and logits: they are asked about
    tokens that are refused afterwards, and about many prefixes at once; what one remembers of an earlier call is wrong
    then."""

    def __init__(self, processors: Sequence[Any]) -> None:
        self._list = LogitsProcessorList(processors)
        readers = [p for p in processors if not isinstance(p, _WITHOUT_PREFIX)]
        self.reads_prefix = bool(readers)
        self._reads_sets = all(
            type(p) is RepetitionPenaltyLogitsProcessor and not getattr(p, "prompt_ignore_length", None)
            for p in readers
        )  # which tokens are there, not where or how often

    def __call__(self, logits: Tensor, prefixes: Prefixes) -> Tensor:
        """Processed logits [B, N, V]; `prefixes` gives B lists of N token lists, asked only where one is read."""
        rows, nodes, size = logits.shape
        flat = logits.reshape(rows * nodes, size)
        if not self.reads_prefix:
            nothing = torch.zeros(len(flat), 0, dtype=torch.long, device=logits.device)
            return self._run(nothing, flat).view(rows, nodes, size)
        lists = [list(prefix) for row in prefixes() for prefix in row]
        if self._reads_sets:  # a prefix may repeat itself
            longest = max(map(len, lists))
            lists = [prefix + prefix[-1:] * (longest - len(prefix)) for prefix in lists]
        # Processors take rectangular ids: padding would count as tokens, so equal lengths go together.
        groups: dict[int, list[int]] = {}
        for i, prefix in enumerate(lists):
            groups.setdefault(len(prefix), []).append(i)
        out = torch.empty_like(flat)
        for length, group in groups.items():
            ids = torch.tensor([lists[i] for i in group], dtype=torch.long, device=logits.device)
            at = slice(None) if len(groups) == 1 else group
            out[at] = self._run(ids.view(len(group), length), flat[at])
        return out.view(rows, nodes, size)

    def _run(self, ids: Tensor, logits: Tensor) -> Tensor:
        run: Any = self._list
        processed: Tensor = run(ids, logits.clone())  # some write in place
        return processed


@dataclass(frozen=True, eq=False)
class RowSampling:
    """How a row's tokens are drawn: processors and, unless the likeliest are taken, a seed of 64 bits; the noise is
    named by the request's `noise_key`."""

    processors: Processors | None = None
    seed: int | None = None

    @classmethod
    def of(cls, config: SamplingConfig) -> "RowSampling":
        """What a configuration says; those that differ by their seed alone have one object of processors."""
        return cls(_processors_of(replace(config, seed=0)), config.seed if config.temperature > 0 else None)


@lru_cache(maxsize=64)
def _processors_of(config: SamplingConfig) -> Processors | None:
    return config.processors()


@dataclass(frozen=True)
class PickedTokens:
    """`tokens` [B, N, k] of N nodes, likeliest first; `confidence` [B, N, k] under the (processed) distribution they
    are from; `q` [B, N, k, V] the distribution that each was drawn from with its elder siblings taken out, or None."""

    tokens: Tensor
    confidence: Tensor
    q: Tensor | None = None


def pick_tokens(
    state: "DecodeState", logits: Tensor, ids: Tensor | None, level: Tensor | int, prefixes: Prefixes, first: int = 0,
    k: int = 1,
) -> PickedTokens:  # fmt: skip
    """The best `k` tokens, or as many draws without replacement, behind each of N nodes.

    `logits` [B, N, V'] are over all tokens, or over those in `ids` [V']. `level` (or [N]) is the depth of the drafted
    tokens, 1 right behind the base token; `first` the number of the first node, so that every node has its own noise;
    `prefixes` gives what stands before each.
    """
    if state.processors is None and (state.noise is None or state.draws == "best"):
        best = logits.topk(k, -1) if k > 1 else logits.max(-1, keepdim=True)
        confidence = (best.values - logits.logsumexp(-1, keepdim=True)).exp()
        return PickedTokens(best.indices if ids is None else ids[best.indices], confidence)
    logits = _spread(logits, ids, state.batch.trunk.vocab_size)
    if state.processors is not None:
        logits = state.processors(logits, prefixes)
    if state.noise is None or state.draws == "best":
        tokens = logits.topk(k, -1).indices
        return PickedTokens(tokens, logits.softmax(-1).gather(-1, tokens))
    steps = torch.as_tensor(level, device=logits.device).expand(logits.shape[1])
    drawn = state.base_index[:, None]
    size = logits.shape[-1]
    if state.draws == "shared":
        noise = state.noise.gumbel(drawn + steps - 1, size, TARGET)
    else:
        nodes = torch.arange(first, first + logits.shape[1], device=logits.device)
        noise = state.noise.gumbel(drawn.expand(-1, logits.shape[1]), size, DRAFT, nodes - 1)
    tokens = (logits + noise.to(logits.dtype)).topk(k, -1).indices
    probs = logits.softmax(-1, dtype=torch.promote_types(logits.dtype, torch.float32))
    confidence = probs.gather(-1, tokens)
    if state.draws == "shared" and not state.batch.recorded.overlap:
        return PickedTokens(tokens, confidence)
    return PickedTokens(tokens, confidence, _without_elders(probs, tokens))


def _spread(logits: Tensor, ids: Tensor | None, size: int) -> Tensor:
    """Logits over the whole vocabulary; what cannot be drafted has none."""
    if ids is None:
        return logits
    whole = logits.new_full((*logits.shape[:-1], size), -torch.inf)
    return whole.index_copy(-1, ids, logits)


def _without_elders(probs: Tensor, tokens: Tensor) -> Tensor:
    """Distributions [B, N, k, V] of draws without replacement: each knows that those before it are taken."""
    distributions = [probs]
    for j in range(tokens.shape[-1] - 1):
        left = distributions[-1].scatter(-1, tokens[..., j : j + 1], 0.0)
        distributions.append(left / left.sum(-1, keepdim=True).clamp_min(torch.finfo(left.dtype).tiny))
    return torch.stack(distributions, -2)
