"""Linear maps in 8 bits for drafts: near the float map, and never in the text."""

import copy

import pytest
import torch

import speechmtp
from speechmtp.decoding.strategies import parse_strategy
from speechmtp.errors import ConfigError
from speechmtp.kernels.cpu.int8_linear import Int8Linear, has_int8, in_int8, quantise
from tests import tiny

pytestmark = pytest.mark.skipif(not has_int8(), reason="this build of PyTorch has no 8-bit kernels")


def test_a_map_is_that_of_its_stored_weights_on_inputs_of_seven_bits() -> None:
    rng = tiny.generator(0)
    weight, bias, x = (
        torch.randn(50, 16, generator=rng),
        torch.randn(50, generator=rng),
        torch.randn(3, 4, 16, generator=rng),
    )
    integers, scale = quantise(weight)
    stored = integers.float() * scale[:, None]
    found = Int8Linear(weight, bias)(x)
    step = float(x.max().clamp_min(0) - x.min().clamp_max(0)) / 127
    most = (stored.abs().sum(1) * 1.01 * step).expand_as(found)
    assert found.shape == (3, 4, 50) and bool(((found - (x @ stored.T + bias)).abs() <= most).all())
    assert not torch.equal(found, x @ stored.T + bias)
    torch.testing.assert_close(Int8Linear(stored, bias)(x), found)  # rounding again changes nothing


def test_every_map_inside_is_put_in_place() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Sequential(torch.nn.SiLU(), torch.nn.Linear(8, 2)))
    plain, x = copy.deepcopy(module), torch.randn(5, 4, generator=tiny.generator(1))
    in_int8(module)
    assert not [m for m in module.modules() if isinstance(m, torch.nn.Linear)]
    assert float((module(x) - plain(x)).detach().abs().max()) < 0.1


@pytest.mark.parametrize("strategy", ["verify", "tree:paths=0.1.00.01", "threshold:theta=0.5", "ctc-heads"])
def test_drafts_in_int8_leave_every_exact_text_as_it_is(strategy: str) -> None:
    audio = speechmtp.example("digits")
    plain, quick = speechmtp.load("an4"), speechmtp.load("an4", drafts="int8")
    assert not [m for m in quick.bundle.heads["latent"].modules() if isinstance(m, torch.nn.Linear)]
    chosen = parse_strategy(strategy)
    expected = plain.transcribe(audio, strategy="ar" if chosen.exact else strategy)
    found = quick.transcribe(audio, strategy=strategy)
    assert found.tokens == expected.tokens and found.trace.calls < len(expected.tokens)


def test_where_it_cannot_be_is_one_line_and_the_folders_wish_is_passed_over() -> None:
    with pytest.raises(ConfigError, match="drafts='int8': needs a CPU and float32, found cpu and float64"):
        speechmtp.load("an4", dtype="float64", drafts="int8")
    assert speechmtp.load("default").int8_drafts
    assert not speechmtp.load("default", dtype="float64").int8_drafts
    assert not speechmtp.load("default", drafts="float32").int8_drafts
