"""The microphone, by a sounddevice that is made up."""

import sys
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from speechmtp.audio.microphone import open_microphone
from speechmtp.audio.resampling import StreamResampler
from speechmtp.errors import AudioWarning, ConfigError, DataError, SpeechMTPError


class PortAudioError(Exception):
    pass


class Device:
    """Stands in for the package sounddevice: `sound` [n] is heard once, then the stream ends."""

    PortAudioError = PortAudioError

    def __init__(self, sound: np.ndarray, rate: float = 48000.0, status: str = "") -> None:
        self.sound, self.rate, self.status = sound, rate, status
        self.open = 0
        self.asked: dict[str, Any] = {}

    def query_devices(self, kind: str) -> dict[str, Any]:
        assert kind == "input"
        return {"name": "Headset", "default_samplerate": self.rate}

    def InputStream(self, **asked: Any) -> Any:
        self.asked, device = asked, self

        def play() -> None:
            for start in range(0, len(device.sound), asked["blocksize"]):
                block = device.sound[start : start + asked["blocksize"], None]
                asked["callback"](block, len(block), SimpleNamespace(), device.status)
            asked["finished_callback"]()

        class Stream:
            def __enter__(self) -> None:
                device.open += 1
                threading.Thread(target=play).start()

            def __exit__(self, *error: object) -> None:
                device.open -= 1

        return Stream()


def take_all(blocks: Iterator[np.ndarray], device: Device | None = None) -> list[np.ndarray]:
    """All blocks until the microphone stops; the device is open meanwhile."""
    found = list[np.ndarray]()

    def take() -> None:
        for block in blocks:
            found.append(block)
            assert block.dtype == np.float32 and (device is None or device.open == 1)

    with pytest.raises(DataError, match="microphone: Headset has stopped"):
        take()
    return found


def test_a_microphone_is_heard_at_the_rate_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    sound = np.random.default_rng(0).normal(0, 0.1, 48000).astype(np.float32)
    device = Device(sound)
    monkeypatch.setitem(sys.modules, "sounddevice", device)
    found = take_all(open_microphone(16000), device)
    expected = StreamResampler(48000.0, 16000).push(sound)
    np.testing.assert_array_equal(np.concatenate(found), expected)
    assert device.open == 0 and device.asked["channels"] == 1 and device.asked["samplerate"] == 48000.0
    device.rate = 16000.0
    blocks = open_microphone(16000)
    np.testing.assert_array_equal(next(blocks), sound[:800])
    blocks.close()
    assert device.open == 0, "closed with the last block that was wanted"


def test_lost_audio_is_a_warning_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", Device(np.zeros(20000, np.float32), 16000.0, "input overflow"))
    with pytest.warns(AudioWarning, match="audio was lost .input overflow.") as warned:
        take_all(open_microphone(16000))
    assert len(warned) == 1


def missing(error: Exception) -> Any:
    """A query for devices that fails."""

    def query(kind: str) -> Any:
        raise error

    return query


@pytest.mark.parametrize("error", [PortAudioError("Error querying device -1"), ValueError("No input device")])
def test_no_microphone_is_one_line(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device(np.zeros(1, np.float32))
    monkeypatch.setattr(device, "query_devices", missing(error), raising=False)
    monkeypatch.setitem(sys.modules, "sounddevice", device)
    with pytest.raises(DataError, match=f"^microphone: none that works .{error}.*; plug one in"):
        next(open_microphone(16000))


def test_a_microphone_that_cannot_be_opened_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device(np.zeros(1, np.float32))
    monkeypatch.setattr(device, "InputStream", lambda **asked: missing(PortAudioError("busy\n[9]"))("input"))
    monkeypatch.setitem(sys.modules, "sounddevice", device)
    with pytest.raises(DataError, match=r"none that works .busy \[9\]"):
        next(open_microphone(16000))


def test_a_rate_of_zero_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", Device(np.zeros(1, np.float32), 0.0))
    with pytest.raises(DataError, match="Headset has a rate of 0 Hz"):
        next(open_microphone(16000))


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(ConfigError, match=r"pip install 'speechmtp\[mic\]'"):
        next(open_microphone(16000))

    class Finder:
        def find_spec(self, name: str, path: Any, target: Any = None) -> None:
            if name == "sounddevice":
                raise OSError("PortAudio library not found")

    monkeypatch.delitem(sys.modules, "sounddevice")
    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
    with pytest.raises(SpeechMTPError, match=r"^microphone: needs PortAudio .PortAudio library not found.; install it"):
        next(open_microphone(16000))
