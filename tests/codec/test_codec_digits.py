"""Learned digits: rounding, its gradient, and training that uses them."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from speechmtp.codec.curves import Curves
from speechmtp.codec.digits import DigitEncoder, codes_of, quantise
from speechmtp.codec.levels import LevelConfig
from speechmtp.codec.unit25 import Unit25Codec, Unit25Config
from tests.codec.codec_scenes import TINY, random_spans, random_tokens


@pytest.mark.parametrize("size", [2, 3, 4, 5, 8])
def test_a_sweep_reaches_every_digit_and_codes_are_its_own(size: int) -> None:
    codes, digits = quantise(torch.linspace(-9, 9, 4001)[:, None], [size])
    assert sorted(set(digits.flatten().tolist())) == list(range(size))
    assert torch.allclose(codes, codes_of(digits, size), atol=1e-6) and codes.abs().max() <= 1
    with torch.autocast("cpu", torch.bfloat16):
        again = quantise(torch.linspace(-9, 9, 4001)[:, None], [size])[1]
    assert torch.equal(again, digits)


def test_the_gradient_passes_the_rounding() -> None:
    values = torch.zeros(5, 2, requires_grad=True)
    quantise(values, [3, 4])[0].sum().backward()
    assert values.grad is not None and (values.grad > 0).all()


def test_a_digit_reads_its_token_and_four_on_either_side() -> None:
    torch.manual_seed(0)
    encoder = DigitEncoder([5, 5])
    samples = torch.randn(1, 20 * 960)
    other = samples.clone()
    other[0, 10 * 960 + 300 : 10 * 960 + 600] += 3
    found: list[torch.Tensor] = []
    encoder.output.register_forward_hook(lambda module, given, out: found.append(out))
    encoder(samples), encoder(other)
    changed = np.flatnonzero((found[0] - found[1]).abs().amax(-1)[0].detach().numpy() > 1e-5)
    assert {9, 10, 11} < set(changed.tolist()) <= set(range(5, 16))  # windows reach into the tokens beside
    assert encoder(samples[:, :-700])[1].shape == (1, 20, 2)


def codec_with_digits() -> Unit25Codec:
    torch.manual_seed(0)
    return Unit25Codec(Unit25Config(network=replace(TINY, digits=2), levels=LevelConfig(f0=9, digits=(3, 4)))).eval()


def test_digits_are_heard_and_encoding_finds_them(monkeypatch: pytest.MonkeyPatch) -> None:
    codec, spans = codec_with_digits(), random_spans(1)
    assert codec.size == 9 * 12 * 12 and codec.token(2, 3) == 2 + 9 * 3 + 108 * 1 + 324 * 2
    tokens = random_tokens(codec, spans)
    assert np.array_equal(codec.decode(tokens, spans), codec.decode(tokens, spans))
    other = [token % 108 for token in tokens]
    assert not np.array_equal(codec.decode(tokens, spans), codec.decode(other, spans))
    curves = Curves(np.full(99, 200.0), np.full(199, 7.0))
    monkeypatch.setattr("speechmtp.codec.unit25.measure", lambda samples: curves)
    samples = np.random.default_rng(0).normal(size=spans.samples).astype(np.float32)
    found = codec.encode(samples, spans)
    assert found.shape == (spans.tokens,) and (found % 108 == found[0] % 108).all()
    with torch.inference_mode():
        _, digits = codec.digits(torch.from_numpy(samples)[None])  # type: ignore[misc]
    assert (found // 108 == digits[0, :, 0].numpy() + 3 * digits[0, :, 1].numpy()).all()


def test_training_reaches_the_digits() -> None:
    from speechmtp.codec.network import word_view
    from speechmtp.training.tasks.codec import compared, render, spectral_loss
    from speechmtp.training.tasks.codec_data import CodecBatch

    codec = codec_with_digits().train()
    torch.manual_seed(0)
    batch = CodecBatch(
        word_view([0, 3, 0], [0, 0, 0]), torch.ones(1, 3, 22, dtype=torch.long), torch.ones(1, 3, 22, 1),
        torch.full((1, 3, 8), 70), 0.1 * torch.randn(1, 3 * 4800),
    )  # fmt: skip
    spectral_loss(render(codec, batch), compared(batch), 1.0)[0].backward()
    assert codec.digits is not None
    for name, value in codec.digits.named_parameters():
        assert value.grad is not None and value.grad.abs().sum() > 0, name
