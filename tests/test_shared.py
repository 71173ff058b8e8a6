"""The package's own functions: loaded once a process, whatever the thread."""

import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import tiny

import speechmtp
from speechmtp import shared
from speechmtp.errors import ConfigError, DataError

RATE = 16000
NOISE = 0.1 * np.random.default_rng(0).normal(size=RATE)


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """What is loaded, counted; nothing is kept from before."""
    monkeypatch.setattr(shared, "_loaded", {})
    counted: list[tuple[str, ...]] = []
    load = shared.load

    def counting(model: str, device: str, dtype: str) -> speechmtp.Recogniser:
        counted.append((model, device, dtype))
        return load(model, device, dtype)

    monkeypatch.setattr(shared, "load", counting)
    return counted


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny.write_seq2seq(tmp_path / "model")


def test_a_model_is_loaded_once_by_its_folder_and_options(
    folder: Path, loads: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = speechmtp.load(str(folder), device="cpu").transcribe(NOISE, RATE)
    found = [speechmtp.transcribe(NOISE, RATE, model=str(folder), device="cpu") for _ in range(2)]
    monkeypatch.chdir(folder.parent)
    found.append(speechmtp.transcribe(NOISE, RATE, model="model", device="cpu"))
    found += speechmtp.transcribe_many([NOISE, NOISE], RATE, model=f"{folder}/../model", device="cpu")
    assert found == [expected] * 5 and len(loads) == 1
    speechmtp.transcribe(NOISE, RATE, model="model", device="cpu", dtype="float64")
    assert [dtype for *_, dtype in loads] == ["float32", "float64"]
    assert speechmtp.load("model") is not speechmtp.load("model"), "load always gives one of its own"


def test_a_folder_that_was_written_anew_is_loaded_anew(folder: Path, loads: list[tuple[str, ...]]) -> None:
    before = speechmtp.transcribe(NOISE, RATE, model=str(folder), device="cpu")
    tiny.write_seq2seq(folder, seed=1)
    os.utime(folder / "model.safetensors", ns=(1, 1))  # whatever the clock's steps
    after = speechmtp.transcribe(NOISE, RATE, model=str(folder), device="cpu")
    assert len(loads) == 2 and before.tokens != after.tokens
    assert after == speechmtp.load(str(folder), device="cpu").transcribe(NOISE, RATE)


def test_threads_load_it_once(folder: Path, loads: list[tuple[str, ...]]) -> None:
    found: list[str] = []
    start = threading.Barrier(4)

    def work() -> None:
        start.wait()
        found.append(str(speechmtp.transcribe(NOISE, RATE, model=str(folder))))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(loads) == 1 and len(set(found)) == 1 and len(found) == 4


def test_the_default_is_the_embedded_model(loads: list[tuple[str, ...]]) -> None:
    path = speechmtp.example("digits")
    found = [speechmtp.transcribe(path), *speechmtp.transcribe_many([path, path.read_bytes()])]
    assert found[0] == found[1] == found[2] and "four" in str(found[0]).lower()
    assert [model for model, *_ in loads] == ["default"]


def test_mistakes_are_those_of_a_recogniser(loads: list[tuple[str, ...]], folder: Path) -> None:
    with pytest.raises(ConfigError, match="samples need their rate"):
        speechmtp.transcribe(NOISE, model=str(folder))
    with pytest.raises(ConfigError, match="a single one goes to transcribe"):
        speechmtp.transcribe_many("a.wav", model=str(folder))
    [error] = speechmtp.transcribe_many(["none.wav"], model=str(folder), on_error="return")
    assert isinstance(error, DataError) and "none.wav" in str(error)


def test_a_dozen_names_at_most_and_no_work_at_import() -> None:
    assert len(speechmtp.__all__) <= 12
    for name in speechmtp.__all__:
        assert getattr(speechmtp, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'recognise'"):
        _ = speechmtp.recognise
    code = (
        "import sys, speechmtp; from speechmtp import SpeechMTPError\n"
        "loaded = [m for m in sys.modules if m.startswith('speechmtp')]\n"
        "assert not {'torch', 'numpy', 'transformers'} & set(sys.modules), loaded"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_error_of_every_kind_is_caught_by_its_base() -> None:
    with pytest.raises(speechmtp.SpeechMTPError):
        speechmtp.example("none")
    assert pickle.loads(pickle.dumps(DataError("one line"))).args == ("one line",)
