"""Features of a data directory: computed once, the oldest given up beyond the limit, padded for a batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from speechmtp.audio.augment import speed_perturb
from speechmtp.audio.features import Fbank
from speechmtp.data.feature_store import FeatureStore, pad
from speechmtp.data.kaldi import Utterance, read_data_dir


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ids whose audio was read, in order."""
    read: list[str] = []
    load = Utterance.load

    def counted(self: Utterance, rate: int = 16000, allow_pipes: bool = False) -> np.ndarray:
        read.append(self.id)
        return load(self, rate, allow_pipes)

    monkeypatch.setattr(Utterance, "load", counted)
    return read


def test_features_are_those_of_the_audio_in_half_precision(good: Path) -> None:
    data, fbank = read_data_dir(good), Fbank()
    store = FeatureStore(data, fbank)
    audio = data["a-2"].load()
    for speed in (1.0, 0.9):
        heard = audio if speed == 1.0 else speed_perturb(audio, 16000, speed)
        expected = fbank(torch.from_numpy(heard)[None])[0][0]
        found = store.get("a-2", speed)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-2)


def test_audio_is_read_once_an_utterance_and_speed(good: Path, loads: list[str]) -> None:
    store = FeatureStore(read_data_dir(good), Fbank())
    first = store.get("a-1")
    assert torch.equal(store.get("a-1"), first)
    store.get("a-1", 1.1)
    store.get("b-1")
    store.get("a-1", 1.1)
    assert loads == ["a-1", "a-1", "b-1"]


def test_the_least_recently_used_leave_first(good: Path, loads: list[str]) -> None:
    data = read_data_dir(good)
    size = FeatureStore(data, Fbank()).get("a-1").numel() * 2 / 1e6  # megabytes in half precision
    loads.clear()
    store = FeatureStore(data, Fbank(), limit_mb=2.5 * size)
    for name in ("a-1", "a-2", "a-1", "b-1", "a-1", "a-2"):
        store.get(name)
    assert loads == ["a-1", "a-2", "b-1", "a-2"]
    alone = FeatureStore(data, Fbank(), limit_mb=0.0)
    assert torch.equal(alone.get("b-2"), alone.get("b-2"))


def test_padding_keeps_rows_and_says_their_lengths() -> None:
    rows = [torch.ones(2, 3), torch.full((4, 3), 2.0)]
    frames, lengths = pad(rows, fill=-1.0)
    assert frames.shape == (2, 4, 3) and lengths.tolist() == [2, 4]
    assert torch.equal(frames[0, :2], rows[0]) and torch.equal(frames[1], rows[1])
    assert (frames[0, 2:] == -1.0).all()
