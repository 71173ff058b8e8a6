"""Every exact row of the table, and every exact preset, gives the tokens of plain greedy decoding, one for one."""

import pytest
import tiny
from families import NAMES
from scenes import EXACT_RULES, LABELS, Scene, ceiling, make_scene

from speechmtp.decoding.engine import Recorded
from speechmtp.decoding.presets import PRESETS
from speechmtp.decoding.strategies import parse_strategy
from speechmtp.decoding.strategy_table import STRATEGIES
from speechmtp.types import Trace

SCENES = 50  # in every run of the tests; the others are slow


def check(scene: Scene, tokens: list[list[int]], traces: list[Trace], strategies: list[str]) -> None:
    """Tokens, end marks, counts and gaps against the reference; calls where they are known."""
    labels = strategies * (1 if len(strategies) > 1 else len(tokens))
    for row, (label, plain, trace) in enumerate(zip(labels, scene.plain, traces, strict=True)):
        assert tokens[row] == plain.tokens, f"scene {scene.seed}, row {row}: {label}"
        assert trace.gaps == pytest.approx(plain.gaps, abs=1e-8)
        assert trace.emitted == len(plain.tokens) and trace.finished == (plain.tokens[-1:] == [tiny.EOS])
        assert trace.num_accepted_tokens <= trace.num_draft_tokens and trace.num_drafts <= trace.calls
        assert sum(trace.num_accepted_tokens_per_pos) == trace.num_accepted_tokens
        assert trace.calls - 1 <= trace.emitted - trace.num_accepted_tokens <= trace.calls
        strategy = parse_strategy(label)
        if strategy.name == "oracle":
            assert trace.calls == ceiling(strategy, plain.tokens), "as few calls as its depth allows"
            assert trace.num_accepted_tokens == trace.num_draft_tokens
        if strategy.name == "ar" or strategy.options.get("depth") == 0:
            assert trace.calls == trace.emitted and trace.num_drafts == 0, "no draft: a call a token"


def run(scene: Scene, strategies: list[str]) -> None:
    """Decode and check."""
    check(scene, *scene.run(strategies, recorded=Recorded(gaps=True)), strategies)


def mixture(scene: Scene) -> list[str]:
    """A strategy a row."""
    return scene.some([*LABELS, scene.tree()], len(scene.requests))


@pytest.mark.parametrize("label", LABELS)
def test_greedy_output_is_that_of_plain_decoding(label: str) -> None:
    first = LABELS.index(label)
    for seed in range(3):
        run(make_scene((first + 17 * seed) % SCENES), [label])


@pytest.mark.parametrize("seed", range(SCENES))
def test_rows_of_one_batch_under_different_strategies(seed: int) -> None:
    scene = make_scene(seed)
    run(scene, mixture(scene))
    run(scene, [scene.tree()])


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(SCENES, 500))
def test_every_strategy_on_many_more_batches(seed: int) -> None:
    """Rules in turn: where nothing is drawn they are all the same."""
    scene = make_scene(seed)
    others = [f"rule={rule}" for i, rule in enumerate(EXACT_RULES[1:]) if i != seed % len(EXACT_RULES[1:])]
    for label in LABELS:
        if not label.endswith(tuple(others)):
            run(scene, [label])
    run(scene, mixture(scene))
    run(scene, [scene.tree()])


def test_every_exact_row_and_preset_is_among_them() -> None:
    names = {label.partition(":")[0] for label in LABELS}
    assert names >= {name for name in (*STRATEGIES, *PRESETS) if parse_strategy(name).exact}
    assert "thresholds" in names, "exact at some options"


def test_the_scenes_cover_what_they_should() -> None:
    scenes = [make_scene(seed) for seed in range(SCENES)]
    answers = [row.tokens for scene in scenes for row in scene.plain]
    ended = sum(tokens[-1] == tiny.EOS for tokens in answers)
    assert 0.1 < ended / len(answers) < 0.9, "rows that end by themselves, and rows cut by their limit"
    assert sum(len(set(tokens)) > 3 for tokens in answers) > 50, "and answers that do not repeat one token"
    assert {len(scene.requests) for scene in scenes} >= {1, 2, 16}, "and batches of many sizes"
    assert {scene.family for scene in scenes} == set(NAMES), "and every family of heads"
    with_ids = {(any(r.ids for r in scene.requests), all(r.ids for r in scene.requests)) for scene in scenes}
    assert with_ids == {(False, False), (True, False), (True, True)}, "and prompts of ids, of embeddings, of either"
    assert max(scene.tree().count(".") for scene in scenes) == 63, "and trees of 64 nodes"


@pytest.mark.parametrize("seed", range(0, SCENES, 6))
def test_perfect_and_empty_drafts(seed: int) -> None:
    """What is right is accepted whole, from the prompt's call on; nothing costs a call a token."""
    scene = make_scene(seed)
    itself = scene.drafting_itself()
    for label, calls in (("draft-model", lambda n: -(-n // 5)), ("draft-model:depth=2", lambda n: -(-n // 3))):
        tokens, traces = itself.run([label], recorded=Recorded(gaps=True))
        check(itself, tokens, traces, [label])
        assert [trace.calls for trace in traces] == [calls(len(row)) for row in tokens]
    for mode in ("whole", "resume", "recycle", "tree"):
        said = [[token for token in row if token != tiny.EOS] for row in scene.tokens]
        for labels, wanted in ((said, [1] * len(said)), ([[] for _ in said], list(map(len, scene.tokens)))):
            told, label = scene.transcribed(labels), f"ctc:mode={mode}"
            tokens, traces = told.run([label], recorded=Recorded(gaps=True))
            check(told, tokens, traces, [label])
            assert [trace.calls for trace in traces] == wanted
