"""Recognisers in other processes: forked after they computed, or pickled."""

import copy
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import small_audio_lm
import tiny
import torch

import speechmtp
from speechmtp import shared
from speechmtp.errors import ConfigError

NOISE = (0.1 * np.random.default_rng(0).normal(size=16000)).astype(np.float32)


@pytest.fixture
def two_threads() -> Iterator[None]:
    """Two arithmetic threads that have computed, whatever the other tests have."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    torch.ones(1_000_000).exp()
    yield
    torch.set_num_threads(before)


def hold(lock: threading.Lock) -> None:
    """Hold a lock for a moment, as a thread that loads a model does."""
    with lock:
        time.sleep(0.2)


def forked(does: Callable[[], bool]) -> bool:
    """What a function says in a forked process; False if it takes longer than 30 s."""
    child = os.fork()
    if not child:
        said = False
        try:
            said = does()
        finally:
            os._exit(0 if said else 1)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status == 0
        time.sleep(0.02)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


@pytest.fixture(scope="module")
def expected() -> speechmtp.Transcript:
    """What a model says that stays loaded."""
    return speechmtp.transcribe(speechmtp.example("digits"), model="an4")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_transcribes_with_its_parents_models(
    expected: speechmtp.Transcript, two_threads: None
) -> None:
    audio = speechmtp.example("digits")
    other = threading.Thread(target=hold, args=(shared._lock,))
    other.start()
    assert forked(lambda: torch.get_num_threads() == 1 and speechmtp.transcribe(audio, model="an4") == expected)
    other.join()
    assert torch.get_num_threads() == 2


def test_cuda_does_not_go_along_with_a_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    recogniser = speechmtp.load("an4")
    monkeypatch.setattr(recogniser, "device", torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "_is_in_bad_fork", lambda: True)
    with pytest.raises(ConfigError, match=r"audio: Recogniser\(an4 on cuda.* in a forked process.*; load it there, or"):
        recogniser.transcribe(NOISE, 16000)


@pytest.mark.parametrize(
    "write",
    [tiny.write_seq2seq, lambda folder: tiny.write_seq2seq(folder, "whisper"), small_audio_lm.write_audio_lm],
    ids=["moonshine", "whisper", "qwen2_audio"],
)
def test_every_kind_of_recogniser_is_pickled_and_copied(write: Callable[[Path], object], tmp_path: Path) -> None:
    write(tmp_path / "model")
    recogniser = speechmtp.load(tmp_path / "model")
    (tmp_path / "model").rename(tmp_path / "gone")
    expected = recogniser.transcribe(NOISE, 16000)
    assert expected.tokens
    for other in (pickle.loads(pickle.dumps(recogniser)), copy.deepcopy(recogniser)):
        assert other.transcribe(NOISE, 16000) == expected
