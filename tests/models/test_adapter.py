"""Adapters: how encoder steps become prompt entries, and where they stand."""

from typing import Any

import pytest
import tiny
import torch
from torch import Tensor

from speechmtp.models.adapter import CtcMerge, CtcMergeConfig, Stack, StackConfig, build_adapter
from speechmtp.models.encoder import EncoderOutput
from speechmtp.models.segments import Segments, merge_segments

BLANK = 4  # of the classes a, b, c, d, blank


def spell(line: str, sharpness: float = 4.0, seed: int = 0) -> tuple[Tensor, Tensor]:
    """States [1, S, 3] and logits [1, S, 5] whose best classes are the letters of `line` (`.` is blank)."""
    rng = tiny.generator(seed)
    classes = torch.tensor([BLANK if letter == "." else "abcd".index(letter) for letter in line])
    logits = torch.rand(1, len(line), 5, generator=rng, dtype=torch.float64)
    logits[0, torch.arange(len(line)), classes] += sharpness
    return torch.randn(1, len(line), 3, generator=rng, dtype=torch.float64), logits


def merged(line: str) -> Segments:
    """Segments of one spelled line."""
    states, logits = spell(line)
    return merge_segments(states, logits, torch.tensor([len(line)]))


@pytest.mark.parametrize(
    ("line", "labels", "runs", "gaps"),
    [
        ("a.a", [0, 0], [1, 1], [0, 1]),
        ("aa", [0], [2], [0]),
        ("aab", [0, 1], [2, 1], [0, 0]),
        ("..aa...bc.", [0, 1, 2], [2, 1, 1], [2, 3, 0]),
        ("abab", [0, 1, 0, 1], [1, 1, 1, 1], [0, 0, 0, 0]),
        ("d", [3], [1], [0]),
    ],
)
def test_pitfall_11_ctc_runs_become_segments(line: str, labels: list[int], runs: list[int], gaps: list[int]) -> None:
    out = merged(line)
    assert out.lengths.tolist() == [len(labels)] and out.labels[0].tolist() == labels
    assert torch.allclose(out.features[0, :, 0].exp(), torch.tensor(runs, dtype=torch.float32))
    assert torch.allclose(out.features[0, :, 3], torch.tensor(gaps) * 0.04)


def test_no_label_no_segment() -> None:
    for line in ("", "....", "."):
        out = merged(line) if line else merge_segments(*spell("ab"), torch.tensor([0]))
        assert out.lengths.tolist() == [0] and bool((out.labels == -1).all())
        assert bool((out.posterior == 0).all()) and bool((out.features == 0).all())


def brute_force(states: Tensor, logits: Tensor, length: int) -> list[tuple[int, Tensor, Tensor, Tensor]]:
    """Label, posterior, state and features of every segment of one row, in plain loops."""
    probs = logits[:length].float().softmax(-1)
    out = []
    at, blanks = 0, 0
    while at < length:
        label = int(probs[at].argmax())
        if label == BLANK:
            at, blanks = at + 1, blanks + 1
            continue
        end = at
        while end < length and int(probs[end].argmax()) == label:
            end += 1
        weight = (1 - probs[at:end, -1]) / (1 - probs[at:end, -1]).sum()
        posterior = (weight[:, None] * probs[at:end]).sum(0)
        state = (weight[:, None] * states[at:end]).sum(0)
        entropy = -(posterior * posterior.log()).sum()
        numbers = [torch.tensor(float(end - at)).log(), posterior.max(), entropy, torch.tensor(blanks * 0.04)]
        out.append((label, posterior, state, torch.stack(numbers)))
        at, blanks = end, 0
    return out


