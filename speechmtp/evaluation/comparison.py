"""Compare strategies side by side in one process: the rows of `compare`, `tune` and `demo`.

Encoder outputs, CTC labels and prompts are computed once per utterance and given to every strategy and batch size.
Strategies take turns batch by batch, and a different one starts each turn, so that their times are comparable. The rows
of transformers' own `generate` take turns in the same way.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from speechmtp.decoding.engine import Recorded
from speechmtp.decoding.sampling import SamplingConfig
from speechmtp.decoding.strategies import Strategy, parse_strategy
from speechmtp.errors import ConfigError
from speechmtp.evaluation.evaluation_sets import EvaluationSet, decode_by_peer
from speechmtp.evaluation.selection import PEERS, prepare_strategies
from speechmtp.kernels.cpu.packed_linear import describe_packed
from speechmtp.progress import track
from speechmtp.types import Result, Trace, sum_traces

NO_GAP = 1e9  # the gap past the end of `ar`'s output, where no near-tie is possible; JSON has no infinity
NEAR_TIE = {"float32": 1e-4, "float64": 1e-4, "bfloat16": 5e-2, "float16": 5e-2}  # gap of two logits


@dataclass
class RowTotals:
    """Results, decoder seconds and trunk calls (those of a batch counted once) of one strategy, or of a mode (`peer`)
    of transformers' own `generate`."""

    strategy: Strategy | None
    peer: str = ""
    seconds: float = 0.0
    batch_calls: int = 0
    results: dict[str, Result] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The name of the row: the strategy's label or `transformers:MODE`."""
        return self.strategy.label if self.strategy is not None else f"{PEERS}:{self.peer}"


@dataclass(frozen=True)
class Comparison:
    """The outcome of one run: a row of figures for every strategy, in order, and the decoded texts by the strategy's
    label and then by utterance."""

    rows: list[dict[str, Any]]
    texts: dict[str, dict[str, str]]

    @property
    def differs(self) -> bool:
        """Whether a row that promises the tokens of `ar` has other tokens, beyond near-ties."""
        return any(row["differences"] for row in self.rows)


@dataclass(frozen=True)
class _Run:
    evaluation_set: EvaluationSet
    reference: Mapping[str, Result]
    batch_size: int
    sampling: SamplingConfig

    @property
    def dtype(self) -> str:
        return str(self.evaluation_set.dtype).removeprefix("torch.")

    def decode(self, totals: RowTotals, names: Sequence[str], overlap: bool = False) -> list[Result]:
        """Decode some requests by a row's strategy as one batch, or one by one by transformers."""
        if totals.strategy is None:
            return [decode_by_peer(self.evaluation_set, name, totals.peer) for name in names]
        recorded = Recorded(overlap=overlap, times=True)
        return self.evaluation_set.decode(names, totals.strategy, self.reference, self.sampling, recorded)


