"""Rows come and go: a row that joins in mid-run, in a slot that another has used, says what it says alone."""

import gc
import random
from dataclasses import replace
from typing import Any

import pytest
import seq2seq_scenes
import tiny
import torch
from mixed_runs import Run
from scenes import COUPLED, LABELS, Priced, Scene, make_scene, preset_heads

from speechmtp.decoding.bound import BoundStrategy
from speechmtp.decoding.drafters.marginal import Marginal
from speechmtp.decoding.engine import Engine, generate
from speechmtp.decoding.runner import Runner
from speechmtp.decoding.sampling import RowSampling, SamplingConfig
from speechmtp.decoding.strategies import Strategy, parse_strategy
from speechmtp.errors import ConfigError
from speechmtp.models.draft_prompt import DraftPrompt
from speechmtp.types import Prompt, Request

PARSED = {text: parse_strategy(text) for text in LABELS}
SEQ2SEQ = [text for text, one in PARSED.items() if one.preset is None and one.name != "draft-model"]


def plans_of(scene: Scene, labels: list[str]) -> dict[str, BoundStrategy]:
    """A bound strategy for each label."""
    parsed = {label: parse_strategy(label) for label in labels}
    presets = {s.name: preset_heads(s.name, scene.trunk.shape) for s in parsed.values() if s.preset and s.preset.heads}
    runner = Priced(scene.trunk, {"own": scene.heads, **presets}, draft=scene.draft)
    return {label: runner.bind(runner.prepared(strategy)) for label, strategy in parsed.items()}


def check(requests: list[Request], wanted: list[list[int]], bound_strategies: list[BoundStrategy], trunk: Any,
          seed: int, row_sampling: RowSampling | None = None) -> Run:  # fmt: skip
    """A random run over more requests than slots; all say what they say alone."""
    rng = random.Random(seed)
    run = Run(Engine(trunk, rng.randint(1, 4)), requests, bound_strategies, rng, row_sampling)
    for _ in range(3 * len(requests)):
        run.act()
    run.finish()
    assert {number: tokens for number, (tokens, _) in run.said.items()} == dict(enumerate(wanted))
    return run


@pytest.mark.parametrize("label", LABELS)
def test_a_row_that_joins_in_mid_run_says_what_it_says_alone(label: str) -> None:
    """Text LMs and prompts of embeddings; every exact label, all rows under it."""
    scene = make_scene(LABELS.index(label) % 40, 8, 8)
    again = [replace(request, noise_key=i) for i, request in enumerate(scene.requests * 2)]
    bound = plans_of(scene, [label])[label]
    check(again, scene.tokens * 2, [bound] * len(again), scene.trunk, LABELS.index(label))


@pytest.mark.parametrize("seed", range(12))
def test_rows_of_all_strategies_join_each_other(seed: int) -> None:
    scene = make_scene(seed, 12, 10)
    labels = scene.some(LABELS, len(scene.requests) * 2, salt=7)
    bound_strategies = plans_of(scene, labels)
    run = check(scene.requests * 2, scene.tokens * 2, [bound_strategies[label] for label in labels], scene.trunk, seed)
    assert len(scene.requests) < 4 or (run.reused and (run.in_midrun or run.engine.slots == 1))


@pytest.mark.parametrize("whisper", [False, True], ids=["moonshine", "whisper"])
@pytest.mark.parametrize("label", SEQ2SEQ)
def test_a_row_beside_an_audio_memory_joins_in_mid_run(label: str, whisper: bool) -> None:
    """Memories of different lengths; Whisper's first token has rules of its own, which a joined row keeps."""
    scene = seq2seq_scenes.make_scene(SEQ2SEQ.index(label) % 30, whisper=whisper)
    runner = Priced(scene.model.trunk, {"own": scene.heads})
    strategy = fitting(label, scene.heads.depth)
    bound = runner.bind(runner.prepared(strategy))
    size = len(scene.requests) * 2
    check(scene.requests * 2, scene.answers * 2, [bound] * size, scene.model.trunk, SEQ2SEQ.index(label))


def fitting(label: str, depth: int) -> Strategy:
    """The strategy with a depth that heads of this one reach."""
    strategy = parse_strategy(label)
    if "heads" in strategy.needs and strategy.options.get("depth", 0) > depth:
        strategy = parse_strategy(f"{label}{',' if ':' in label else ':'}depth={depth}")
    return strategy