def test_merging_equals_plain_loops_on_padded_batches() -> None:
    rng = tiny.generator(7)
    lengths = [17, 5, 1, 30, 0]
    states = torch.randn(5, 30, 3, generator=rng, dtype=torch.float64)
    logits = 2 * torch.randn(5, 30, 5, generator=rng, dtype=torch.float64)
    logits[..., -1] += 1
    out = merge_segments(states, logits, torch.tensor(lengths))
    assert out.states is not None
    total = 0
    for row, length in enumerate(lengths):
        wanted = brute_force(states[row], logits[row], length)
        total += len(wanted)
        assert out.labels[row].tolist() == [w[0] for w in wanted] + [-1] * (out.labels.shape[1] - len(wanted))
        for index, (_, posterior, state, features) in enumerate(wanted):
            torch.testing.assert_close(out.posterior[row, index], posterior, atol=1e-4, rtol=0)
            torch.testing.assert_close(out.states[row, index], state, atol=1e-4, rtol=0)
            torch.testing.assert_close(out.features[row, index], features, atol=1e-4, rtol=0)
        past = slice(int(out.lengths[row]), None)
        assert bool((out.posterior[row, past] == 0).all()) and bool((out.states[row, past] == 0).all())
    assert total > 20


def test_two_fine_distributions_give_one_mean() -> None:
    """A run's vectors weigh each step by 1 - p(blank)."""
    logits = torch.log(torch.tensor([[[0.5, 0.1, 0.0001, 0.0001, 0.3998], [0.7, 0.1998, 0.0001, 0.0001, 0.1]]]))
    states = torch.tensor([[[1.0], [4.0]]])
    out = merge_segments(states, logits, torch.tensor([2]))
    assert out.states is not None
    weight = torch.tensor([0.6002, 0.9]) / 1.5002
    assert float(out.states[0, 0, 0]) == pytest.approx(float(weight @ torch.tensor([1.0, 4.0])), abs=1e-4)
    assert float(out.features[0, 0, 1]) == pytest.approx(float(weight @ torch.tensor([0.5, 0.7])), abs=1e-4)


def adapter(seed: int = 0, **settings: Any) -> CtcMerge:
    """A CtcMerge with random weights for 3-wide states and 5 classes."""
    built = CtcMerge(CtcMergeConfig(**settings), 3, 5, tiny.WIDTH)
    tiny.randomise(built, seed)
    return built


def test_audio_and_text_share_one_position_axis() -> None:
    module = adapter()
    states, logits = spell("a.abb.c.d")
    padded = torch.cat([logits, logits.flip(1)])
    out = module(merge_segments(torch.cat([states, states]), padded, torch.tensor([9, 3])))
    assert out.lengths.tolist() == [6, 3], "5 segments and 2, an end mark behind each"
    assert out.positions[0].tolist() == [0, 1, 2, 3, 4, 5], "a segment at the number of labels before it"
    assert out.text_position.tolist() == [0, 0]
    assert bool((out.embeddings[1, 3:] == 0).all())
    torch.testing.assert_close(out.embeddings[0, 5], module.end)
    torch.testing.assert_close(out.embeddings[1, 2], module.end)


@torch.no_grad()
def test_the_prompt_closes_with_the_opening_token_at_position_zero() -> None:
    model = tiny.speech_lm(0)
    frames, lengths = tiny.frames([40, 25, 3], 0)
    out = model.encode_audio(frames, lengths)
    segments = merge_segments(out.states, out.logits, out.lengths)
    prompt = model.prompt(out)
    assert prompt.lengths.tolist() == (segments.lengths + 2).tolist()
    assert segments.lengths[2] == 0, "audio too short for a step still makes a prompt"
    start_tokens = model.trunk.embed(torch.tensor(tiny.BOS))
    for row, size in enumerate(prompt.lengths.tolist()):
        assert torch.equal(prompt.embeddings[row, size - 1], start_tokens)
        assert prompt.positions[row, :size].tolist() == [*range(size - 1), 0]
        assert bool((prompt.embeddings[row, size:] == 0).all())
    assert prompt.next_position.tolist() == [1, 1, 1], "token i stands at i + 1, its evidence at i"