def run_comparison(
    evaluation_set: EvaluationSet, strategies: Sequence[Strategy | str], batch_size: int = 1,
    sampling: SamplingConfig | None = None, label: str = "comparing", peers: Sequence[str] = (),
) -> Comparison:  # fmt: skip
    """Decode an evaluation set by every strategy, `batch_size` requests at a time; greedily without `sampling`.

    `strategies` are strings as on the command line or `Strategy` objects. Rows are in their order, followed by those of
    transformers' modes `peers` (see `peers.PEER_MODES`). The outputs of `ar` at batch size 1 are the reference for
    exactness and the drafts of `oracle`. `label` names the progress bar. ConfigError for a strategy that the model
    cannot run, for nothing to compare, and for a `batch_size` below 1.
    """
    if batch_size < 1:
        raise ConfigError(f"batch_size={batch_size}: expected 1 or more")
    sampling = sampling or SamplingConfig()
    strategies = prepare_strategies(strategies, evaluation_set.runner, evaluation_set.has_ctc, with_references=True)
    if not strategies and not peers:
        raise ConfigError("strategies=[]: nothing to compare; name one at least")
    plain, names = parse_strategy("ar"), evaluation_set.names
    gaps = Recorded(gaps=True)
    reference = {n: evaluation_set.decode([n], plain, None, sampling, gaps)[0] for n in track(names, "reference")}
    run = _Run(evaluation_set, reference, batch_size, sampling)
    every_row = [RowTotals(strategy) for strategy in strategies] + [RowTotals(None, mode) for mode in peers]
    groups = evaluation_set.batches(batch_size)
    for totals in every_row:  # warm up: the first call of a shape is slower
        run.decode(totals, groups[0])
    for turn, group in enumerate(track(groups, label)):
        for place in range(len(every_row)):
            totals = every_row[(place + turn) % len(every_row)]
            results = run.decode(totals, group)
            alone = totals.strategy is None
            totals.seconds += sum(r.seconds for r in results) if alone else results[0].seconds
            totals.batch_calls += sum(r.trace.calls for r in results) if alone else max(r.trace.calls for r in results)
            totals.results.update(zip(group, results))
    expected = {t.label: _acceptance(run, t, groups) for t in every_row} if sampling.temperature else {}
    plain_totals = next((t for t in every_row if t.label == "ar"), None)
    rows = [_row(totals, run, plain_totals) | expected.get(totals.label, {}) for totals in every_row]
    return Comparison(rows, {t.label: {n: t.results[n].text for n in names} for t in every_row})


def _acceptance(run: _Run, totals: RowTotals, groups: Sequence[Sequence[str]]) -> dict[str, Any]:
    """Decode again with sampling, untimed: the share of examined drafted tokens that were accepted, and the share that
    speculative sampling theory expects (mean of sum min(p, q))."""
    traces = [r.trace for group in groups for r in run.decode(totals, group, overlap=True)]
    total = sum_traces(traces)
    if not total.examined:
        return {"acceptance": None, "expected_acceptance": None}
    return {"acceptance": total.num_accepted_tokens / total.examined,
            "expected_acceptance": total.overlap / total.examined}  # fmt: skip


def _row(totals: RowTotals, run: _Run, plain: RowTotals | None) -> dict[str, Any]:
    evaluation_set, strategy, results = run.evaluation_set, totals.strategy, totals.results
    figures = evaluation_set.judge(results, run.sampling.seed)
    total = sum_traces(r.trace for r in results.values())
    calls, audio = total.calls, evaluation_set.audio_seconds
    same = strategy is None or (strategy.exact and _keeps_tokens(strategy, run.sampling))
    differences = list(_differences(results, run)) if calls and same else []
    limit = NEAR_TIE[run.dtype]
    end_to_end = evaluation_set.listen_seconds + totals.seconds
    drafting = 1000 * total.draft_seconds / totals.batch_calls if totals.batch_calls and strategy else None
    words = figures.pop("words")
    return {
        "strategy": strategy.name if strategy is not None else PEERS,
        "options": strategy.options if strategy is not None else {"mode": totals.peer},
        "label": totals.label,
        "exact": strategy is None or strategy.exact,
        "seeded": same,
        "identical_to_ar": sum(
            (r.tokens == run.reference[n].tokens if calls else r.text == run.reference[n].text)
            for n, r in results.items()
        ),
        "near_ties": [d for d in differences if d["gap"] < limit],
        "differences": [d for d in differences if d["gap"] >= limit] if same else None,
        "utterances": len(results),
        **figures,
        "trunk_calls": calls,
        "prompt_calls": total.prompt_calls,
        "draft_calls": total.draft_calls,
        "forwards": calls + total.draft_calls,
        "fed": total.fed,
        "tokens": total.emitted,
        "tokens_per_call": total.tokens_per_call,
        "oracle_tokens_per_call": None if strategy is None else _ceiling(strategy, run.reference),
        "calls_per_word": calls / words if words else None,
        "calls_per_audio_second": calls / audio if audio else None,
        "mean_acceptance_length": total.mean_acceptance_length,
        "acceptance_per_position": _acceptance_by_position(total),
        "unfinished": sum(not r.trace.finished for r in results.values()),
        "flagged": _count_flags(results),
        "draft_ms_per_call": drafting,
        "seconds": totals.seconds,
        "speedup_vs_ar": plain.seconds / totals.seconds if plain and calls and totals.seconds else None,
        "end_to_end_seconds": end_to_end,
        "end_to_end_speedup_vs_ar": (evaluation_set.listen_seconds + plain.seconds) / end_to_end if plain else None,
        "rtfx": audio / end_to_end if audio else None,
        "audio_seconds": audio,
        "batch_size": run.batch_size if strategy is not None else 1,
        "device": str(evaluation_set.device),
        "dtype": run.dtype,
        "drafts": "int8" if any(h.drafts_in_int8 for h in evaluation_set.runner.heads.values()) else run.dtype,
        "seed": run.sampling.seed,
        "sampling": run.sampling.described(),
        "threads": torch.get_num_threads(),
        "linear_maps": describe_packed(evaluation_set.runner.trunk) if evaluation_set.device.type == "cpu" else None,
    }  # fmt: skip


