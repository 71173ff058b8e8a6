"""Encoder: streaming equals offline, chunks hide the future, padding changes nothing."""

import pytest
import tiny
import torch

from speechmtp.errors import ConfigError, ShapeError
from speechmtp.models.encoder import Encoder, EncoderConfig, EncoderOutput, EncoderState
from speechmtp.models.masks import chunk_mask

CHUNKS = [(1, 0), (2, 1), (3, -1), (4, 2), (8, 0)]  # chunk, left_chunks


def stream(model: Encoder, frames: torch.Tensor, cuts: list[int]) -> EncoderOutput:
    """Feed [B, T, F] in pieces of the given sizes (the last takes the rest) and join what comes out."""
    pieces: list[EncoderOutput] = []
    state: EncoderState = model.start(len(frames))
    at = 0
    for size in [*cuts, frames.shape[1]]:
        piece, state = model.step(frames[:, at : at + size], state)
        pieces.append(piece)
        at = min(at + size, frames.shape[1])
    piece, state = model.step(frames[:, :0], state, last=True)
    pieces = [p for p in [*pieces, piece] if p.states.shape[1]]
    return EncoderOutput(
        torch.cat([p.states for p in pieces], 1), torch.cat([p.logits for p in pieces], 1),
        torch.stack([p.lengths for p in pieces]).sum(0),
        [torch.cat([p.inter[i] for p in pieces], 1) for i in range(len(pieces[0].inter))],
    )  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize(("chunk", "left"), CHUNKS)
@pytest.mark.parametrize("seed", range(3))
def test_streaming_equals_offline_for_any_cutting(chunk: int, left: int, seed: int) -> None:
    model = tiny.encoder(seed, chunk=chunk, left_chunks=left)
    frames, lengths = tiny.frames([61 + seed, 61 + seed], seed)
    cuts = torch.randint(0, 17, (8,), generator=tiny.generator(seed)).tolist()
    offline, streamed = model(frames, lengths), stream(model, frames, cuts)
    assert streamed.lengths.tolist() == offline.lengths.tolist() == [15, 15]
    torch.testing.assert_close(streamed.states, offline.states, rtol=0, atol=1e-5)
    torch.testing.assert_close(streamed.logits, offline.logits, rtol=0, atol=1e-5)
    assert len(streamed.inter) == len(offline.inter) == 1
    torch.testing.assert_close(streamed.inter[0], offline.inter[0], rtol=0, atol=1e-5)