def test_our_llm_with_audio_prompts_joins_in_mid_run() -> None:
    """Prompts of an encoder, where the position of the first token depends on the audio."""
    model = tiny.speech_lm(3)
    frames, lengths = tiny.frames([40, 64, 24, 90, 33], 1)
    with torch.no_grad():
        heard = [model.encode_audio(frames[i : i + 1, :n], lengths[i : i + 1]) for i, n in enumerate(lengths)]
        prompts = list(map(model.prompt, heard))
    requests = [Request(prompt, tiny.RULES, 9) for prompt in prompts] * 3
    runner = Runner(model.trunk, {"own": tiny.heads("chain", 3, attention="ttt", taps=(1,))})
    wanted, _ = generate(model.trunk, requests, runner.bind(parse_strategy("ar")))
    for number, label in enumerate(("verify:depth=3", "tree:paths=0.1.00.01.000", "lookup", "jacobi", "suffix")):
        bound = runner.bind(runner.prepared(parse_strategy(label)))
        check(requests, wanted, [bound] * len(requests), model.trunk, number)


@pytest.mark.parametrize("label", COUPLED[::4])
def test_drawn_tokens_are_those_of_the_rows_own_noise(label: str) -> None:
    scene = make_scene(COUPLED.index(label) % 40, 6, 8)
    row_sampling = RowSampling.of(SamplingConfig(temperature=1.0, repetition_penalty=1.3, seed=5))
    requests = [replace(request, noise_key=i) for i, request in enumerate(scene.requests * 2)]
    bound_strategies = plans_of(scene, ["ar", label])
    wanted, _ = generate(scene.trunk, requests, bound_strategies["ar"], row_sampling)
    check(requests, wanted, [bound_strategies[label]] * len(requests), scene.trunk, COUPLED.index(label), row_sampling)


def test_rows_that_leave_change_nothing() -> None:
    early = 0
    for seed in range(20):
        scene, rng = make_scene(seed, 12, 12), random.Random(seed)
        labels = scene.some(LABELS, len(scene.requests), salt=9)
        bound_strategies = plans_of(scene, labels)
        run = Run(Engine(scene.trunk, 4), scene.requests, [bound_strategies[label] for label in labels], rng)
        for _ in range(60):
            run.act(leaving=0.15)
        run.finish()
        for number, (tokens, _) in run.said.items():
            assert tokens == scene.tokens[number]
        for number, tokens in run.left_early.items():
            assert tokens == scene.tokens[number][: len(tokens)]
        early += len(run.left_early)
    assert early > 20


def test_rows_beside_each_other_may_say_different_things() -> None:
    """End tokens, suppressed and first-suppressed ids, and processors are each row's own."""
    scene = make_scene(4, 8, 10)
    rules = [tiny.RULES, replace(tiny.RULES, suppress=(3, 4)), replace(tiny.RULES, begin_suppress=(5, 7)),
             replace(tiny.RULES, eos=(2, 6)), replace(tiny.RULES, eos=())]  # fmt: skip
    requests = [replace(r, rules=rules[i % len(rules)], limit=8) for i, r in enumerate(scene.requests * 3)]
    row_samplings = [
        RowSampling(),
        RowSampling.of(SamplingConfig(repetition_penalty=2.0)),
        RowSampling.of(SamplingConfig(1.0, seed=3)),
    ]
    each = [row_samplings[i % 3] for i in range(len(requests))]
    bound = plans_of(scene, ["verify"])["verify"]
    alone = [generate(scene.trunk, [request], bound, own)[0][0] for request, own in zip(requests, each)]
    together, traces = generate(scene.trunk, requests, bound, each)
    assert together == alone
    assert len({tuple(tokens) for tokens in together}) > len(scene.requests)
    for request, tokens, trace in zip(requests, together, traces):
        assert not {*tokens} & {*request.rules.suppress} and tokens[0] not in request.rules.begin_suppress
        # Without end tokens a row is finished at its limit.
        assert trace.finished == (tokens[-1] in request.rules.eos if request.rules.eos else len(tokens) == 8)


