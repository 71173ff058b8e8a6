"""Encoder-decoders: every strategy gives the tokens of transformers' own `generate`, in ragged batches in float64."""

import pytest
import tiny
import torch
from cases import RandomTree
from engine_runs import RowSampling, Sources, generate
from seq2seq_scenes import HEADS, Scene, make_scene

from speechmtp.decoding.rules.greedy_match import GreedyMatch
from speechmtp.decoding.sampling import SamplingConfig

LABELS = (
    "verify", "verify:depth=1", "verify:depth=2,theta=0.3", "verify:length=running", "verify:rule=block",
    "tree:paths=0.1.00.01.000.10", "dynamic-tree", "dynamic-tree:depth=2,width=3,nodes=9",
    "ctc", "ctc:mode=tree,nodes=20", "ctc:mode=whole", "ctc:mode=resume,depth=3", "ctc-heads:theta=0.5",
    "ctc-heads:depth=2,theta=1,mode=recycle", "ctc-heads:labels=2", "previous", "previous:pointers=1,depth=4",
    "previous-heads", "previous-heads:depth=1,pointers=2", "lookup", "lookup:depth=4,match=first", "suffix",
    "jacobi", "oracle:depth=4",
)  # fmt: skip
SCENES = 30  # in every run of the tests; the others are slow


def run_some(scene: Scene, count: int) -> None:
    """Plain decoding, some strategies for all rows, one for each row, and trees that nobody would draft."""
    order = torch.randperm(len(LABELS), generator=tiny.generator(scene.seed)).tolist()
    for label in ("ar", *(LABELS[i] for i in order[:count])):
        scene.check([label])
    scene.check([("ar", *LABELS)[(scene.seed + 5 * row) % (1 + len(LABELS))] for row in range(len(scene.answers))])
    limits = [request.limit or 0 for request in scene.requests]
    trees, sources = RandomTree(scene.seed, 1 + scene.seed % 12), Sources(scene.answers)
    model = scene.model
    found = generate(
        model.trunk, None, scene.prompt, trees, GreedyMatch(), tiny.EOS, sources, limits, rules=model.rules
    )
    assert found[0] == scene.answers


@pytest.mark.parametrize("seed", range(SCENES))
def test_output_is_that_of_transformers(seed: int) -> None:
    run_some(make_scene(seed), 3)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(SCENES, 100))
def test_output_is_that_of_transformers_at_length(seed: int) -> None:
    run_some(make_scene(seed, max_rows=12), len(LABELS))


@pytest.mark.parametrize("label", LABELS)
def test_every_strategy_on_either_model(label: str) -> None:
    for whisper in (False, True):
        make_scene(40 + LABELS.index(label) % 4, whisper=whisper).check([label])


@pytest.mark.parametrize("seed", range(6))
def test_a_batch_equals_its_rows_alone(seed: int) -> None:
    """Memories of mixed lengths: tokens, every count, and the gap of every choice."""
    scene = make_scene(seed)
    for label in (LABELS[3 * seed], "verify"):
        tokens, traces = scene.run([label])
        for row, (said, trace) in enumerate(zip(tokens, traces)):
            [alone], [one] = scene.run([label], [row])
            assert alone == said and one.gaps == pytest.approx(trace.gaps, abs=1e-9)
            one.gaps = trace.gaps
            assert one == trace


@pytest.mark.parametrize("seed", range(6))
def test_drawn_tokens_are_those_of_plain_drawing_with_the_same_seed(seed: int) -> None:
    scene = make_scene(seed)
    config = SamplingConfig(temperature=0.8, top_p=0.95, seed=seed)
    row_sampling = RowSampling.of(config, range(len(scene.answers)))
    plain, _ = scene.run(["ar"], row_sampling=row_sampling)
    for label in [label for label in LABELS if "rule" not in label][seed::6]:
        assert scene.run([label], row_sampling=row_sampling)[0] == plain, label


def test_the_scenes_cover_what_they_should() -> None:
    scenes = [make_scene(seed) for seed in range(SCENES)]
    answers = [answer for scene in scenes for answer in scene.answers]
    ended = sum(answer[-1] == tiny.EOS for answer in answers)
    assert 0.2 < ended / len(answers) < 0.8, "rows that end by themselves, and rows cut by their limit"
    assert any(len(answer) > 30 for answer in answers), "up to the last position"
    assert len({len(set(map(tuple, answers)))} & {0, 1}) == 0
    ragged = [len({int(request.prompt.memory_lengths[0]) for request in s.requests}) > 1 for s in scenes]  # type: ignore
    assert sum(ragged) > 10
    assert {(type(s.heads.config), s.model.kind) for s in scenes} >= {
        (type(config), family) for config in HEADS[:3] for family in ("moonshine", "whisper")
    }
    accepted = sum(trace.num_accepted_tokens for s in scenes for trace in s.run(["verify"])[1])
    assert accepted > 30, "heads are right now and then"