def _keeps_tokens(strategy: Strategy, sampling: SamplingConfig) -> bool:
    """Whether its tokens, and not only their distribution, are those of `ar` with the same seed."""
    return not sampling.temperature or (strategy.rule is not None and strategy.rule.draws == "shared")


def _differences(results: Mapping[str, Result], run: _Run) -> Iterator[dict[str, Any]]:
    """For each utterance whose tokens differ from `ar`: the index of the first difference and the gap of `ar`'s two
    largest logits there."""
    for name, result in sorted(results.items()):
        plain = run.reference[name]
        if result.tokens == plain.tokens:
            continue
        pairs = zip(result.tokens, plain.tokens)
        index = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(result.tokens), len(plain.tokens)))
        gap = plain.trace.gaps[index] if index < len(plain.trace.gaps) else NO_GAP
        yield {"utterance": name, "index": index, "gap": gap}


def _ceiling(strategy: Strategy, reference: Mapping[str, Result]) -> float | None:
    """Tokens per call if every drafted token were accepted: an upper bound set by the depth. None where the strategy
    has no drafter or no depth."""
    lengths = [len(r.tokens) for r in reference.values() if r.tokens]
    depth = getattr(strategy.drafter, "depth", None)
    if not lengths or "ctc" in strategy.needs:  # the whole output can be verified in the prompt's call
        return sum(lengths) / len(lengths) if lengths and strategy.drafter is not None else None
    if depth is None:
        return None
    rides = strategy.needs.isdisjoint({"heads", "reference"})  # heads cannot draft before the prompt's call
    calls = (math.ceil(n / (depth + 1)) if rides else 1 + math.ceil((n - 1) / (depth + 1)) for n in lengths)
    return sum(lengths) / sum(calls)


def _acceptance_by_position(total: Trace) -> list[float] | None:
    """Share of drafts whose first 1, 2, ... tokens were all accepted, as vLLM counts it."""
    if not total.num_drafts:
        return None
    return [count / total.num_drafts for count in total.num_accepted_tokens_per_pos]


def _count_flags(results: Mapping[str, Result]) -> dict[str, int]:
    """The number of outputs with each flag."""
    flags = [flag for result in results.values() for flag in result.trace.flags]
    return {flag: flags.count(flag) for flag in sorted(set(flags))}


def recommend(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """The label of the fastest exact strategy of a run, references and transformers' own excluded; None if there is
    none."""
    allowed = [r for r in rows if r["exact"] and r["strategy"] not in ("ar", "oracle", PEERS) and r["trunk_calls"]]
    if not allowed:
        return None
    best = min(allowed, key=lambda row: (row["seconds"], row["trunk_calls"]))
    return str(best["label"])
