"""The loudspeaker, with a made-up PortAudio: what is played, and errors of one line."""

import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from speechmtp.audio.loudspeaker import Loudspeaker
from speechmtp.errors import ConfigError, DataError


class Stream:
    """Keeps what is written."""

    def __init__(self, log: list[Any], **options: Any) -> None:
        self.log = log
        log.append(options)

    def write(self, samples: np.ndarray) -> None:
        self.log.append(samples)

    def __getattr__(self, name: str) -> Any:
        return lambda: self.log.append(name)


def install(monkeypatch: pytest.MonkeyPatch, make: Any) -> None:
    """Put a made-up package in place of sounddevice."""
    found = SimpleNamespace(OutputStream=make, PortAudioError=RuntimeError)
    monkeypatch.setitem(sys.modules, "sounddevice", found)  # type: ignore[arg-type]


def test_samples_are_played_and_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[Any] = []
    install(monkeypatch, lambda **options: Stream(log, **options))
    with Loudspeaker(24000) as speaker:
        speaker.play(np.arange(4, dtype=np.float32) / 8)
    assert log[0] == {"samplerate": 24000, "channels": 1, "dtype": "float32"} and log[1] == "start"
    assert log[2].shape == (4, 1) and log[3:] == ["stop", "close"]  # `stop` waits until all is heard


def test_after_an_error_nothing_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[Any] = []
    install(monkeypatch, lambda **options: Stream(log, **options))
    with pytest.raises(KeyboardInterrupt), Loudspeaker(24000):
        raise KeyboardInterrupt
    assert log[1:] == ["start", "close"]


def test_no_output_and_no_package_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**options: Any) -> None:
        raise RuntimeError("Error querying device -1")

    install(monkeypatch, fail)
    with (
        pytest.raises(DataError, match=r"loudspeaker: none that works \(Error querying device -1\)"),
        Loudspeaker(24000),
    ):
        pass
    monkeypatch.setitem(sys.modules, "sounddevice", None)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"loudspeaker: needs sounddevice.*speechmtp\[mic\]"), Loudspeaker(24000):
        pass
