"""What a user of the Python interface may do wrong, or at once."""

import copy
import io
import pickle
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import speechmtp
from speechmtp import devices
from speechmtp.api import Recogniser
from speechmtp.audio.io import read_audio
from speechmtp.bundle import save_bundle
from speechmtp.decoding.strategies import parse_strategy
from speechmtp.devices import find_device
from speechmtp.errors import CheckpointError, ConfigError, DataError


@pytest.fixture(scope="module")
def default() -> Recogniser:
    return speechmtp.load()


def test_mistakes_are_one_line(default: Recogniser) -> None:
    with pytest.raises(DataError, match="audio: a dict, expected a path"):
        default.transcribe({}, 16000)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="audio: a list of str, expected numbers; several recordings go to"):
        default.transcribe(["a.wav"], 16000)  # type: ignore[list-item]
    with pytest.raises(ConfigError, match="audio: samples need their rate in Hz; give rate=16000"):
        default.transcribe(torch.zeros(16000))
    for one in ("a.wav", Path("a.wav")):
        with pytest.raises(ConfigError, match=r"transcribe_many: .*, expected a list of recordings; a single one goes"):
            default.transcribe_many(one)  # type: ignore[call-overload]
    with pytest.raises(ConfigError, match="batch=0, expected 1 or more"):
        default.transcribe_many(["a.wav"], batch=0)
    with pytest.raises(ConfigError, match="on_error='skip', expected one of raise, return"):
        default.transcribe_many(["a.wav"], on_error="skip")  # type: ignore[call-overload]
    with pytest.raises(ConfigError, match="device='gpu': not available here"):
        speechmtp.load(device="gpu")
    with pytest.raises(CheckpointError, match="/missing: no such model folder"):
        speechmtp.load(Path("/missing"))
    with pytest.raises(DataError, match=r"audio: samples up to 20000, expected floats in \[-1, 1\]; divide by 32768"):
        default.listen(np.array([0, 20000] * 8000, np.int16))
    heard = [default.listen(np.zeros(16000, np.float32))] * 2
    with pytest.raises(ConfigError, match="decode: 1 strategies for 2 requests; give one, or one for each"):
        default.decode(heard, [parse_strategy("ar")])
    with pytest.raises(ConfigError, match="drafts='int16': expected one of float32, int8"):
        speechmtp.load(drafts="int16")


def test_a_folders_strategy_that_its_heads_cannot_run_is_passed_over(default: Recogniser) -> None:
    for named in ("verify:heads=other", "verify:depth=9", "oracle", "previous", "draft-model"):
        config = replace(default.bundle.config, strategy=named)
        other = Recogniser(replace(default.bundle, config=config), default.device, default.dtype)
        assert other.default_strategy.label == "verify:depth=7", named


def test_models_types_and_devices_are_taken_as_names_are(default: Recogniser) -> None:
    folder = default.bundle.folder
    one = speechmtp.load(folder, torch.device("cpu"), torch.float64)
    assert (one.device, one.dtype) == (torch.device("cpu"), torch.float64)
    audio = speechmtp.example("digits")
    assert default.transcribe(audio, strategy=None) == default.transcribe(audio) == default.transcribe(audio, None, "")
    found = speechmtp.transcribe(audio, model=folder, device=torch.device("cpu"), dtype=torch.float32)
    assert found == speechmtp.transcribe(audio, model=str(folder), device="cpu", dtype="float32")
    with pytest.raises(ConfigError, match="dtype='int8': expected one of float32"):
        speechmtp.load(folder, dtype=torch.int8)


def test_heads_that_draft_in_int8_are_not_stored(default: Recogniser, tmp_path: Path) -> None:
    if not default.int8_drafts:
        pytest.skip("this build of PyTorch has no 8-bit kernels")
    with pytest.raises(CheckpointError, match="load them with drafts='float32'"):
        save_bundle(default.bundle, tmp_path / "model")


def test_the_ctc_heads_text_is_flagged_as_any_other(default: Recogniser) -> None:
    silent = default.transcribe(np.zeros(16000, np.float32), 16000, "ctc-only")
    assert silent.text == "" and "empty" in silent.flags


@pytest.mark.parametrize("within", [False, True])
def test_models_load_and_hear_in_inference_mode(within: bool) -> None:
    audio = speechmtp.example("digits")
    expected = speechmtp.load().transcribe(audio).tokens
    with torch.inference_mode():
        model = speechmtp.load()
        if within:
            assert model.transcribe(audio).tokens == expected
    assert model.transcribe(audio).tokens == expected


def test_threads_may_share_a_model(default: Recogniser) -> None:
    """Batches of different shapes at the same time; heads that read layers of the trunk."""
    samples, _ = read_audio(speechmtp.example("digits"), default.rate)
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


def test_every_kind_of_audio_is_the_same_text(default: Recogniser) -> None:
    path = speechmtp.example("digits")
    samples, rate = soundfile.read(path, dtype="int16")
    floats = samples / 32768
    expected = default.transcribe(path)
    assert "four" in str(expected).lower()
    with path.open("rb") as file:
        for audio in (str(path), file, io.BytesIO(path.read_bytes()), path.read_bytes(), (samples, rate)):
            assert default.transcribe(audio) == expected, type(audio)
    assert default.transcribe({"path": None, "array": floats, "sampling_rate": rate}) == expected
    for audio in (samples, floats, floats.tolist(), torch.from_numpy(floats), torch.from_numpy(samples)[None]):
        assert default.transcribe(audio, rate) == expected, type(audio)


def test_the_device_that_nobody_chose(default: Recogniser, monkeypatch: pytest.MonkeyPatch) -> None:
    for works in (True, False):
        monkeypatch.setattr(devices, "has_cuda", lambda: works)  # noqa: B023
        assert find_device("auto") == ("cuda" if works else "cpu")
        assert find_device("cpu") == "cpu"
    assert repr(default) == f"Recogniser(default on cpu, float32, heads {', '.join(default.bundle.heads)})"
    monkeypatch.undo()
    assert devices.has_cuda() in (False, torch.cuda.is_available())


@pytest.mark.parametrize("model", ["default", "an4"])
def test_a_recogniser_is_pickled_and_copied(model: str) -> None:
    """Whole, as worker processes get it: without the folder it came from."""
    recogniser, audio = speechmtp.load(model), speechmtp.example("digits")
    expected = recogniser.transcribe(audio)
    for copied in (pickle.loads(pickle.dumps(recogniser)), copy.deepcopy(recogniser)):
        assert copied.transcribe(audio) == expected
        assert repr(copied) == repr(recogniser) and copied.bundle is not recogniser.bundle


def test_a_pickled_recogniser_works_in_another_process(tmp_path: Path) -> None:
    audio = speechmtp.example("digits")
    recogniser = speechmtp.load("an4")
    (tmp_path / "model").write_bytes(pickle.dumps(recogniser))
    code = (
        "import pickle, sys, torch; torch.set_num_threads(1)\n"
        f"found = pickle.load(open({str(tmp_path / 'model')!r}, 'rb')).transcribe({str(audio)!r})\n"
        "sys.stdout.buffer.write(pickle.dumps(found))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert pickle.loads(done.stdout) == recogniser.transcribe(audio)
