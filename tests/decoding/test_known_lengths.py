"""Rows that end at a known length without an end token, and rows that wait at a limit until it is raised."""

from dataclasses import replace

import pytest
import tiny
import torch
from families import CONFIGS
from hint_scenes import DRAWN, RULES, HintScene, hint_scene
from scenes import COUPLED

from speechmtp.decoding.engine import Engine
from speechmtp.decoding.sampling import RowSampling, SamplingConfig
from speechmtp.decoding.strategies import parse_strategy
from speechmtp.decoding.traces import flags_of
from speechmtp.errors import ConfigError
from speechmtp.types import Prompt, Request, TokenRules

GREEDY = SamplingConfig()
WITH_HEADS = [
    text
    for text in COUPLED
    if parse_strategy(text).needs == {"heads"} and parse_strategy(text).preset is None and "depth=2" not in text
]


def test_a_row_of_known_length_is_finished_and_has_no_flag() -> None:
    scene = hint_scene(7)
    for strategy in ("ar", "verify:depth=3"):
        tokens, traces = scene.traced(strategy, GREEDY)
        for row, trace, request in zip(tokens, traces, scene.requests, strict=True):
            assert len(row) == request.limit and trace.finished and "limit" not in trace.flags
    with_end = [replace(r, rules=TokenRules((tiny.VOCAB,)), limit=3) for r in scene.requests]  # an end that cannot come
    _, traces = HintScene(scene.runner, scene.family, with_end).traced("ar", GREEDY)
    assert all(not trace.finished and "limit" in trace.flags for trace in traces)
    unknown = [replace(r, limit=None) for r in scene.requests]
    _, traces = HintScene(scene.runner, scene.family, unknown).traced("ar", GREEDY)
    assert all(not trace.finished and "limit" in trace.flags for trace in traces)


def test_drafts_never_pass_the_length() -> None:
    scene = hint_scene(10, "chain-own-roll", most=9)
    for strategy in ("verify:depth=3", "tree"):
        tokens, traces = scene.traced(strategy, GREEDY)
        for row, trace in zip(tokens, traces, strict=True):
            # Every drafted token was fed beside prompt and base tokens, and none behind the last one.
            assert trace.num_draft_tokens <= (len(row) - 1) * (3 if strategy != "tree" else 64)
            assert trace.num_accepted_tokens + trace.calls == len(row)


def in_pieces(scene: HintScene, strategy: str, sampling: SamplingConfig, seed: int) -> list[list[int]]:
    """All rows, each opened with a part of its hints and extended at random cuts."""
    rng = tiny.generator(seed)
    pick = lambda low, high: int(torch.randint(low, high + 1, (), generator=rng))  # noqa: E731
    engine: Engine = scene.runner.engine(len(scene.requests))
    one, drawn, slots, known = parse_strategy(strategy), RowSampling.of(sampling), list[int](), list[int]()
    for request in scene.requests:
        assert request.limit is not None and request.prompt.hints is not None
        first = pick(1, request.limit)
        prompt = replace(request.prompt, hints=request.prompt.hints[:, :first])
        slots.append(engine.join(replace(request, prompt=prompt, limit=first, open=True), one, drawn))
        known.append(first)
    ended = set[int]()
    while len(ended) < len(slots):
        for _ in range(pick(0, 4)):
            engine.step()
        place = pick(0, len(slots) - 1)
        limit, hints = scene.requests[place].limit, scene.requests[place].prompt.hints
        assert limit is not None and hints is not None
        if place in ended:
            continue
        more = pick(known[place], limit)
        last = more == limit and pick(0, 1) == 1
        engine.extend(slots[place], more, hints[:, known[place] : more], last)
        known[place] = more
        ended |= {place} if last else set()
    while engine.busy:
        engine.step()
    left = [engine.leave(slot) for slot in slots]
    assert all(trace.finished and "limit" not in trace.flags for _, trace in left)
    return [tokens for tokens, _ in left]


