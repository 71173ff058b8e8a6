"""Faults of public systems in decoding with an encoder-decoder, looked for in the loop, its cache and its
distribution."""

from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from cases import RandomTree, Scripted
from engine_runs import RowSampling, Sources, generate
from seq2seq_scenes import HEADS, Scene, make_scene
from test_seq2seq_exactness import LABELS

import speechmtp
from speechmtp.decoding.engine import plain_outputs
from speechmtp.decoding.rules.greedy_match import GreedyMatch
from speechmtp.decoding.rules.table import RULES
from speechmtp.decoding.runner import Runner
from speechmtp.decoding.sampling import SamplingConfig
from speechmtp.decoding.state import DecodeState
from speechmtp.decoding.strategies import parse_strategy
from speechmtp.heads.contract import HeadSet
from speechmtp.heads.table import HeadsConfig
from speechmtp.models.bases.encoder_decoder import EncoderDecoder
from speechmtp.models.seq2seq import MemoryCache
from speechmtp.models.trunk import Trunk
from speechmtp.types import CtcCharacters, CtcText, Prompt, Request, Trace

families = pytest.mark.parametrize("whisper", [False, True], ids=["moonshine", "whisper"])


def drafted(scene: Scene, script: list[dict[int, list[int]]]) -> tuple[list[list[int]], list[Trace]]:
    """The batch with drafts by script: of each row, after so many tokens."""
    limits = [request.limit or 0 for request in scene.requests]
    return generate(scene.model.trunk, None, scene.prompt, Scripted(script), GreedyMatch(), tiny.EOS, None, limits,
                    rules=scene.model.rules)  # fmt: skip


def plain_tokens(model: EncoderDecoder, prompt: Prompt, most: int) -> list[int]:
    """What plain decoding says behind one prompt."""
    [said] = plain_outputs(model.trunk, prompt, model.rules, [most])
    return said


@families
def test_fault_roll_back_crops_self_attention_only(whisper: bool) -> None:
    """Refused drafts, accepted branches and rows that leave: at every call the memory's keys and values are those of
    the live rows, computed afresh, and self-attention holds what was said."""
    looked = []
    for seed in range(60, 66):
        scene = make_scene(seed, whisper=whisper)
        layers: Any = scene.model.trunk.model.get_decoder().layers

        def probe(state: DecodeState, scene: Scene = scene, layers: Any = layers) -> None:
            cache, prompt = state.batch.cache, scene.prompt
            assert isinstance(cache, MemoryCache) and prompt.memory is not None
            memory = prompt.memory[[row.slot for row in state.rows]]
            for layer, held in zip(layers, cache.pair.cross_attention_cache.layers, strict=True):
                for projection, found in (
                    (layer.encoder_attn.k_proj, held.keys),
                    (layer.encoder_attn.v_proj, held.values),
                ):
                    wanted = projection(memory).unflatten(-1, (2, -1)).transpose(1, 2)[:, :, : cache.entries]
                    assert found.shape == wanted.shape
                    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)
            assert cache.entries == int(prompt.memory_lengths[[row.slot for row in state.rows]].max())
            looked.append(len(state.rows) < len(scene.requests))

        limits = [request.limit or 0 for request in scene.requests]
        trees = RandomTree(seed, 9, hit=0.4, probe=probe)  # which counts the entries of self-attention, too
        found = generate(
            scene.model.trunk,
            None,
            scene.prompt,
            trees,
            GreedyMatch(),
            tiny.EOS,
            Sources(scene.answers),
            limits,
            rules=scene.model.rules,
        )
        assert found[0] == scene.answers
    assert len(looked) > 10 and any(looked), "many calls, some of them after a row had left"


@families
def test_fault_keys_of_the_memory_are_computed_once_a_row(whisper: bool) -> None:
    """Not at every call, and not again when rows leave."""
    scene, rows = make_scene(61, whisper=whisper), list[int]()
    for layer in scene.model.trunk.model.get_decoder().layers:  # type: ignore[union-attr]
        handle: Any = layer.encoder_attn.k_proj.register_forward_hook(lambda _, __, out: rows.append(len(out)))
        scene.run(["lookup"])
        handle.remove()
        assert rows == [len(scene.requests)]
        rows.clear()


