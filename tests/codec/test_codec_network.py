"""The networks of `unit25`: all quanta beside each other as one by one, and what units see of each other."""

import numpy as np
import torch

from speechmtp.codec.network import sentence_view, word_view
from speechmtp.training.tasks.codec_data import stack_views
from tests.codec.codec_scenes import random_spans, tiny_codec

CODEC = tiny_codec()
AHEAD = CODEC.config.ahead


@torch.inference_mode()
def test_quanta_beside_each_other_are_quanta_one_by_one() -> None:
    torch.manual_seed(0)
    frames = torch.randn(2, 5 * 16 + AHEAD, CODEC.decoder.inputs)
    mask = (torch.arange(frames.shape[1]) < 70).float()[None, :, None].expand(2, -1, 1)
    windows, masks = (one.unfold(1, 16 + AHEAD, 16).transpose(2, 3) for one in (frames, mask))
    whole, last = CODEC.decoder(windows, masks, CODEC.decoder.start(2), AHEAD)
    left, parts = CODEC.decoder.start(2), []
    for quantum in range(5):
        at = slice(quantum, quantum + 1)
        one, left = CODEC.decoder(windows[:, at], masks[:, at], left, AHEAD)
        parts.append(one)
    assert torch.allclose(torch.cat(parts, 1), whole, atol=1e-5)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(left, last))


@torch.inference_mode()
def test_a_window_over_everything_is_the_network_without_windows() -> None:
    """Against convolutions of PyTorch over all frames."""
    torch.manual_seed(1)
    decoder, frames = CODEC.decoder, torch.randn(1, 40, CODEC.decoder.inputs)
    found, _ = decoder(frames[:, None], torch.ones(1, 1, 40, 1), decoder.start(), 0)
    taps = decoder.dec_in.weight.unflatten(1, (7, -1)).transpose(1, 2)
    hidden = torch.nn.functional.conv1d(frames.transpose(1, 2), taps, decoder.dec_in.bias, padding=3)
    for block in decoder.dec:
        mixed = torch.nn.functional.conv1d(
            hidden, block.taps.T[:, None], block.taps_bias, padding=3, groups=len(block.gamma)
        )
        inner = torch.nn.functional.gelu(block.pw1(block.norm(mixed.transpose(1, 2))))
        hidden = hidden + (block.gamma * block.pw2(inner)).transpose(1, 2)
    wanted = decoder.head(decoder.dec_norm(hidden.transpose(1, 2)))
    assert torch.allclose(found[0, 0].flatten(1), wanted[0], atol=1e-4)


@torch.inference_mode()
def test_units_see_one_word_ahead_and_all_before() -> None:
    spans = random_spans(0, words=6)
    words = spans.words
    before = CODEC.encoder(word_view(spans.ids.tolist(), words.tolist()))[0]
    for word in range(6):
        ids = spans.ids.copy()
        ids[words == word] = 19
        after = CODEC.encoder(word_view(ids.tolist(), words.tolist()))[0]
        seen = {int(w) for w in words[((after - before).abs().amax(1) > 0).numpy()]}
        assert seen == set(range(max(0, word - 1), 6)), word
    whole = CODEC.encoder(sentence_view(spans.ids.tolist()))[0]
    ids = spans.ids.copy()
    ids[-2] = 1 + ids[-2] % 18
    assert (CODEC.encoder(sentence_view(ids.tolist()))[0] - whole).abs().amax(1).min() > 0


@torch.inference_mode()
def test_the_last_two_words_are_read_as_in_a_sentence_of_their_own_view() -> None:
    """Where a sentence has two words, the first sees everything, and so it is what the whole sentence gives it."""
    ids, words = [0, 3, 4, 5, 6, 0], [0, 0, 0, 1, 1, 1]
    by_word = CODEC.encoder(word_view(ids, words))[0]
    assert (by_word[3:] - CODEC.encoder(sentence_view(ids))[0][3:]).abs().max() > 0  # the past is as it was read
    one = CODEC.encoder(word_view(ids, [0] * 6))[0]
    assert torch.allclose(one, CODEC.encoder(sentence_view(ids))[0], atol=1e-5)


@torch.inference_mode()
def test_padded_sentences_are_as_alone() -> None:
    views = [word_view(s.ids.tolist(), s.words.tolist()) for s in (random_spans(1, 3), random_spans(2, 7))]
    views.append(sentence_view([0, 4, 0]))
    together = CODEC.encoder(stack_views(views))
    for row, view in zip(together, views):
        assert torch.allclose(row[: view.size], CODEC.encoder(view)[0], atol=1e-5)
    assert np.isfinite(together.numpy()).all()
