"""Log probabilities of what was said, under the trunk's distribution, against transformers' own forward pass."""

import numpy as np
import pytest
import tiny
import torch

import speechmtp
from speechmtp.api import Recogniser
from speechmtp.decoding.engine import Recorded
from speechmtp.decoding.sampling import SamplingConfig
from speechmtp.decoding.strategies import parse_strategy

RATE = 16000


def speech(seconds: float, seed: int) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).normal(size=round(seconds * RATE))).astype(np.float32)


@pytest.fixture(scope="module")
def recogniser(tmp_path_factory: pytest.TempPathFactory) -> Recogniser:
    """A tiny Moonshine in float64 with heads."""
    plain = speechmtp.load(str(tiny.write_seq2seq(tmp_path_factory.mktemp("tiny"), seed=2)), "cpu", "float64")
    plain.bundle.heads["own"] = tiny.heads("latent", 3, shape=plain.bundle.model.trunk.shape)
    return plain


def expected(recogniser: Recogniser, audio: np.ndarray, tokens: tuple[int, ...], temperature: float) -> list[float]:
    """By one forward pass over the finished text."""
    model = recogniser.bundle.model.trunk.model
    ids = torch.tensor([[tiny.BOS, *tokens]])
    with torch.no_grad():
        logits = model(input_values=torch.from_numpy(audio).double()[None], decoder_input_ids=ids[:, :-1]).logits[0]
    probs = (logits / temperature).log_softmax(-1)
    return [float(probs[place, token]) for place, token in enumerate(tokens)]


@pytest.mark.parametrize("temperature", [0.0, 1.7])
@pytest.mark.parametrize("strategy", ["ar", "verify", "tree"])
def test_logprobs_are_the_trunks(recogniser: Recogniser, strategy: str, temperature: float) -> None:
    audios = [speech(1.0, 0), speech(2.3, 1), speech(0.7, 2)]
    requests = [recogniser.listen(audio) for audio in audios]
    sampling = SamplingConfig(temperature=temperature, seed=4)
    results = recogniser.decode(requests, parse_strategy(strategy), sampling, Recorded(logprobs=True))
    for audio, result in zip(audios, results):
        assert len(result.trace.logprobs) == len(result.tokens) == result.trace.emitted > 0
        wanted = expected(recogniser, audio, result.tokens, temperature or 1.0)
        assert result.trace.logprobs == pytest.approx(wanted, abs=1e-9)


def test_they_are_recorded_only_where_they_are_asked_for(recogniser: Recogniser) -> None:
    audio = speech(1.0, 0)
    [result] = recogniser.decode([recogniser.listen(audio)], parse_strategy("verify"))
    assert result.trace.logprobs == []
    assert recogniser.transcribe(audio, RATE).segments[0].mean_logprob is None


def test_means_of_segments(recogniser: Recogniser) -> None:
    audio = np.concatenate([speech(20.0, 0), np.zeros(RATE, np.float32), speech(10.0, 1)])
    plain = recogniser.transcribe(audio, RATE, "verify")
    found = recogniser.transcribe(audio, RATE, "verify", logprobs=True)
    assert len(found.segments) == 2 and found.tokens == plain.tokens and found.trace.calls == plain.trace.calls
    start = 0
    for segment in found.segments:
        mine = found.trace.logprobs[start : start + len(segment.tokens)]
        assert segment.mean_logprob == pytest.approx(np.mean(mine)) and segment.mean_logprob < 0
        start += len(segment.tokens)
    assert start == len(found.trace.logprobs)


def test_none_where_no_trunk_was_called() -> None:
    an4 = speechmtp.load("an4")
    path = speechmtp.example("digits")
    assert an4.transcribe(path, strategy="ctc-only", logprobs=True).segments[0].mean_logprob is None
    sure = an4.transcribe(path, logprobs=True).segments[0].mean_logprob
    assert sure is not None and -0.5 < sure < 0
    assert an4.transcribe(path, strategy="ar", logprobs=True).segments[0].mean_logprob == pytest.approx(sure, abs=1e-4)