@pytest.mark.parametrize("seed", range(len(CONFIGS)))
def test_a_row_in_pieces_is_the_uninterrupted_row(seed: int) -> None:
    scene = hint_scene(seed)
    for sampling in (DRAWN, GREEDY):
        plain = scene.run("ar", sampling)
        for strategy in ("verify:depth=3", "ar"):
            assert in_pieces(scene, strategy, sampling, seed) == plain


@pytest.mark.parametrize("strategy", WITH_HEADS)
def test_every_exact_strategy_with_heads_goes_on_from_its_state(strategy: str) -> None:
    seed = WITH_HEADS.index(strategy)
    scene = hint_scene(100 + seed, most=24)
    assert in_pieces(scene, strategy, DRAWN, seed) == scene.run("ar", DRAWN)


def test_a_waiting_row_is_not_busy_and_pausing_it_holds_it_back() -> None:
    scene = hint_scene(3, most=16)
    place = next(i for i, r in enumerate(scene.requests) if r.limit and r.limit > 4)
    request = scene.requests[place]
    engine = scene.runner.engine(2)
    hints = request.prompt.hints
    assert hints is not None
    opened = replace(request, prompt=replace(request.prompt, hints=hints[:, :2]), limit=2, open=True)
    slot = engine.join(opened, parse_strategy("verify:depth=3"))
    while engine.busy:
        done = [event.done for event in engine.step()]
    assert done == [False] and engine.step() == []
    engine.pause(slot)
    engine.extend(slot, 4, hints[:, 2:4])
    assert not engine.busy
    engine.resume(slot)
    while engine.busy:
        engine.step()
    engine.resume(slot)  # it waits again: nothing to resume
    assert not engine.busy
    engine.extend(slot, 4, last=True)
    assert not engine.busy
    tokens, trace = engine.leave(slot)
    assert tokens == scene.run("ar", GREEDY, [place])[0][:4] and trace.finished


def test_extending_what_cannot_be_extended_is_an_error() -> None:
    scene = hint_scene(3)
    engine, one = scene.runner.engine(3), parse_strategy("ar")
    closed = engine.join(scene.requests[0], one)
    with pytest.raises(ConfigError, match=r"slot .* cannot be extended; give its request open=True"):
        engine.extend(closed, 40)
    opened = engine.join(replace(scene.requests[0], limit=3, open=True), one)
    with pytest.raises(ConfigError, match=r"limit 2 for slot .*, expected at least its present one, 3"):
        engine.extend(opened, 2)
    p = scene.requests[0].prompt
    bare = Request(Prompt(p.embeddings, p.positions, p.lengths, p.next_position), RULES, 2, open=True)
    with pytest.raises(ConfigError, match="whose prompt has none; give the first ones with it"):
        engine.extend(engine.join(bare, one), 4, torch.zeros(1, 2, tiny.WIDTH))
    for limit in (None, 0):
        with pytest.raises(ConfigError, match=f"open at limit {limit}, expected 1 or more"):
            replace(scene.requests[0], limit=limit, open=True)


def test_a_held_silence_is_no_repetition() -> None:
    held = [5, 6, *[3] * 30]
    assert flags_of(held, ()) == ("limit", "repetition")
    assert flags_of(held, (), True, (3,)) == ()
    assert flags_of([5, *[3, 4] * 20], (), True, (3,)) == ("repetition",)
    assert flags_of([5, *[3, 4] * 20], (), True, (4, 3)) == ()
    scene = hint_scene(3)
    heard = scene.requests[0]
    rules = TokenRules((), suppress=tuple(t for t in range(tiny.VOCAB) if t != 3))
    long = replace(heard, rules=rules, limit=20)
    _, (trace,) = HintScene(scene.runner, scene.family, [long]).traced("verify:depth=3", GREEDY)
    assert trace.flags == ("repetition",)
    silent = replace(long, rules=replace(rules, may_repeat=(3,)))
    _, (trace,) = HintScene(scene.runner, scene.family, [silent]).traced("verify:depth=3", GREEDY)
    assert trace.flags == () and trace.finished
