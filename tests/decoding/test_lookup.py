"""Drafters that need no model: what prompt lookup and suffix counts draft, and that no output depends on it."""

from functools import lru_cache
from typing import Any

import pytest
import tiny
import torch
from cases import make_case
from engine_runs import RowSampling, Setup, generate_mixed

from speechmtp.decoding.drafters.contract import Drafter, Silent
from speechmtp.decoding.drafters.lookahead import Lookahead
from speechmtp.decoding.drafters.lookup import History, PromptLookup
from speechmtp.decoding.drafters.suffix import Counts, Cursor, Suffix
from speechmtp.decoding.rules.greedy_match import GreedyMatch
from speechmtp.decoding.sampling import SamplingConfig
from speechmtp.errors import ConfigError
from speechmtp.models.trunk import Trunk
from speechmtp.types import Trace

DRAFTERS: list[Drafter] = [
    PromptLookup(), PromptLookup(4, 2, 2, "first"), Suffix(), Suffix(6, 2.0, 0.0), Lookahead(), Lookahead(5, 2, 0),
]  # fmt: skip
PLAIN = Silent()
SAMPLING = [
    SamplingConfig(temperature=0.3),
    SamplingConfig(temperature=0.8, top_k=4, repetition_penalty=1.2),
    SamplingConfig(temperature=0.5, no_repeat_ngram_size=3),
    SamplingConfig(repetition_penalty=1.1, no_repeat_ngram_size=4),
]


def cycling() -> Trunk:
    """A trunk that says the next number, whatever stood before: a period of VOCAB tokens."""
    trunk = tiny.trunk()
    with torch.no_grad():
        for name, weight in trunk.named_parameters():
            if "o_proj" in name or "down_proj" in name:
                weight.zero_()
        trunk.model.get_input_embeddings().weight.copy_(torch.eye(tiny.VOCAB, tiny.WIDTH))
    said = trunk.unembed
    trunk.unembed = lambda hidden: said(hidden).roll(1, -1)  # type: ignore[method-assign]
    return trunk


def count(
    drafter: Drafter, rows: int, limit: int, prompt_ids: list[list[int]] | None = None, trunk: Trunk | None = None
) -> list[Trace]:
    """Traces of a trunk that counts up, by the token before or otherwise; its output is checked, nothing ends it."""
    trunk = trunk or cycling()
    prompt = tiny.prompts(trunk, [2] * rows)
    tokens, traces = generate_mixed(
        trunk, prompt, [Setup(drafter, GreedyMatch())], -1, [limit] * rows, None, prompt_ids
    )
    assert tokens == [[(tiny.BOS + 1 + i) % tiny.VOCAB for i in range(limit)]] * rows
    return traces


case_of = lru_cache(make_case)


@lru_cache
def drawn(seed: int, drafter: Drafter) -> tuple[list[list[int]], int]:
    """A batch drawn by seeded coupling, and how many drafted tokens were accepted."""
    case = case_of(seed % 5, 3, 1)
    rows = len(case.tokens)
    config = SamplingConfig(**(SAMPLING[seed % len(SAMPLING)].described() | {"seed": seed}))
    ids = tiny.sentences(tiny.generator(seed), rows, 6)
    limits = [8 + row for row in range(rows)]
    bound, row_sampling = Setup(drafter, GreedyMatch()), RowSampling.of(config, range(rows))
    tokens, traces = generate_mixed(case.trunk, case.prompt, [bound], tiny.EOS, limits, row_sampling, ids)
    return tokens, sum(trace.num_accepted_tokens for trace in traces)


@pytest.mark.parametrize("drafter", DRAFTERS, ids=repr)
def test_greedy_output_is_that_of_plain_decoding(drafter: Drafter) -> None:
    accepted = 0
    for seed in range(4):
        case = case_of(seed, 5, 16)
        tokens, traces = case.run(drafter)
        assert tokens == case.tokens
        accepted += sum(trace.num_accepted_tokens for trace in traces)
    assert accepted > 10


@pytest.mark.parametrize("drafter", DRAFTERS, ids=repr)
def test_with_seeded_coupling_output_is_that_of_plain_sampling(drafter: Drafter) -> None:
    for seed in range(10):
        assert drawn(seed, drafter)[0] == drawn(seed, PLAIN)[0]
    assert sum(drawn(seed, drafter)[1] for seed in range(10)) > 5


@pytest.mark.parametrize("drafter", DRAFTERS, ids=repr)
def test_fault_12_a_batch_equals_its_rows_alone(drafter: Drafter) -> None:
    """Only what `Suffix` drafts depends on the neighbours."""
    case = next(c for c in (case_of(seed, 5, 16) for seed in range(30)) if len(c.tokens) > 2)
    tokens, traces = case.run(drafter)
    for row in range(len(tokens)):
        alone, one = case.run(drafter, rows=[row])
        assert alone == [tokens[row]]
        one[0].gaps = traces[row].gaps
        assert one[0] == traces[row] or isinstance(drafter, Suffix)


@pytest.mark.parametrize("drafter", [PromptLookup(), Suffix()], ids=repr)
def test_nothing_is_drafted_before_something_repeats(drafter: Drafter) -> None:
    traces = count(drafter, 1, tiny.VOCAB)
    assert traces[0].num_drafts == 0 and traces[0].calls == tiny.VOCAB
    assert count(drafter, 1, tiny.VOCAB + 2)[0].num_drafts == 1


