"""Strategies side by side in one process: the rows of `compare`, `tune` and `demo`.

Encoder output, CTC labels and prompt are computed once per utterance and given to every strategy and batch
size. Strategies take turns batch by batch, each turn starting with another one, so that their times compare.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from speechmtp.api import Heard, Recogniser
from speechmtp.cli.options import batches
from speechmtp.cli.progress import track
from speechmtp.decoding.strategies import Strategy, parse_strategy
from speechmtp.scoring.report import wer_interval
from speechmtp.scoring.wer import score
from speechmtp.text.normalize import get_normalizer
from speechmtp.types import Result, Trace, sum_traces

NEAR_TIE = {"float32": 1e-4, "float64": 1e-4, "bfloat16": 5e-2, "float16": 5e-2}  # logits


@dataclass
class Tally:
    """Results, decoder seconds and trunk calls (a batch's once) of one strategy."""

    strategy: Strategy
    seconds: float = 0.0
    batch_calls: int = 0
    results: dict[str, Result] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """Everything that one run measured."""

    rows: list[dict[str, Any]]
    texts: dict[str, dict[str, str]]  # by strategy label, then utterance


def run_comparison(
    recogniser: Recogniser, heard: Mapping[str, Heard], hear_seconds: float, references: Mapping[str, str],
    strategies: Sequence[Strategy], batch_size: int, seed: int, label: str = "comparing",
) -> Comparison:  # fmt: skip
    """Rows in the order of `strategies`; `ar` at batch size 1 is the reference of exactness and of `oracle`."""
    plain = parse_strategy("ar")
    names = sorted(heard)
    reference = {n: recogniser.decode([heard[n]], plain, record_gaps=True)[0] for n in track(names, "reference")}
    tallies = [Tally(strategy) for strategy in strategies]
    first = next(iter(batches(names, heard, batch_size)))
    for tally in tallies:  # warm up: the first call of a shape is slower
        _decode(recogniser, first, heard, reference, tally.strategy)
    for turn, group in enumerate(track(list(batches(names, heard, batch_size)), label)):
        for place in range(len(tallies)):
            tally = tallies[(place + turn) % len(tallies)]
            results = _decode(recogniser, group, heard, reference, tally.strategy)
            tally.seconds += results[0].seconds
            tally.batch_calls += max(r.trace.calls for r in results)
            tally.results.update(zip(group, results))
    shared = _Shared(recogniser, heard, hear_seconds, references, reference, batch_size, seed)
    plain_tally = next((t for t in tallies if t.strategy.name == "ar"), None)
    rows = [_row(tally, shared, plain_tally) for tally in tallies]
    return Comparison(rows, {t.strategy.label: {n: t.results[n].text for n in names} for t in tallies})


def _decode(
    recogniser: Recogniser, names: list[str], heard: Mapping[str, Heard], reference: Mapping[str, Result],
    strategy: Strategy,
) -> list[Result]:  # fmt: skip
    return recogniser.decode([heard[n] for n in names], strategy, [reference[n].tokens for n in names])


@dataclass(frozen=True)
class _Shared:
    recogniser: Recogniser
    heard: Mapping[str, Heard]
    hear_seconds: float
    references: Mapping[str, str]
    reference: Mapping[str, Result]
    batch_size: int
    seed: int

    @property
    def dtype(self) -> str:
        return str(self.recogniser.dtype).removeprefix("torch.")


def _row(tally: Tally, shared: _Shared, plain: Tally | None) -> dict[str, Any]:
    strategy, results = tally.strategy, tally.results
    report = score(shared.references, {n: r.text for n, r in results.items()},
                   get_normalizer(shared.recogniser.bundle.config.normalizer))  # fmt: skip
    interval = wer_interval(report, shared.seed)
    total = sum_traces(r.trace for r in results.values())
    calls, tokens = total.calls, total.emitted
    audio = sum(h.audio_seconds for h in shared.heard.values())
    words = report.counts.ref_words
    differences = list(_differences(strategy, results, shared)) if calls else []
    end_to_end = shared.hear_seconds + tally.seconds
    return {
        "strategy": strategy.name,
        "options": strategy.options,
        "exact": strategy.exact,
        "identical_to_ar": sum(r.tokens == shared.reference[n].tokens for n, r in results.items()) if calls else
        sum(r.text == shared.reference[n].text for n, r in results.items()),
        "near_ties": [d for d in differences if d["gap"] < NEAR_TIE[shared.dtype]],
        "differences": [d for d in differences if d["gap"] >= NEAR_TIE[shared.dtype]] if strategy.exact else None,
        "utterances": len(results),
        "wer": report.wer,
        "wer_low": interval.low,
        "wer_high": interval.high,
        "cer": report.cer,
        "normalizer": shared.recogniser.bundle.config.normalizer,
        "trunk_calls": calls,
        "prompt_calls": total.prompt_calls,
        "draft_calls": total.draft_calls,
        "forwards": calls + total.draft_calls,
        "fed": total.fed,
        "tokens": tokens,
        "tokens_per_call": total.tokens_per_call,
        "oracle_tokens_per_call": _ceiling(strategy, shared),
        "calls_per_word": calls / words if words else None,
        "calls_per_audio_second": calls / audio,
        "mean_acceptance_length": total.mean_acceptance_length,
        "acceptance_per_position": _per_position(total),
        "unfinished": sum(not r.trace.finished for r in results.values()),
        "draft_ms_per_call": 1000 * total.draft_seconds / tally.batch_calls if tally.batch_calls else None,
        "seconds": tally.seconds,
        "speedup_vs_ar": plain.seconds / tally.seconds if plain and calls and tally.seconds else None,
        "end_to_end_seconds": end_to_end,
        "end_to_end_speedup_vs_ar": (shared.hear_seconds + plain.seconds) / end_to_end if plain else None,
        "rtfx": audio / end_to_end,
        "audio_seconds": audio,
        "batch_size": shared.batch_size,
        "device": str(shared.recogniser.device),
        "dtype": shared.dtype,
        "seed": shared.seed,
        "threads": torch.get_num_threads(),
    }  # fmt: skip


def _differences(strategy: Strategy, results: Mapping[str, Result], shared: _Shared) -> Any:
    """Where an exact strategy first leaves `ar`, with `ar`'s own top-2 gap there."""
    if not strategy.exact:
        return
    for name, result in sorted(results.items()):
        plain = shared.reference[name]
        if result.tokens == plain.tokens:
            continue
        pairs = zip(result.tokens, plain.tokens)
        index = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(result.tokens), len(plain.tokens)))
        gap = plain.trace.gaps[index] if index < len(plain.trace.gaps) else math.inf
        yield {"utterance": name, "index": index, "gap": gap}


def _ceiling(strategy: Strategy, shared: _Shared) -> float | None:
    """Tokens per call if every draft were `ar`'s own output: what the depth allows."""
    lengths = [len(r.tokens) for r in shared.reference.values() if r.tokens]
    if not lengths or strategy.drafter is None or strategy.name == "ar":
        return None
    depth = strategy.options.get("depth")
    if depth is None:  # the whole output rides on the prompt's call
        return sum(lengths) / len(lengths)
    return sum(lengths) / sum(1 + math.ceil((n - 1) / (depth + 1)) for n in lengths)


def _per_position(total: Trace) -> list[float] | None:
    """Share of drafts whose first 1, 2, ... tokens were all accepted, as vLLM counts it."""
    if not total.num_drafts:
        return None
    return [count / total.num_drafts for count in total.num_accepted_tokens_per_pos]
