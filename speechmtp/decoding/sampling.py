"""Sampling: logits processors of transformers, applied alike to the trunk and to its drafters, and the choice of
drafted tokens from a drafter's logits.

Every candidate token is processed with its own prefix: the emitted tokens and the drafted tokens on its path. In greedy
decoding drafters take their most probable tokens. In sampling the rule decides how drafts are sampled: with the trunk's
own noise (seeded coupling), with noise of their own (ratio rules, which need the distribution that a token was sampled
from), or not at all.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Annotated, Any

import torch
from torch import Tensor

from speechmtp.config import Range, Seed, check_fields
from speechmtp.decoding.noise import DRAFT, TARGET

if TYPE_CHECKING:
    from speechmtp.decoding.state import DecodeState, Row

Prefixes = Callable[[], Sequence[Sequence[Sequence[int]]]]

# transformers' classes that read only the logits, not the prefix, so that all candidates can be processed in one call.
_WITHOUT_PREFIX = (
    "EpsilonLogitsWarper", "EtaLogitsWarper", "MinPLogitsWarper", "TemperatureLogitsWarper", "TopKLogitsWarper",
    "TopPLogitsWarper", "TypicalLogitsWarper",
)  # fmt: skip


@dataclass(frozen=True)
class SamplingConfig:
    """Sampling options under transformers' names; temperature 0 is greedy decoding. The noise of a request depends on
    `seed` and on its `noise_key`, not on the batch."""

    temperature: Annotated[float, Range(0)] = 0.0
    top_k: Annotated[int, Range(0)] = 0
    top_p: Annotated[float, Range(0, 1, above=True)] = 1.0
    min_p: Annotated[float, Range(0, 1)] = 0.0
    repetition_penalty: Annotated[float, Range(0, above=True)] = 1.0
    no_repeat_ngram_size: Annotated[int, Range(0)] = 0
    seed: Seed = 0

    def __post_init__(self) -> None:
        """Raise ConfigError for a value that is not allowed."""
        check_fields(self, "sampling")

    @property
    def plain(self) -> bool:
        """Whether this is greedy decoding with unchanged logits."""
        return self.temperature == 0 and self.processors() is None

    def processors(self) -> "Processors | None":
        """The logits processors in transformers' order; None if there are none."""
        # Temperature and truncation never change the argmax, so greedy decoding leaves them out.
        drawn = self.temperature > 0
        wanted: list[tuple[str, Any]] = []
        if self.repetition_penalty != 1:
            wanted.append(("RepetitionPenaltyLogitsProcessor", self.repetition_penalty))
        if self.no_repeat_ngram_size:
            wanted.append(("NoRepeatNGramLogitsProcessor", self.no_repeat_ngram_size))
        if drawn and self.temperature != 1:
            wanted.append(("TemperatureLogitsWarper", self.temperature))
        if drawn and self.top_k:
            wanted.append(("TopKLogitsWarper", self.top_k))
        if drawn and self.top_p < 1:
            wanted.append(("TopPLogitsWarper", self.top_p))
        if drawn and self.min_p:
            wanted.append(("MinPLogitsWarper", self.min_p))
        if not wanted:
            return None
        import transformers  # takes a second, which plain greedy decoding does not need

        return Processors([getattr(transformers, name)(value) for name, value in wanted])

    def described(self) -> dict[str, Any]:
        """The fields that differ from their defaults."""
        return {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}


class Processors:
    """A list of transformers' logits processors. They must be pure functions of prefix and logits: they are called for
    drafted tokens that may be refused afterwards, and for many prefixes at once, so that state kept from an earlier
    call would be wrong."""

    def __init__(self, processors: Sequence[Any]) -> None:
        import transformers

        self._list = transformers.LogitsProcessorList(processors)
        without = tuple(getattr(transformers, name) for name in _WITHOUT_PREFIX)
        readers = [p for p in processors if not isinstance(p, without)]
        self.reads_prefix = bool(readers)
        self._reads_sets = all(
            type(p) is transformers.RepetitionPenaltyLogitsProcessor and not getattr(p, "prompt_ignore_length", None)
            for p in readers
        )  # these depend on the set of tokens in the prefix, not on their order or number
        self.simple = self._simple(processors)

    @staticmethod
    def _simple(processors: Sequence[Any]) -> tuple[float, int] | None:
        """Temperature and top-k (0: all), if there is no other processor."""
        import transformers

        found = {type(one): one for one in processors}
        heat = found.pop(transformers.TemperatureLogitsWarper, None)
        most = found.pop(transformers.TopKLogitsWarper, None)
        if found or (most is not None and most.filter_value != -torch.inf):
            return None
        return 1.0 if heat is None else heat.temperature, 0 if most is None else most.top_k

    def __call__(self, logits: Tensor, prefixes: Prefixes) -> Tensor:
        """Processed logits [B, N, V]. `prefixes` returns B lists of N token lists; it is called only if a processor
        reads them."""
        rows, nodes, size = logits.shape
        flat = logits.reshape(rows * nodes, size)
        if not self.reads_prefix:
            nothing = torch.zeros(len(flat), 0, dtype=torch.long, device=logits.device)
            return self._run(nothing, flat).view(rows, nodes, size)
        lists = [list(prefix) for row in prefixes() for prefix in row]
        if self._reads_sets:  # pad by repeating the last token, which leaves the set unchanged
            longest = max(map(len, lists))
            lists = [prefix + prefix[-1:] * (longest - len(prefix)) for prefix in lists]
        # Processors take rectangular ids and would count padding as tokens, so prefixes are grouped by length.
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
        processed: Tensor = run(ids, logits.clone())  # some processors write in place
        return processed