@pytest.mark.parametrize(("drafter", "least"), [(PromptLookup(), 9), (PromptLookup(4), 4.6), (Suffix(), 7)], ids=repr)
def test_what_repeats_is_accepted_whole(drafter: Drafter, least: float) -> None:
    """Behind the first period every draft is right: `depth` tokens a call and one more, past the period's end too."""
    (trace,) = count(drafter, 1, tiny.VOCAB + 120)
    assert trace.num_draft_tokens - trace.num_accepted_tokens <= 12, "no more than the limit cuts off the last draft"
    assert 120 / (trace.calls - tiny.VOCAB) > least


@pytest.mark.parametrize("drafter", [PromptLookup(), Suffix()], ids=repr)
def test_a_draft_rides_on_the_prompts_call_where_the_prompt_has_ids(drafter: Drafter) -> None:
    """The last id is the start token, behind which the text said it goes on as the trunk will."""
    ids = [*range(tiny.VOCAB), *range(tiny.BOS + 1)]
    (trace,) = count(drafter, 1, 2, [ids])
    assert trace.calls == trace.num_drafts == 1 and trace.num_accepted_tokens >= 1


def test_rows_of_a_batch_share_their_counts() -> None:
    ids = [*range(tiny.VOCAB), *range(tiny.BOS + 1)]
    alone, together = count(Suffix(), 1, 30, [[]])[0], count(Suffix(), 2, 30, [[], ids])[0]
    assert alone.num_drafts < alone.calls - tiny.VOCAB + 1 <= 30 - tiny.VOCAB
    assert together.calls < alone.calls - 5


def followed(ids: list[int], options: PromptLookup) -> list[int]:
    """What `History` drafts, by scanning all of the text."""
    for size in range(options.longest, options.shortest - 1, -1):
        starts = [end for end in range(size, len(ids)) if ids[end - size : end] == ids[len(ids) - size :]]
        if starts and size <= len(ids):
            copy = list(ids)
            for step in range(options.depth):
                copy.append(copy[(starts[0] if options.match == "first" else starts[-1]) + step])
            return copy[len(ids) :]
    return []


@pytest.mark.parametrize("match", ["last", "first"])
@pytest.mark.parametrize("seed", range(15))
def test_lookup_finds_what_a_scan_finds(seed: int, match: Any) -> None:
    rng = tiny.generator(seed)
    ids = torch.randint(0, 2 + seed % 4, (40,), generator=rng).tolist()
    shortest, more, depth = torch.randint(0, 4, (3,), generator=rng).tolist()
    options = PromptLookup(depth, 1 + shortest + more, 1 + shortest, match)
    history = History(options, ids[:5])
    for end in range(5, 40):
        assert history.continuation() == followed(ids[:end], options)
        history.emit(ids[end])


def best_by_scan(ids: list[int], options: Suffix) -> list[int]:
    """What `Cursor` drafts, by counting all occurrences anew at each step."""
    best: tuple[float, list[int]] = (0.0, [])
    for length in range(min(options.depth - 1, len(ids)), 0, -1):
        gram, score, chance, draft = ids[len(ids) - length :], 0.0, 1.0, list[int]()
        while len(draft) < int(options.factor * length) and len(gram) < options.depth:
            ends = [end for end in range(len(gram), len(ids)) if ids[end - len(gram) : end] == gram]
            behind = [ids[end] for end in ends]
            if not behind:
                break
            token = max(set(behind), key=lambda t: (behind.count(t), max(e for e in ends if ids[e] == t)))
            chance *= behind.count(token) / len(behind)
            if chance < options.least:
                break
            score, gram, draft = score + chance, [*gram, token], [*draft, token]
        if score > best[0]:
            best = score, draft
    return best[1]


@pytest.mark.parametrize("seed", range(12))
def test_suffix_counts_are_those_of_a_scan(seed: int) -> None:
    ids = torch.randint(0, 2 + seed % 4, (40,), generator=tiny.generator(seed)).tolist()
    options = Suffix(2 + seed % 7, (0.5, 1.0, 3.0)[seed % 3], (0.0, 0.1, 0.4)[seed // 3 % 3])
    cursor = Cursor(Counts(), options.depth)
    for end in range(40):
        assert cursor.best(options.factor, options.least)[1] == best_by_scan(ids[:end], options)
        cursor.emit(ids[end])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PromptLookup(-1), "lookup: depth=-1, expected 0 to 1024"),
        (lambda: PromptLookup(1, 1, 2), "lookup: shortest=2 and longest=1, expected shortest <= longest"),
        (lambda: PromptLookup(shortest=0), "lookup: shortest=0, expected 1 to 1024"),
        (lambda: PromptLookup(match="any"), "lookup: match='any', expected last or first"),  # type: ignore[arg-type]
        (lambda: Suffix(1), "suffix: depth=1, expected 2 to 1024"),
        (lambda: Suffix(factor=0), "suffix: factor=0, expected a number above 0"),
        (lambda: Suffix(factor=float("nan")), "suffix: factor=nan, expected a number above 0"),
        (lambda: Suffix(least=1.5), "suffix: least=1.5, expected a number from 0 to 1"),
        (lambda: Lookahead(0), "lookahead: window=0, expected 1 to 128"),
        (lambda: Lookahead(ngram=1), "lookahead: ngram=1, expected 2 to 32"),
        (lambda: Lookahead(guesses=-1), "lookahead: guesses=-1, expected 0 to 128"),
    ],
)  # fmt: skip
def test_options_are_checked_in_one_line(make: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make()
    assert str(caught.value) == message
