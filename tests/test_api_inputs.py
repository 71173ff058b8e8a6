"""What a user of the Python interface may do wrong, or at once."""

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import speechmtp
from speechmtp.api import Recogniser, mono
from speechmtp.bundle import save_bundle
from speechmtp.decoding.strategies import parse_strategy
from speechmtp.errors import CheckpointError, ConfigError, DataError


@pytest.fixture(scope="module")
def default() -> Recogniser:
    return speechmtp.load()


def test_integers_are_samples_of_their_type_unsigned_ones_around_its_middle() -> None:
    assert mono(np.array([0, 128, 255], np.uint8)).tolist() == [-1, 0, 127 / 128]
    assert mono(np.array([-(2**15), 0, 2**14], np.int16)).tolist() == [-1, 0, 0.5]
    assert mono(np.array([0, 2**31], np.uint32)).tolist() == [-1, 0]


def test_mistakes_are_one_line(default: Recogniser) -> None:
    with pytest.raises(DataError, match="a list, expected a path or a numpy array"):
        default.transcribe([0.0, 0.1], 16000)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="a Tensor, expected a path"):
        default.transcribe(torch.zeros(16000), 16000)  # type: ignore[arg-type]
    for one in ("a.wav", Path("a.wav")):
        with pytest.raises(ConfigError, match=r"a\.wav, expected a list of recordings"):
            next(default.recognise_many(one))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="batch=0, expected 1 or more"):
        next(default.recognise_many(["a.wav"], batch=0))
    with pytest.raises(ConfigError, match="--device gpu: not available here"):
        speechmtp.load(device="gpu")
    with pytest.raises(ConfigError, match="--drafts int16: expected one of float32, int8"):
        speechmtp.load(drafts="int16")


def test_a_folders_strategy_that_its_heads_cannot_run_is_passed_over(default: Recogniser) -> None:
    for named in ("verify:heads=other", "verify:depth=9", "oracle", "previous", "draft-model"):
        config = replace(default.bundle.config, strategy=named)
        other = Recogniser(replace(default.bundle, config=config), default.device, default.dtype)
        assert other.default_strategy.label == "verify:depth=7", named


def test_heads_that_draft_in_int8_are_not_stored(default: Recogniser, tmp_path: Path) -> None:
    if not default.int8_drafts:
        pytest.skip("this build of PyTorch has no 8-bit kernels")
    with pytest.raises(CheckpointError, match="load them with drafts='float32'"):
        save_bundle(default.bundle, tmp_path / "model")


def test_the_ctc_heads_text_is_flagged_as_any_other(default: Recogniser) -> None:
    silent = default.recognise(np.zeros(16000, np.float32), 16000, "ctc-only")
    assert silent.text == "" and "empty" in silent.trace.flags


@pytest.mark.parametrize("within", [False, True])
def test_models_load_and_hear_in_inference_mode(within: bool) -> None:
    audio = speechmtp.example("digits")
    expected = speechmtp.load().recognise(audio).tokens
    with torch.inference_mode():
        model = speechmtp.load()
        if within:
            assert model.recognise(audio).tokens == expected
    assert model.recognise(audio).tokens == expected


def test_threads_may_share_a_model(default: Recogniser) -> None:
    """Batches of different shapes at the same time; heads that read layers of the trunk."""
    samples, _ = default._read(speechmtp.example("digits"), None)
    heard = [default.listen(samples), default.listen(samples[: len(samples) // 2])]
    batches = [[heard[0]], [heard[1], heard[0], heard[1]]]
    strategies = [parse_strategy("verify"), parse_strategy("threshold:theta=0.5")]
    expected = [[r.tokens for r in default.decode(b, s)] for b, s in zip(batches, strategies)]
    wrong: list[object] = []

    def work(number: int) -> None:
        try:
            for _ in range(6):
                found = [r.tokens for r in default.decode(batches[number], strategies[number])]
                wrong.extend([] if found == expected[number] else [found])
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in (0, 1, 0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