@dataclass(frozen=True, eq=False)
class RowSampling:
    """Sampling of one row: processors, and a 64-bit seed of the noise (None: greedy decoding). The request's
    `noise_key` selects the noise stream of the seed."""

    processors: Processors | None = None
    seed: int | None = None

    @classmethod
    def of(cls, config: SamplingConfig) -> "RowSampling":
        """The row sampling of a configuration. Configurations that differ only in their seed share one `Processors`
        object."""
        return cls(_processors_of(replace(config, seed=0)), config.seed if config.temperature > 0 else None)


@lru_cache(maxsize=64)
def _processors_of(config: SamplingConfig) -> Processors | None:
    return config.processors()


def processed(
    rows: Sequence["Row"], processors: Processors | None, logits: Tensor, level: Tensor | int, prefixes: Prefixes
) -> Tensor:
    """Processed logits [B, N, V] of N candidates of each row, by the request's own processors, then by `processors`.
    `level` (an int, [N] or [B, N]) counts the candidates' output indices from each row's next token on; those past a
    row's limit are that of its last token. `prefixes` returns the tokens before each, and is called only if a processor
    reads them."""
    own = [row.request.processors for row in rows]
    if any(own):
        steps = torch.as_tensor(level, device=logits.device).expand(logits.shape[:2])
        known = lru_cache(maxsize=1)(prefixes)
        parts = list(logits.unbind())
        for place, row in enumerate(rows):
            index = (steps[place] + len(row.tokens)).clamp_max(max(0, row.limit - 1))
            for one in own[place]:
                parts[place] = one(parts[place], index, partial(_item, known, place))
        logits = torch.stack(parts)
    return logits if processors is None else processors(logits, prefixes)


def _item(prefixes: Prefixes, place: int) -> Sequence[Sequence[int]]:
    return prefixes()[place]


@dataclass(frozen=True)
class PickedTokens:
    """`tokens` [B, N, k] chosen after N nodes, in order of rank; `confidence` [B, N, k], their probabilities under the
    (processed) distribution; `q` [B, N, k, V], the distribution that each was sampled from, elder siblings removed and
    renormalised, or None where it is not needed."""

    tokens: Tensor
    confidence: Tensor
    q: Tensor | None = None


def pick_tokens(
    state: "DecodeState", logits: Tensor, ids: Tensor | None, level: Tensor | int, prefixes: Prefixes, first: int = 0,
    k: int = 1,
) -> PickedTokens:  # fmt: skip
    """Choose `k` tokens after each of N nodes: the most probable ones, or samples without replacement.

    `logits` [B, N, V'], in float32 at least, are over all tokens, or over those in `ids` [V']. `level` (an int or [N])
    is the depth of the chosen tokens, 1 directly after the base token. `first` is the number of the first node, so that
    every node has its own noise. `prefixes` returns the tokens before each choice.
    """
    if not state.processes and (state.noise is None or state.draws == "best"):
        best = logits.topk(k, -1) if k > 1 else logits.max(-1, keepdim=True)
        confidence = (best.values - logits.logsumexp(-1, keepdim=True)).exp()
        return PickedTokens(best.indices if ids is None else ids[best.indices], confidence)
    logits = _spread(logits, ids, state.batch.trunk.vocab_size)
    if state.processes:
        steps = torch.as_tensor(level, device=logits.device) - 1
        logits = processed(state.rows, state.processors, logits, steps, prefixes)
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
    probs = logits.softmax(-1)
    confidence = probs.gather(-1, tokens)
    if state.draws == "shared" and not state.batch.recorded.overlap:
        return PickedTokens(tokens, confidence)
    return PickedTokens(tokens, confidence, _without_elders(probs, tokens))


def _spread(logits: Tensor, ids: Tensor | None, size: int) -> Tensor:
    """Logits over the whole vocabulary, with -inf for tokens that cannot be drafted."""
    if ids is None:
        return logits
    whole = logits.new_full((*logits.shape[:-1], size), -torch.inf)
    return whole.index_copy(-1, ids, logits)


def _without_elders(probs: Tensor, tokens: Tensor) -> Tensor:
    """Distributions [B, N, k, V] of sampling without replacement: each lacks the tokens chosen before it."""
    distributions = [probs]
    for j in range(tokens.shape[-1] - 1):
        left = distributions[-1].scatter(-1, tokens[..., j : j + 1], 0.0)
        distributions.append(left / left.sum(-1, keepdim=True).clamp_min(torch.finfo(left.dtype).tiny))
    return torch.stack(distributions, -2)
