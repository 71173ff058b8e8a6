"""Logits processors of transformers, applied alike to the trunk and to what drafts for it.

Every candidate sees its own prefix: what was emitted, and the drafted tokens on its path.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

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

from speechmtp.errors import ConfigError

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

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        allowed = {
            "temperature": self.temperature >= 0, "top_k": self.top_k >= 0, "top_p": 0 < self.top_p <= 1,
            "min_p": 0 <= self.min_p <= 1, "repetition_penalty": self.repetition_penalty > 0,
            "no_repeat_ngram_size": self.no_repeat_ngram_size >= 0,
        }  # fmt: skip
        wanted = {"top_p": "above 0, at most 1", "min_p": "from 0 to 1", "repetition_penalty": "above 0"}
        for name, right in allowed.items():
            if not right:
                option = name.replace("_", "-")
                raise ConfigError(f"--{option} {getattr(self, name)}: expected {wanted.get(name, '0 or more')}")

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