def first_drafts(heads: HeadSet, trunk: Trunk, prompt: Prompt, base: torch.Tensor) -> torch.Tensor:
    """Features [B, F] of the first depth behind the start tokens and a base token a row [B]."""
    rows, size = prompt.positions.shape
    states = trunk.extend(prompt.embeddings, prompt.positions, None, trunk.new_cache(rows, prompt), heads.taps)
    state = heads.start(rows, trunk, None, prompt.memory, prompt.memory_lengths)
    keep = torch.arange(size).repeat(rows, 1)
    heads.advance(state, states, prompt.embeddings, prompt.positions, keep, prompt.lengths)
    return heads.expand(state, 1, base[:, None], torch.zeros(rows, 1, dtype=torch.long))[:, 0]


@torch.no_grad()
@pytest.mark.parametrize("config", HEADS[:3], ids=lambda config: config.kind)
def test_fault_heads_hear_the_audio_and_none_of_its_padding(config: HeadsConfig) -> None:
    """Beside longer encoder outputs a row's drafts are those of the row alone; another memory makes other drafts,
    though the trunk's states be the same."""
    model = tiny.tiny_moonshine(5)
    heads: HeadSet = tiny.random_heads(config, 5, model.trunk.shape)
    prompt, base = tiny.memory_prompts(model, [5, 1, 12, 3]), torch.tensor([3, 4, 5, 6])
    found = first_drafts(heads, model.trunk, prompt, base)
    for row in range(4):
        alone = first_drafts(heads, model.trunk, prompt.row(row), base[row : row + 1])
        torch.testing.assert_close(found[row : row + 1], alone, rtol=0, atol=1e-10)
    deaf = first_drafts(_deaf(heads), model.trunk, prompt, base)
    assert float((deaf - found).abs().amax(-1).min()) > 1e-3


def _deaf(heads: HeadSet) -> HeadSet:
    """The same heads, which do not look at the audio."""
    found = deepcopy(heads)
    with torch.no_grad():
        for name, weight in found.named_parameters():
            if name.endswith("encoder_attn.o_proj.weight"):
                weight.zero_()
    return found


@families
def test_fault_the_opening_tokens_carry_a_draft(whisper: bool) -> None:
    """A draft that is right costs the prompt's call alone, one that is wrong in its first token costs nothing."""
    for seed in range(60, 64):
        scene = make_scene(seed, whisper=whisper)
        tokens, traces = drafted(scene, [{0: answer} for answer in scene.answers])
        assert tokens == scene.answers
        start_tokens = len(scene.model.start_tokens())
        for answer, trace in zip(scene.answers, traces):
            assert (trace.calls, trace.prompt_calls, trace.num_accepted_tokens) == (1, 1, len(answer))
            assert trace.fed == start_tokens + len(answer)
        tokens, traces = drafted(scene, [{0: [(answer[0] + 1) % 3 + 6] * 5} for answer in scene.answers])
        assert tokens == scene.answers and all(trace.calls <= len(said) for said, trace in zip(tokens, traces))


def first_choices(scene: Scene) -> list[int]:
    """What each row would say first if nothing was forbidden there."""
    trunk, prompt = scene.model.trunk, scene.prompt
    states = trunk.extend(prompt.embeddings, prompt.positions, None, trunk.new_cache(len(scene.requests), prompt))
    return trunk.teacher_logits(states.hidden[:, -1]).argmax(-1).tolist()