def test_slots_are_given_once_and_refused_when_all_are_taken() -> None:
    scene = make_scene(4, 8, 10)
    bound = plans_of(scene, ["ar"])["ar"]
    engine = Engine(scene.trunk, 2)
    slots = [engine.join(scene.requests[0], bound) for _ in range(2)]
    assert sorted(slots) == [0, 1] and engine.free == 0
    with pytest.raises(ConfigError, match="engine: all 2 slots are taken; wait for one, or make the engine larger"):
        engine.join(scene.requests[0], bound)
    tokens, trace = engine.leave(slots[0])
    assert tokens == [] and trace.flags == ("empty",) and engine.free == 1
    with pytest.raises(ConfigError, match="engine: slot 0 is free; join gives slots"):
        engine.pause(slots[0])
    with pytest.raises(ConfigError, match="engine: 0 slots, expected 1 or more"):
        Engine(scene.trunk, 0)
    engine.pause(slots[1])
    assert not engine.busy and engine.step() == []
    engine.resume(slots[1])
    assert engine.busy


def test_lossy_rules_say_nothing_that_is_forbidden() -> None:
    """Rules that keep tokens without the trunk's distribution, on chains and trees, from the first token on."""
    lossy = ("threshold:theta=0,depth=3", "min-block:depth=3", "distance:depth=3,most=9", "mtjd",
             "typical:paths=0.1.00", "top-k:depth=3,k=9")  # fmt: skip
    tried = 0
    for seed in range(6):
        scene = make_scene(seed, 6, 12)
        bound_strategies = plans_of(scene, [*lossy])
        rules = replace(tiny.RULES, suppress=(3, 4, 7), begin_suppress=(5, 8))
        for label in lossy:
            requests = [replace(request, rules=rules, limit=12) for request in scene.requests]
            tokens, _ = generate(scene.trunk, requests, bound_strategies[label])
            assert all({*said}.isdisjoint(rules.suppress) and said[0] not in rules.begin_suppress for said in tokens)
            tried += sum(map(len, tokens))
    assert tried > 300


def test_long_rows_beside_a_memory_pause_and_leave() -> None:
    """Longer than the room that a cache has at first."""
    scene = seq2seq_scenes.make_scene(0, whisper=False)
    never = replace(scene.requests[0].rules, suppress=(tiny.EOS,))
    trunk = scene.model.trunk
    requests = [replace(r, rules=never, limit=limit).knowing(DraftPrompt(trunk, r.prompt))
                for r, limit in zip(scene.requests * 2, (150, 171))]  # fmt: skip
    runner = Runner(trunk, {"own": scene.heads}, draft=trunk)
    for label in ("ar", "draft-model:depth=2", "verify:depth=3"):
        bound = runner.bind(runner.prepared(parse_strategy(label)))
        wanted = [generate(trunk, [request], bound)[0][0] for request in requests]
        assert [len(tokens) for tokens in wanted] == [150, 171]
        engine = Engine(trunk, 2)
        slots = [engine.join(request, bound) for request in requests]
        for _ in range(140):
            engine.step()
        engine.pause(slots[1])
        while engine.busy:
            engine.step()
        assert engine.leave(slots[0])[0] == wanted[0]
        engine.resume(slots[1])
        while engine.busy:
            engine.step()
        assert engine.leave(slots[1])[0] == wanted[1]


def test_what_is_not_finite_does_not_outlive_its_row() -> None:
    scene = make_scene(3, 8, 10)
    bound = plans_of(scene, ["ar"])["ar"]
    good = scene.requests[0]
    broken = replace(good.prompt, embeddings=torch.full_like(good.prompt.embeddings, torch.nan))
    engine = Engine(scene.trunk, 2)
    first = engine.join(replace(good, limit=30, rules=replace(tiny.RULES, eos=())), bound)
    second = engine.join(replace(good, prompt=broken, limit=9), bound)
    for _ in range(4):
        engine.step()
    engine.leave(second)
    again = engine.join(good, bound)
    while engine.busy:
        engine.step()
    assert engine.leave(again)[0] == scene.tokens[0] and len(engine.leave(first)[0]) == 30


