"""Runs of the engine on batches of prompts as tests have them: a padded prompt, and lists a row for all else."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from speechmtp.decoding import bound, engine, sampling
from speechmtp.decoding.draft_length import DraftLength
from speechmtp.decoding.drafters.contract import Drafter
from speechmtp.decoding.engine import Limits, Recorded
from speechmtp.decoding.rules.contract import AcceptanceRule
from speechmtp.decoding.sampling import Processors, SamplingConfig
from speechmtp.heads.contract import HeadSet
from speechmtp.models.draft_prompt import DraftPrompt
from speechmtp.models.trunk import Trunk
from speechmtp.types import CtcSource, PreviousPass, Prompt, Reference, Request, Source, TokenRules, Trace


@dataclass(frozen=True)
class Sources:
    """What drafters may need, a value a row: `reference` tokens, what a `ctc` head says, a `model`'s trunk with its
    prompts, and the tokens of the `previous` pass."""

    reference: Sequence[Sequence[int]] = ()
    ctc: Sequence[CtcSource] = ()
    model: tuple[Trunk, Sequence[Prompt]] | None = None
    previous: Sequence[Sequence[int]] = ()

    def of(self, place: int) -> tuple[Source, ...]:
        """Those of one row."""
        found: list[Source] = []
        if place < len(self.reference):
            found.append(Reference(tuple(self.reference[place])))
        if place < len(self.ctc):
            found.append(self.ctc[place])
        if self.model is not None and place < len(self.model[1]):
            found.append(DraftPrompt(self.model[0], self.model[1][place]))
        if place < len(self.previous):
            found.append(PreviousPass(tuple(self.previous[place])))
        return tuple(found)


@dataclass(frozen=True)
class Setup:
    """How some rows of a batch (all) are decoded; `sources` are in the order of `rows`."""

    drafter: Drafter
    rule: AcceptanceRule
    heads: HeadSet | None = None
    sources: Sources = field(default_factory=Sources)
    length: DraftLength | None = None
    rows: Sequence[int] | None = None


@dataclass(frozen=True)
class RowSampling:
    """Processors and, unless the likeliest are taken, a seed and a noise key for every row."""

    processors: Processors | None = None
    seeds: Sequence[int] | None = None
    noise_keys: Sequence[int] | None = None

    @classmethod
    def of(cls, config: SamplingConfig, noise_keys: Sequence[int]) -> "RowSampling":
        """One seed for all rows, a key for each."""
        seeds = [config.seed] * len(noise_keys) if config.temperature > 0 else None
        return cls(config.processors(), seeds, noise_keys)

    def row(self, place: int) -> sampling.RowSampling:
        """That of one row."""
        return sampling.RowSampling(self.processors, None if self.seeds is None else self.seeds[place])

    def key(self, place: int) -> int:
        """The noise key of one row."""
        return place if self.noise_keys is None else list(self.noise_keys)[place]


def generate(
    trunk: Trunk, heads: HeadSet | None, prompt: Prompt, drafter: Drafter, rule: AcceptanceRule, eos: int,
    sources: Sources | None = None, limits: Limits | Sequence[int] | None = None, record_gaps: bool = False,
    row_sampling: RowSampling | None = None, rules: TokenRules | None = None,
) -> tuple[list[list[int]], list[Trace]]:  # fmt: skip
    """`generate_mixed` with one setup for all rows."""
    one = Setup(drafter, rule, heads, sources or Sources())
    return generate_mixed(trunk, prompt, [one], eos, limits, row_sampling, record_gaps=record_gaps, rules=rules)


def generate_mixed(
    trunk: Trunk, prompt: Prompt, setups: Sequence[Setup], eos: int, limits: Limits | Sequence[int] | None = None,
    row_sampling: RowSampling | None = None, prompt_ids: Sequence[Sequence[int]] | None = None,
    record_gaps: bool = False, overlap: bool = False, rules: TokenRules | None = None,
) -> tuple[list[list[int]], list[Trace]]:  # fmt: skip
    """Tokens and traces of every row of a padded prompt, each by one of the setups."""
    rows, row_sampling = len(prompt.lengths), row_sampling or RowSampling()
    made: dict[int, tuple[bound.BoundStrategy, tuple[Source, ...]]] = {}
    for one in setups:
        whole = bound.BoundStrategy(one.drafter, one.rule, one.heads, one.length)
        for place, row in enumerate(range(rows) if one.rows is None else one.rows):
            made[row] = whole, one.sources.of(place)
    most = [None] * rows if limits is None or isinstance(limits, Limits) else limits
    requests = [
        Request(
            prompt.row(row), rules or TokenRules((eos,)), most[row],
            () if prompt_ids is None else tuple(prompt_ids[row]), made[row][1], row_sampling.key(row),
        )
        for row in range(rows)
    ]  # fmt: skip
    return engine.generate(
        trunk, requests, [made[row][0] for row in range(rows)], [row_sampling.row(row) for row in range(rows)],
        limits if isinstance(limits, Limits) else None, Recorded(gaps=record_gaps, overlap=overlap),
    )  # fmt: skip


def drawn_rows(
    requests: Sequence[Request], strategies: Sequence[Any], row_sampling: RowSampling | None
) -> tuple[list[Request], Sequence[Any], list[sampling.RowSampling] | None]:
    """What a runner takes for requests that are drawn so."""
    if row_sampling is None:
        return list(requests), strategies, None
    named = [replace(request, noise_key=row_sampling.key(place)) for place, request in enumerate(requests)]
    return named, strategies, [row_sampling.row(place) for place in range(len(requests))]


def row_of(tokens: Sequence[int], **options: Any) -> Any:
    """A row of the engine that has said some tokens."""
    from speechmtp.decoding.state import Row

    nothing = Tensor()
    request = Request(Prompt(nothing, nothing, nothing, nothing), TokenRules((2,)), **options)
    return Row(0, request, 9, tokens=list(tokens))