@torch.no_grad()
@pytest.mark.parametrize("config", [CtcMergeConfig(), StackConfig(frames=3, hidden=8)])
def test_prompts_of_a_batch_equal_those_of_its_rows(config: CtcMergeConfig | StackConfig) -> None:
    model = tiny.speech_lm(1, config)
    sizes = [44, 9, 30, 17]
    frames, lengths = tiny.frames(sizes, 1)
    batch = model.prompt(model.encode_audio(frames, lengths))
    for row, size in enumerate(sizes):
        alone = model.prompt(model.encode_audio(frames[row : row + 1, :size], lengths[row : row + 1]))
        cut = batch.row(row)
        assert cut.lengths.tolist() == alone.lengths.tolist()
        assert torch.equal(cut.positions, alone.positions[:, : int(alone.lengths[0])])
        assert torch.equal(cut.next_position, alone.next_position)
        torch.testing.assert_close(cut.embeddings, alone.embeddings[:, : int(alone.lengths[0])], rtol=0, atol=1e-5)


def test_acoustics_can_be_absent_row_by_row() -> None:
    module = adapter()
    states, logits = spell("ab.c")
    both = merge_segments(states.repeat(2, 1, 1), logits.repeat(2, 1, 1), torch.tensor([4, 4]))
    out = module(both, torch.tensor([False, True]))
    silent = module(Segments(both.posterior, None, both.features, both.labels, both.lengths))
    torch.testing.assert_close(out.embeddings[1], silent.embeddings[1])
    assert not torch.allclose(out.embeddings[0], silent.embeddings[0])
    unheard = adapter(acoustics=False)(both)
    torch.testing.assert_close(unheard.embeddings, silent.embeddings)


@torch.no_grad()
def test_stack_pads_the_tail_and_drops_nothing() -> None:
    module = Stack(StackConfig(frames=4, hidden=8), 3, 5, tiny.WIDTH)
    tiny.randomise(module, 0)
    states = torch.randn(2, 10, 3, generator=tiny.generator(0), dtype=torch.float64)
    out = module(EncoderOutput(states, torch.zeros(2, 10, 5).double(), torch.tensor([9, 4]), []))
    assert out.lengths.tolist() == [3, 1] and out.text_position.tolist() == [3, 1]
    assert out.positions.tolist() == [[0, 1, 2], [0, 1, 2]]
    tail = torch.cat([states[0, 8:9], torch.zeros(3, 3).double()]).reshape(1, -1)
    torch.testing.assert_close(out.embeddings[0, 2:3], module.project(tail))
    moved = states.clone()
    moved[0, 8] += 1
    again = module(EncoderOutput(moved, torch.zeros(2, 10, 5).double(), torch.tensor([9, 4]), []))
    assert float((again.embeddings[0, 2] - out.embeddings[0, 2]).abs().max()) > 1e-6, "the last step counts"
    assert bool((out.embeddings[1, 1:] == 0).all())


def test_the_configuration_chooses_the_adapter() -> None:
    assert isinstance(build_adapter(CtcMergeConfig(), 3, 5, 16), CtcMerge)
    assert isinstance(build_adapter(StackConfig(), 3, 5, 16), Stack)


@torch.no_grad()
def test_pitfall_03_a_run_cut_by_a_chunk_edge_is_one_segment() -> None:
    """The same utterance streamed with cuts everywhere gives the same segments, positions and vectors."""
    model = tiny.encoder(8, chunk=2, left_chunks=1)
    frames, lengths = tiny.frames([70], 8)
    out = model(frames, lengths)
    whole = merge_segments(out.states, out.logits, out.lengths)
    assert int(whole.lengths[0]) > 2
    for cut in range(1, 70, 5):
        state = model.start(1)
        first, state = model.step(frames[:, :cut], state)
        second, _ = model.step(frames[:, cut:], state, last=True)
        states, logits = torch.cat([first.states, second.states], 1), torch.cat([first.logits, second.logits], 1)
        pieces = merge_segments(states, logits, first.lengths + second.lengths)
        assert pieces.labels.tolist() == whole.labels.tolist()
        torch.testing.assert_close(pieces.posterior, whole.posterior, rtol=0, atol=1e-5)