def test_an_error_in_a_step_is_not_gone_on_from(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = make_scene(3, 8, 10)
    bound = plans_of(scene, ["verify"])["verify"]
    engine = Engine(scene.trunk, 3)
    endless = replace(scene.requests[0], limit=30, rules=replace(tiny.RULES, eos=()))
    slots = [engine.join(endless, bound) for _ in range(2)]
    engine.step()
    said = list(engine._row(slots[0]).tokens)

    def fail(*_: Any) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr(type(scene.heads), "advance", fail)
    with pytest.raises(MemoryError):
        engine.step()
    monkeypatch.undo()
    for act in (engine.step, lambda: engine.join(scene.requests[0], bound), lambda: engine.pause(slots[0])):
        with pytest.raises(ConfigError, match="engine: it cannot go on after an error in an earlier step; let"):
            act()
    for slot in slots:
        assert engine.leave(slot)[0][: len(said)] == said


def test_a_plan_that_cannot_run_is_refused_at_the_door() -> None:
    """And the rows that are there do not notice."""
    scene = make_scene(3, 8, 10)
    bound_strategies = plans_of(scene, ["ar", "marginal:depth=4,top=11", "tree:paths=0"])
    engine = Engine(scene.trunk, 2)
    slot = engine.join(scene.requests[0], bound_strategies["ar"])
    engine.step()
    with pytest.raises(ConfigError, match="marginal: depth"):
        engine.join(scene.requests[0], BoundStrategy(Marginal(12), bound_strategies["ar"].rule))
    while engine.busy:
        engine.step()
    assert engine.leave(slot)[0] == scene.tokens[0] and engine.free == 2


def held() -> int:
    """Bytes of all tensors that are alive, garbage that waits for a collector included."""
    found: dict[int, int] = {}
    for thing in gc.get_objects():
        if type(thing) is torch.Tensor and thing.layout is torch.strided and thing.device.type == "cpu":
            storage = thing.untyped_storage()
            found[storage.data_ptr()] = storage.nbytes()
    return sum(found.values())


@pytest.mark.parametrize(
    ("kind", "turns"), [("text", 10_000), ("memory", 2_000), pytest.param("memory", 10_000, marks=pytest.mark.slow)]
)
def test_thousands_of_random_joins_steps_pauses_and_leaves_leave_memory_flat(kind: str, turns: int) -> None:
    """Under strategies that keep something in each of the places that there are."""
    scene: Any
    if kind == "text":
        scene = make_scene(0, 6, 6)
        labels = ["verify", "draft-model:depth=2", "ctc", "suffix:depth=4", "verify:length=running"]
        bound_strategies, trunk = list(plans_of(scene, labels).values()), scene.trunk
    else:
        scene = seq2seq_scenes.make_scene(0, whisper=False)
        runner = Priced(scene.model.trunk, {"own": scene.heads})
        bound_strategies = [runner.bind(runner.prepared(fitting(label, 3))) for label in ("verify", "lookup")]
        trunk = scene.model.trunk
    gc.collect()
    gc.disable()  # what only a collector of cycles frees would be seen
    rng, engine = random.Random(1), Engine(trunk, 5)
    inside: list[int] = []
    paused: set[int] = set()
    sizes, counts = [], dict.fromkeys(("join", "step", "pause", "leave"), 0)
    for turn in range(turns):
        act = rng.choice(("join", "step", "step", "pause", "leave"))
        if act == "join" and engine.free:
            inside.append(engine.join(rng.choice(scene.requests), rng.choice(bound_strategies)))
        elif act == "pause" and inside:
            slot = rng.choice(inside)
            (engine.resume if slot in paused else engine.pause)(slot)
            paused ^= {slot}
        elif act == "leave" and inside:
            slot = inside.pop(rng.randrange(len(inside)))
            paused.discard(slot)
            engine.leave(slot)
        else:
            act = "step"
            for event in engine.step():
                if event.done:
                    inside.remove(event.slot)
                    engine.leave(event.slot)
        counts[act] += 1
        if turn % (turns // 10) == turns // 10 - 1:
            for slot in inside:
                engine.leave(slot)
            inside, paused = [], set()
            sizes.append(held())
    gc.enable()
    assert min(counts.values()) > turns / 20
    assert engine.free == 5 and not engine.busy
    assert max(sizes[1:]) <= sizes[0] * 1.02, sizes


def test_an_engine_of_prompts_of_ids_has_the_position_of_its_prompt() -> None:
    """Prompts that begin anywhere."""
    trunk = tiny.trunk(0)
    ids = torch.tensor([[3, 4, 5]])
    shifted = Prompt(trunk.embed(ids).detach(), torch.arange(7, 10)[None], torch.tensor([3]), torch.tensor([10]))
    plain = Prompt(shifted.embeddings, shifted.positions - 7, shifted.lengths, shifted.next_position - 7)
    bound = plans_of(make_scene(0), ["ar"])["ar"]
    tokens, _ = generate(trunk, [Request(one, tiny.RULES, 8) for one in (plain, shifted)], bound)
    assert tokens[0] == tokens[1], "rotary attention knows distances alone"
