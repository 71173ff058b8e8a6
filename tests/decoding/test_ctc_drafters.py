"""Drafts from CTC labels in every mode, and beside heads: exact, and as many tokens a call as they should be."""

import itertools
import math
from types import SimpleNamespace
from typing import Any, cast

import oracle
import pytest
import tiny
import torch
from cases import Case, Watched, make_case, mutate
from engine_runs import RowSampling, Sources, generate, row_of

from speechmtp.decoding.drafters.contract import Drafter, Silent
from speechmtp.decoding.drafters.ctc import CtcDraft, CtcHeads, hypotheses
from speechmtp.decoding.drafters.heads import HeadChain
from speechmtp.decoding.drafters.previous import PreviousHeads, PreviousPass
from speechmtp.decoding.rules.greedy_match import GreedyMatch
from speechmtp.decoding.sampling import SamplingConfig
from speechmtp.errors import ConfigError
from speechmtp.types import CtcLabels, Draft, Trace

MODES = ("whole", "resume", "recycle", "tree")


def unsure(labels: list[int], rng: torch.Generator) -> CtcLabels:
    """Labels with random posteriors, runners-up (the blank among them) and gaps."""
    size = len(labels)
    first, second, peaks = torch.rand(3, size, generator=rng).tolist()
    others = torch.randint(0, tiny.VOCAB + 1, (size,), generator=rng).tolist()
    gaps = [(place, int(torch.randint(0, tiny.VOCAB, (), generator=rng)), 0.5 * p) for place, p in enumerate(peaks)]
    return CtcLabels(tuple(labels), tuple(first), tuple(others), tuple(s / 2 for s in second), tuple(gaps))


def labels_for(case: Case, rate: float = 0.3) -> list[CtcLabels]:
    """Each row's answer with random edits and doubts."""
    rng = tiny.generator(case.seed)
    return [unsure([t for t in mutate(tokens, rate, rng) if t != tiny.EOS], rng) for tokens in case.tokens]


def run(
    case: Case,
    drafter: Drafter,
    labels: list[CtcLabels],
    rule: GreedyMatch | None = None,
    row_sampling: RowSampling | None = None,
) -> tuple[list[list[int]], list[Trace]]:
    """The case's batch; heads of random weights for those who ask."""
    heads = tiny.heads("latent", 3, case.seed) if drafter.heads else None
    return generate(case.trunk, heads, case.prompt, drafter, rule or GreedyMatch(), tiny.EOS, Sources(ctc=labels),
                    case.limits, row_sampling=row_sampling)  # fmt: skip


DRAFTERS: list[Any] = [
    *[CtcDraft(mode) for mode in MODES],  # type: ignore[arg-type]
    CtcDraft("recycle", depth=2),
    CtcDraft("tree", pointers=5, alternatives=6, nodes=9, least=0.1),
    CtcHeads(3, 0.5),
    CtcHeads(2, 1.0, "recycle"),
    CtcHeads(3, 0.9, "whole"),
]


@pytest.mark.parametrize("seed", range(8))
def test_every_mode_gives_the_tokens_of_plain_greedy_decoding(seed: int) -> None:
    case = make_case(500 + seed, max_rows=4, most=10)
    labels = labels_for(case)
    for drafter in DRAFTERS:
        assert run(case, drafter, labels)[0] == case.tokens
        assert run(case, drafter, [CtcLabels(()) for _ in labels])[0] == case.tokens


SAMPLING = [
    SamplingConfig(temperature=1.0),
    SamplingConfig(temperature=0.8, top_p=0.9, repetition_penalty=1.3, no_repeat_ngram_size=2),
]


@pytest.mark.parametrize("config", SAMPLING)
def test_every_mode_gives_the_tokens_of_plain_sampling_with_the_same_seed(config: SamplingConfig) -> None:
    for seed in range(20):
        case = make_case(seed, max_rows=2, most=5)
        rows = len(case.tokens)
        row_sampling = RowSampling(config.processors(), [seed] * rows, list(range(rows)))
        plain, _ = run(case, Silent(), [], row_sampling=row_sampling)
        rng = tiny.generator(seed)
        labels = [unsure([t for t in mutate(tokens, 0.2, rng) if t != tiny.EOS], rng) for tokens in plain]
        for drafter in DRAFTERS[seed % 3 :: 3]:
            assert run(case, drafter, labels, row_sampling=row_sampling)[0] == plain


def calls_with(drafter: CtcDraft, draft: list[int], truth: list[int]) -> int:
    """Trunk calls for `truth`, from token lists alone."""
    batch = SimpleNamespace(trunk=SimpleNamespace(vocab_size=31))
    row = row_of([], sources=(CtcLabels(tuple(draft)),))
    state = cast(Any, SimpleNamespace(rows=[row], eos=0, batch=batch))
    drafter.start(state)
    calls = 0
    while len(row.tokens) < len(truth):
        left = truth[len(row.tokens) :]
        [rests] = drafter.rests(state)
        right = max((oracle.matched(one.tokens, left) for one in rests), default=0)
        row.tokens = truth[: len(row.tokens) + right + 1]
        calls += 1
    return calls