@torch.no_grad()
def test_streaming_equals_offline_in_float32_with_the_default_sizes() -> None:
    torch.manual_seed(0)
    model = Encoder(EncoderConfig(chunk=8, left_chunks=2), 30).eval()
    frames = torch.randn(1, 203, 80, generator=tiny.generator(0))
    offline, streamed = model(frames, torch.tensor([203])), stream(model, frames, [1, 70, 33])
    torch.testing.assert_close(streamed.states, offline.states, rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_stream_gives_whole_chunks_only_until_its_end() -> None:
    model = tiny.encoder(0, chunk=4, left_chunks=1)
    frames, _ = tiny.frames([43], 0)
    state = model.start(1)
    sizes = []
    for at in range(43):
        piece, state = model.step(frames[:, at : at + 1], state)
        sizes.append(piece.states.shape[1])
    # Step j needs frames up to 4j + 3: a chunk of 4 is complete at frame 15 and at frame 31.
    assert [at for at, size in enumerate(sizes) if size] == [15, 31] and set(sizes) == {0, 4}
    piece, state = model.step(frames[:, :0], state, last=True)
    assert piece.states.shape[1] == 2 and state.steps == (43 // 4,)


def test_chunk_mask_against_its_definition() -> None:
    for chunk, left in [*CHUNKS, (3, 1)]:
        mask = chunk_mask(11, chunk, left)
        for i in range(11):
            for j in range(11):
                inside = j // chunk <= i // chunk and (left < 0 or j // chunk >= i // chunk - left)
                assert bool(mask[i, j]) == inside, (chunk, left, i, j)
    assert bool(chunk_mask(5, 0, 0).all()), "no chunks: everything is seen"


@torch.no_grad()
@pytest.mark.parametrize(("chunk", "left"), CHUNKS)
def test_the_future_never_changes_past_chunks(chunk: int, left: int) -> None:
    model = tiny.encoder(1, chunk=chunk, left_chunks=left)
    frames, lengths = tiny.frames([64], 1)
    before = model(frames, lengths).states
    for step in (3, 8, 15):
        changed = frames.clone()
        changed[:, 4 * step :] += 5
        after = model(changed, lengths).states
        # Step j reads frames 4j-3..4j+3, so the first step that may differ opens the chunk of `step`.
        first = step // chunk * chunk
        assert torch.equal(after[:, :first], before[:, :first]), (chunk, step)
        assert float((after[:, step] - before[:, step]).abs().max()) > 1e-3


@torch.no_grad()
def test_left_chunks_bound_what_attention_sees() -> None:
    frames, lengths = tiny.frames([64], 2)
    changed = frames.clone()
    changed[:, :4] += 5  # reaches encoder steps 0 and 1
    moved = {}
    for left in (0, 1, -1):
        model = tiny.encoder(2, layers=1, kernel=1, inter_ctc=(), chunk=4, left_chunks=left)
        difference = (model(changed, lengths).states - model(frames, lengths).states).abs().amax((0, 2))
        moved[left] = int(difference.gt(1e-9).nonzero().max())
    assert moved == {0: 3, 1: 7, -1: 15}, "one layer without convolution sees its own chunk and those to the left"


@torch.no_grad()
@pytest.mark.parametrize("chunk", [0, 4])
def test_pitfall_12_padding_a_batch_row_equals_the_row_alone(chunk: int) -> None:
    model = tiny.encoder(3, chunk=chunk)
    sizes = [50, 23, 8, 37, 4]
    frames, lengths = tiny.frames(sizes, 3)
    batch = model(frames, lengths)
    assert batch.lengths.tolist() == [size // 4 for size in sizes]
    for row, size in enumerate(sizes):
        alone = model(frames[row : row + 1, :size], lengths[row : row + 1])
        torch.testing.assert_close(batch.states[row, : size // 4], alone.states[0], rtol=0, atol=1e-5)
        torch.testing.assert_close(batch.logits[row, : size // 4], alone.logits[0], rtol=0, atol=1e-5)


@torch.no_grad()
def test_very_short_audio_has_no_steps_and_no_error() -> None:
    model = tiny.encoder(0)
    for size in range(4):
        out = model(*tiny.frames([size], 0))
        assert out.lengths.tolist() == [0] and bool(out.states.isfinite().all())


@torch.no_grad()
def test_statistics_are_applied_once() -> None:
    model = tiny.encoder(4)
    frames, lengths = tiny.frames([20], 4)
    ready = (frames - model.mean) / model.std
    assert torch.equal(model(frames, lengths).states, model(ready, lengths, normalised=True).states)
    shifted = model(frames + 1, lengths).states
    assert float((shifted - model(frames, lengths).states).abs().max()) > 1e-3


def test_intermediate_posteriors_are_fed_back() -> None:
    model = tiny.encoder(5)
    frames, lengths = tiny.frames([20], 5)
    before = model(frames, lengths)
    with torch.no_grad():
        model.feedback.weight.mul_(-1)
    after = model(frames, lengths)
    assert torch.equal(before.inter[0], after.inter[0])
    assert not torch.allclose(before.logits, after.logits)


def test_fault_06_blocks_own_their_weights() -> None:
    model = tiny.encoder(6)
    weights = [weight.data_ptr() for weight in model.parameters()]
    assert len(set(weights)) == len(weights)
    assert len({id(block) for block in model.blocks}) == 2


def test_wrong_shapes_and_settings_are_named() -> None:
    model = tiny.encoder(0)
    with pytest.raises(ShapeError, match=r"encoder: frames \(1, 9, 7\), expected \[B, T, 16\]"):
        model(torch.zeros(1, 9, 7).double(), torch.tensor([9]))
    with pytest.raises(ConfigError, match="streaming needs chunk > 0"):
        model.start()
    with pytest.raises(ConfigError, match="width 15 must be an even multiple of heads 2"):
        EncoderConfig(width=15, heads=2)