@torch.no_grad()
def test_fault_begin_suppressed_ids_are_forbidden_at_the_first_token_only() -> None:
    """Though drafted there; one place further, in the same call, they are accepted."""
    refused = later = 0
    for seed in range(16):
        scene = make_scene(seed, 4, whisper=True)
        forbidden = scene.model.rules.begin_suppress
        wanted = first_choices(scene)
        tokens, traces = drafted(scene, [{0: [first, *answer]} for first, answer in zip(wanted, scene.answers)])
        assert tokens == scene.answers and all(said[0] not in forbidden for said in tokens)
        refused += sum(first in forbidden for first in wanted)
        assert all(t.num_accepted_tokens == 0 for first, t in zip(wanted, traces) if first in forbidden)
        tokens, traces = drafted(scene, [{0: answer} for answer in scene.answers])
        later += sum(len({*said[1:]} & {*forbidden}) > 0 for said in tokens)
        assert all(trace.calls == 1 for trace in traces)
    assert refused > 3 and later > 8


def test_fault_timestamps_and_suppressed_ids_are_never_said() -> None:
    """Though every draft consists of them."""
    for seed in range(6):
        scene = make_scene(seed, 4, whisper=True)
        never = [*scene.model.rules.suppress]
        script = [dict.fromkeys(range(40), never[i % 3 :]) for i in range(len(scene.requests))]
        tokens, traces = drafted(scene, script)
        assert tokens == scene.answers and not sum(trace.num_accepted_tokens for trace in traces)


@pytest.mark.parametrize("rule", RULES)
def test_fault_drawn_tokens_are_what_may_be_said_under_every_rule(rule: str) -> None:
    """At a high temperature, where heads draft what the trunk may not say: also what replaces a refused token."""
    drafts = 0
    for seed in range(4):
        scene = make_scene(seed, 4, whisper=True)
        rules = scene.model.rules
        row_sampling = RowSampling.of(SamplingConfig(temperature=3.0, seed=seed), range(len(scene.requests)))
        for label in ("ar", "verify", *([] if RULES[rule].instead_on_trees else ["tree:paths=0.1.00.01"])):
            text = f"{label}{',' if ':' in label else ':'}rule={rule}" if label != "ar" else label
            tokens, traces = scene.run([text], row_sampling=row_sampling)
            assert all({*said}.isdisjoint(rules.suppress) and said[0] not in rules.begin_suppress for said in tokens)
            drafts += sum(trace.num_draft_tokens for trace in traces)
    assert drafts > (60 if RULES[rule]().exact else 20), "rules that keep more make fewer drafts"


def endless(seed: int, whisper: bool) -> Scene:
    """A scene of its own whose model never stops."""
    scene: Scene = make_scene.__wrapped__(seed, whisper=whisper)
    return replace(scene, requests=[never(request, tiny.EOS) for request in scene.requests])


def never(request: Request, *ids: int) -> Request:
    """A request of which some ids are never said."""
    return replace(request, rules=replace(request.rules, suppress=(*request.rules.suppress, *ids)))


@families
def test_fault_windows_that_never_stop_end_at_the_limit_and_are_flagged(whisper: bool) -> None:
    """Under every strategy, with drafts that would go further."""
    scene = endless(71, whisper)
    for label in ("ar", *LABELS[::2]):
        tokens, traces = scene.run([label])
        for request, said, trace in zip(scene.requests, tokens, traces):
            assert len(said) == request.limit == trace.emitted
            assert "limit" in trace.flags and not trace.finished


@families
def test_fault_windows_that_never_stop_have_the_limit_of_their_seconds(whisper: bool, tmp_path: Path) -> None:
    folder = tiny.write_seq2seq(tmp_path / "model", "whisper" if whisper else "moonshine")
    recogniser = speechmtp.load(str(folder))
    model = recogniser.bundle.model
    assert isinstance(model, EncoderDecoder)
    noise = [torch.randn(size, generator=tiny.generator(size)).numpy() for size in (900, 20000, 64000)]
    heard = [never(recogniser.listen(one), tiny.EOS) for one in noise]
    for label in ("ar", "lookup"):
        results = recogniser.decode(heard, parse_strategy(label))
        wanted = [9, 17, 34] if whisper else [3, 11, 28]  # 0.056, 1.25 and 4 seconds
        assert [len(result.tokens) for result in results] == wanted
        assert all("limit" in result.trace.flags for result in results)


