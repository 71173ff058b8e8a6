"""Streams in one batch: each starts, ends and is reset by itself and equals the offline encoder of its own audio."""

from dataclasses import dataclass, field

import pytest
import tiny
import torch
from torch import Tensor

from speechmtp.errors import ShapeError
from speechmtp.models.encoder import Encoder, EncoderOutput
from speechmtp.models.encoder_state import EncoderState

CHUNKS = [(1, 0), (2, 1), (3, -1), (4, 2)]  # chunk, left_chunks


@dataclass
class Stream:
    """One utterance [T, F], how much of it was fed, and what came out."""

    audio: Tensor
    at: int = 0
    states: list[Tensor] = field(default_factory=list)
    logits: list[Tensor] = field(default_factory=list)
    inter: list[Tensor] = field(default_factory=list)

    def take(self, out: EncoderOutput, row: int) -> None:
        """Keep what a step gave of its row."""
        size = int(out.lengths[row])
        self.states.append(out.states[row, :size])
        self.logits.append(out.logits[row, :size])
        self.inter += [out.inter[0][row, :size]] if size else []


def step(model: Encoder, state: EncoderState, streams: list[Stream], sizes: list[int]) -> EncoderState:
    """Feed each stream its next frames, at most `sizes`; rubbish stands behind the shorter pieces."""
    sizes = [min(size, len(stream.audio) - stream.at) for size, stream in zip(sizes, streams)]
    frames = torch.full((len(streams), max(sizes), tiny.FEATURES), 1e3, dtype=torch.float64)
    for row, (stream, size) in enumerate(zip(streams, sizes)):
        frames[row, :size] = stream.audio[stream.at : stream.at + size]
        stream.at += size
    out, state = model.step(frames, state, [s.at == len(s.audio) for s in streams], sizes)
    for row, stream in enumerate(streams):
        stream.take(out, row)
    return state


def check(model: Encoder, stream: Stream) -> None:
    """All that came out of a finished stream is what the offline encoder says."""
    offline = model(stream.audio[None], torch.tensor([len(stream.audio)]))
    size = int(offline.lengths[0])
    wanted = (offline.states, offline.logits, offline.inter[0])
    for got, want in zip((stream.states, stream.logits, stream.inter), wanted):
        joined = torch.cat(got) if got else want[0, :0]
        assert joined.shape[0] == size
        torch.testing.assert_close(joined, want[0, :size], rtol=0, atol=1e-9)


@torch.no_grad()
@pytest.mark.parametrize(("chunk", "left"), CHUNKS)
@pytest.mark.parametrize("seed", range(4))
def test_streams_that_join_and_leave_equal_the_offline_encoder(chunk: int, left: int, seed: int) -> None:
    """Up to four rows at a time; a row that has ended is reset for the next stream, or leaves, or stays idle for a
    while, and new ones join from states of their own."""
    model, rng = tiny.encoder(seed, chunk=chunk, left_chunks=left), tiny.generator(seed)
    draw = lambda low, high: int(torch.randint(low, high + 1, (1,), generator=rng))  # noqa: E731
    waiting = [Stream(tiny.frames([draw(0, 70)], 10 * seed + n)[0][0]) for n in range(9)]
    streams = [waiting.pop() for _ in range(2)]
    state, done = model.start(2), []
    ways = set()
    for _ in range(1000):
        state = step(model, state, streams, [draw(0, 1) * draw(0, 19) for _ in streams])
        assert list(state.steps) == [sum(len(x) for x in stream.states) for stream in streams]
        ended = [row for row, stream in enumerate(streams) if stream.at == len(stream.audio)]
        assert [row for row, flag in enumerate(state.ended) if flag] == ended
        way = draw(0, 2)
        if ended and way == 0 and len(waiting) >= len(ended):
            state = state.reset(ended)
            for row in ended:
                done.append(streams[row])
                streams[row] = waiting.pop()
        elif ended and way == 1:
            stay = [row for row in range(len(streams)) if row not in ended][::-1]  # and in another order
            done += [streams[row] for row in ended]
            state, streams = state.select(stay), [streams[row] for row in stay]
        elif waiting and len(streams) < 4 and way == 2:
            state, streams = state.join(model.start(1)), [*streams, waiting.pop()]
        else:
            way = -1
        ways.add(way)
        if not waiting and not streams:
            break
        if not streams:
            state, streams = model.start(1), [waiting.pop()]
    assert len(done) == 9 and ways >= {-1, 1, 2}
    for stream in done:
        check(model, stream)


@torch.no_grad()
def test_rows_of_uneven_progress_give_uneven_numbers_of_steps() -> None:
    model = tiny.encoder(0, chunk=2, left_chunks=1)
    frames, _ = tiny.frames([40, 40, 40], 0)
    out, state = model.step(frames, model.start(3), [False, True, False], [8, 21, 7])
    assert out.lengths.tolist() == [2, 5, 0] and out.states.shape[1] == 5
    assert state.steps == (2, 5, 0) and state.ended == (False, True, False)
    assert [held - 3 for held in state.held] == [0, 1, 7], "beside the left context"
    out, state = model.step(frames, state, False, [1, 0, 1])
    assert out.lengths.tolist() == [0, 0, 2], "its eighth frame completes a chunk of two"


@torch.no_grad()
def test_an_old_state_may_be_gone_on_from_again() -> None:
    """What a stream would say if it ended here does not disturb it."""
    model = tiny.encoder(1, chunk=4, left_chunks=1)
    frames, lengths = tiny.frames([43], 1)
    first, state = model.step(frames[:, :30], model.start())
    tail, _ = model.step(frames[:, :0], state, last=True)
    assert (first.lengths.tolist(), tail.lengths.tolist()) == ([4], [3])
    rest, _ = model.step(frames[:, 30:], state, last=True)
    offline = model(frames, lengths).states
    torch.testing.assert_close(torch.cat([first.states, rest.states], 1), offline, rtol=0, atol=1e-9)


@torch.no_grad()
def test_memory_of_a_long_stream_stays_bounded() -> None:
    model = tiny.encoder(2, chunk=2, left_chunks=2)
    state = model.start(2)
    sizes = set()
    for n in range(60):
        _, state = model.step(tiny.frames([9, 9], n)[0], state, False, [9, 9 * (n % 3 == 0)])
        tensors = (state.pending, *state.keys, *state.values, *state.convs)
        sizes.add(max(tensor.untyped_storage().nbytes() for tensor in tensors))
    assert state.steps == (134, 44)
    assert max(sizes) <= 2 * max(2 * 16 * 8 * 6, 2 * tiny.FEATURES * 8 * (9 + 3 + 7))


@torch.no_grad()
def test_frames_behind_the_end_and_wrong_shapes_are_named() -> None:
    model = tiny.encoder(0, chunk=2)
    frames, _ = tiny.frames([8, 8], 0)
    _, state = model.step(frames, model.start(2), [False, True])
    with pytest.raises(ShapeError, match=r"encoder: row 1: 8 frames behind the stream's end; reset the row first"):
        model.step(frames, state)
    out, _ = model.step(frames, state.reset([1]))
    assert out.lengths.tolist() == [2, 2]
    with pytest.raises(ShapeError, match=r"encoder: 2 rows of frames, 2 lengths and 3 ends, expected 2 of each"):
        model.step(frames, state, [False] * 3)
    with pytest.raises(ShapeError, match=r"encoder: row 0: 9 frames, expected 0 to 8"):
        model.step(frames, state, False, [9, 0])