# Tokens a call that are known for these settings: of plain decoding after a mismatch, of one pointer, of three.
@pytest.mark.parametrize(
    ("size", "rate", "whole", "recycle", "tree"),
    [(20, 0.02, 4.5, 13.0, 15.2), (20, 0.05, 2.4, 8.7, 10.6), (20, 0.10, 1.6, 5.5, 7.0), (60, 0.05, 1.4, 11.8, 15.0),
     (60, 0.10, 1.2, 6.5, 8.6)],
)  # fmt: skip
def test_fault_06_pointers_do_not_drift(size: int, rate: float, whole: float, recycle: float, tree: float) -> None:
    """Monte Carlo edits of the trunk's own output."""
    rng = tiny.generator(0)
    calls, tokens = dict.fromkeys(MODES, 0), 0
    for _ in range(3000 // size):
        truth = torch.randint(1, 31, (size,), generator=rng).tolist()
        draft = mutate(truth, rate, rng, vocab=31)
        for mode in MODES:
            calls[mode] += calls_with(CtcDraft(mode), draft, [*truth, 0])  # type: ignore[arg-type]
        tokens += size + 1
    speed = {mode: tokens / n for mode, n in calls.items()}
    assert speed["whole"] < speed["resume"] < speed["recycle"] < speed["tree"]
    assert speed["recycle"] >= 8 or (size, rate) != (20, 0.05)
    assert speed["recycle"] == pytest.approx(recycle, rel=0.15) and speed["tree"] == pytest.approx(tree, rel=0.15)
    assert speed["whole"] == pytest.approx(whole, rel=0.15)


@pytest.mark.parametrize("seed", [2, 5, 7, 11])
@pytest.mark.parametrize("mode", MODES)
def test_the_loop_makes_the_calls_of_the_simulator(mode: Any, seed: int) -> None:
    case = make_case(seed, most=20)
    rng = tiny.generator(seed)
    drafts = [[t for t in mutate(tokens, 0.2, rng) if t != tiny.EOS] for tokens in case.tokens]
    _, traces = run(case, CtcDraft(mode), [CtcLabels(tuple(draft)) for draft in drafts])
    for draft, tokens, trace in zip(drafts, case.tokens, traces):
        renamed = [[{tiny.EOS: 0, 0: tiny.EOS}.get(t, t) for t in row] for row in (draft, tokens)]
        assert trace.calls == calls_with(CtcDraft(mode), *renamed)


@pytest.mark.parametrize("seed", range(30))
def test_hypotheses_are_the_likeliest_sets_of_edits(seed: int) -> None:
    """All sets of edits, one after another."""
    rng = tiny.generator(seed)
    labels = unsure(torch.randint(0, tiny.VOCAB, (seed % 5,), generator=rng).tolist(), rng)
    found = hypotheses(labels, 6, 0.2, tiny.VOCAB, tiny.EOS)
    assert found[0].tokens == [*labels.labels, tiny.EOS]
    odds: list[tuple[float, int, list[int]]] = []
    for i, (sure, other, second) in enumerate(zip(labels.confidence, labels.runner_up, labels.runner_up_confidence)):
        odds.append((min(second / sure, 1), 2 * i + 1, [other] if other < tiny.VOCAB else []))
    odds += [(min(peak / (1 - peak), 1), 2 * place, [token]) for place, token, peak in labels.gaps]
    odds = [edit for edit in odds if edit[0] >= 0.2]
    every: list[tuple[float, list[int]]] = []
    for count in range(len(odds) + 1):
        for chosen in itertools.combinations(odds, count):
            if not any(abs(a[1] - b[1]) < 2 for a, b in itertools.combinations(chosen, 2)):
                pieces = {2 * i + 1: [token] for i, token in enumerate(labels.labels)}
                pieces |= {place: tokens for _, place, tokens in chosen}
                text = list(itertools.chain(*(pieces[place] for place in sorted(pieces)), [tiny.EOS]))
                every.append((round(math.prod(edit[0] for edit in chosen), 9), text))
    best = sorted((score for score, _ in every), reverse=True)[:6]
    assert len(found) == len(best)
    for one, score in zip(found, best):  # of equal ones any order is right
        assert (score, one.tokens) in every
    assert all(len(one.tokens) == len(one.confidence) for one in found)


@pytest.mark.parametrize(("least", "texts"), [(1.0, 3), (1.0 + 1e-9, 1)])
def test_an_edit_of_just_the_least_probability_is_made(least: float, texts: int) -> None:
    """A runner-up, and a label that may be missing, as probable as what they replace."""
    labels = CtcLabels((3, 4, 5), (0.5, 0.9, 0.9), (6, 7, 7), (0.5, 0.05, 0.05), ((3, 8, 0.5),))
    found = [one.tokens for one in hypotheses(labels, 3, least, tiny.VOCAB, tiny.EOS)]
    assert found[0] == [3, 4, 5, tiny.EOS] and len(found) == texts
    if texts > 1:
        edits = [[6, 4, 5, tiny.EOS], [3, 4, 5, 8, tiny.EOS], [6, 4, 5, 8, tiny.EOS]]
        assert all(text in edits for text in found[1:])


def test_options_of_a_drafter_of_two_parts_reach_both() -> None:
    both = CtcHeads(5, 0.5, "resume", 9, 4, 6)
    assert both.draft == CtcDraft("resume", 9, 4, 6) and both.chain == HeadChain(5)
    after = PreviousHeads(5, 4)
    assert after.draft == PreviousPass(pointers=4) and after.chain == HeadChain(5)


def test_an_unsure_label_costs_no_call_where_the_runner_up_is_right() -> None:
    for seed in range(6):
        case = make_case(seed, max_rows=4, most=12)
        labels = []
        for tokens in case.tokens:
            said, sure = [t for t in tokens if t != tiny.EOS], [0.9] * len(tokens)
            at = len(said) // 2
            right, wrong = said[at] if said else 0, (said[at] + 1) % tiny.VOCAB if said else 0
            said[at : at + 1], sure[at] = [wrong] if said else [], 0.5
            size = len(said)
            labels.append(CtcLabels(tuple(said), tuple(sure[:size]), (right,) * size, (0.4,) * size))
        found, traces = run(case, CtcDraft("tree"), labels)
        assert found == case.tokens
        assert all(trace.calls == 1 for trace in traces)


def paths(draft: Draft) -> set[tuple[int, ...]]:
    """Tokens from the root to every node of row 0."""
    tokens, parent = draft.tokens[0].tolist(), draft.parent[0].tolist()
    return {tuple(tokens[i] for i in tiny.path_to(parent, node)) for node in range(len(tokens)) if tokens[node] >= 0}


@pytest.mark.parametrize(("sure", "asked"), [(0.95, False), (0.5, True)])
def test_heads_are_asked_where_a_label_is_unsure_or_none_is_left(sure: float, asked: bool) -> None:
    compared = 0
    for seed in range(10):
        case = make_case(seed, max_rows=1, most=6)
        rest = [(t + 1) % tiny.VOCAB for t in case.tokens[0][:1]] + [7] * 9  # wrong from the beginning
        labels = [CtcLabels(tuple(rest), (sure,) * len(rest), (tiny.VOCAB,) * len(rest), (0.0,) * len(rest))]
        watched, alone = Watched(), Watched()
        tokens, _ = run(case, CtcHeads(3, 0.9), labels, watched)
        run(case, HeadChain(3), labels, alone)
        assert tokens == case.tokens
        assert paths(watched.drafts[0]) == {(*rest, tiny.EOS)[:n] for n in range(1, len(rest) + 2)}, "the prompt's call"
        if len(watched.drafts) > 1 and len(alone.drafts) > 1:
            chain = tuple(alone.drafts[1].tokens[0].tolist())
            compared += 1
            if asked:
                assert chain in paths(watched.drafts[1])
            else:
                assert not any(path[0] not in (7, tiny.EOS, rest[0]) for path in paths(watched.drafts[1]))
        empty = Watched()
        assert run(case, CtcHeads(3, 0.9), [CtcLabels(())], empty)[0] == case.tokens
        if len(empty.drafts) > 1 and len(alone.drafts) > 1:
            assert tuple(alone.drafts[1].tokens[0].tolist()) in paths(empty.drafts[1]), "none is left"
    assert compared > 3


def test_the_best_branch_is_never_cut() -> None:
    case = make_case(3, max_rows=1)
    labels = CtcLabels((7,) * 30, (0.5,) * 30, (8,) * 30, (0.4,) * 30)
    watched = Watched()
    run(case, CtcDraft("tree", nodes=5), [labels], watched)
    assert watched.drafts[0].tokens.tolist() == [[7] * 30 + [tiny.EOS]]


BAD: list[tuple[dict[str, Any], str]] = [
    ({"mode": "all"}, "one of whole, resume, recycle, tree"),
    *[({name: 0}, "1 to") for name in ("pointers", "alternatives", "nodes")],
    *[({"least": number}, "above 0") for number in (0.0, 1.5)],
]


@pytest.mark.parametrize(("options", "message"), BAD)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CtcDraft(**options)