@families
def test_fault_nothing_follows_an_end_token(whisper: bool) -> None:
    """Wherever it stands in a draft, and though the draft goes on behind it."""
    ended = 0
    for seed in range(6):
        scene = make_scene(seed, 4, whisper=whisper)
        for start in range(3):
            script = [{start: [*answer[start:], 3, tiny.EOS, 3]} for answer in scene.answers]
            tokens, traces = drafted(scene, script)
            assert tokens == scene.answers
            for said, trace in zip(tokens, traces):
                assert tiny.EOS not in said[:-1] and trace.finished == (said[-1] == tiny.EOS)
                ended += trace.finished and len(said) > start
    assert ended > 3


@families
def test_fault_an_end_token_at_once_is_an_empty_output(whisper: bool) -> None:
    """Moonshine may say it, and Whisper may not at first."""
    empty = []
    for seed in range(4):
        scene: Scene = make_scene.__wrapped__(seed, 4, whisper=whisper)
        others = [i for i in range(scene.model.trunk.vocab_size) if i not in (tiny.EOS, 7)]
        scene = replace(scene, requests=[never(request, *others) for request in scene.requests])
        for label in ("ar", "lookup", "verify"):
            tokens, traces = scene.run([label])
            assert all(("empty" in trace.flags) == (said == [tiny.EOS]) for said, trace in zip(tokens, traces))
            empty += [said == [tiny.EOS] for said in tokens]
    assert any(empty) != whisper


def test_fault_a_draft_longer_than_the_positions_left() -> None:
    """Nothing behind the last learned position is kept, and what stands before it is what it was."""
    compared = 0
    for seed in range(6):
        model = tiny.tiny_whisper(seed)
        most = model.limit(1000)
        prompt = tiny.memory_prompts(model, [5], seed)
        plain = plain_tokens(model, prompt, most)
        for start in (0, most - 9, most - 1):
            script = [{start: (plain + [3] * 60)[start : start + 60]}]
            [said], [trace] = generate(
                model.trunk, None, prompt, Scripted(script), GreedyMatch(), tiny.EOS, None, [most],
                rules=model.rules,
            )  # fmt: skip
            assert said == plain and len(said) <= most
            compared += len(said) == most and trace.num_draft_tokens == 60
    assert compared > 2


@pytest.mark.parametrize("family", ["moonshine", "whisper"])
def test_fault_texts_with_marks_bytes_and_names_of_special_tokens(family: str, tmp_path: Path) -> None:
    """Drafts spelled by the model's own tokenizer, which has fewer tokens than a Whisper: never a special id, exact."""
    recogniser = speechmtp.load(str(tiny.write_seq2seq(tmp_path / "model", family, 2)), dtype="float64")
    model, tokenizer = recogniser.bundle.model, recogniser.bundle.tokenizer
    assert isinstance(model, EncoderDecoder)
    spelling = tokenizer.spelling()  # type: ignore[union-attr]
    requests, plain = [], []
    texts = ["the ant \u2581in</s> it", "<s>", "\u00e9\u4e16<0x41>", "<unk> can", "<|0.00|>\x00\x7f", "", " " * 9]
    for row, text in enumerate(texts):
        prompt: Prompt = tiny.memory_prompts(model, [6], row)
        said = plain_tokens(model, prompt, 12)
        ids = spelling.encode(text)
        assert all(3 <= token < len(tokenizer) for token in ids if token != tokenizer.unk)
        plain.append(said)
        for told in (text, tokenizer.decode(said) + text):
            requests.append(Request(prompt, model.rules, 12, sources=(CtcCharacters(CtcText(told), spelling),)))
    runner = Runner(model.trunk, {})
    for label in ("ctc:mode=whole", "ctc:mode=tree", "ctc"):
        tokens, traces = runner.run(requests, [parse_strategy(label)] * len(requests))
        assert tokens[::2] == tokens[1::2] == plain
    assert sum(trace.num_accepted_tokens for trace in traces) > 10
