"""What commands print and write: texts with line breaks, any encoding, files and utterances that fail."""

import errno
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import tiny

from speechmtp import listening
from speechmtp.audio.io import write_audio
from speechmtp.cli.main import main
from speechmtp.cli.streams import print_json, settle_streams
from speechmtp.errors import DataError
from speechmtp.models.bases.contract import SpeechModel

RATE = 16000


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny Moonshine."""
    return str(tiny.write_brief(tmp_path_factory.mktemp("tiny")))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds of noise, a broken file, a file with an umlaut, and a segment behind its recording's end."""
    folder = tmp_path_factory.mktemp("data")
    audio = 0.1 * np.random.default_rng(0).normal(size=2 * RATE)
    for name in ("a", "größe"):
        write_audio(folder / f"{name}.wav", audio.astype(np.float32), RATE)
    (folder / "b.wav").write_bytes(b"no audio")
    (folder / "wav.scp").write_text("a a.wav\nb b.wav\ng größe.wav\n", encoding="utf-8")
    (folder / "segments").write_text("a-1 a 0 1\na-2 a 5 9\nb-1 b 0 1\ng-1 g 0 -1\n")
    (folder / "text").write_text("a-1 ONE\na-2 ONE\nb-1 ONE\ng-1 ONE\n")
    return folder


@pytest.fixture
def several_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every text has line breaks and a tab."""
    monkeypatch.setattr(SpeechModel, "decode", lambda self, ids: "\nÄNE\r\nTWO\u2028\tTHREE")


def decode(data: Path, model: str, out: Path) -> int:
    return main(["decode", str(data), "--model", model, "--out", str(out)])


def test_utterances_that_fail_are_named_and_the_others_are_decoded(
    data: Path, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert decode(data, model, tmp_path) == 2
    errors = capsys.readouterr().err.splitlines()
    assert errors[0].startswith(f"speechmtp: error: {data}/segments:2: segment a-2 is 5 s to 9 s")
    assert errors[1].startswith(f"speechmtp: error: {data}/segments:3: b-1: {data / 'b.wav'}: unreadable")
    assert "2 of 4 utterances failed" in "".join(errors)
    assert [line.split(" ")[0] for line in (tmp_path / "text").read_text().splitlines()] == ["a-1", "g-1"]
    trace = json.loads((tmp_path / "trace.json").read_text())
    assert list(trace["utterances"]) == ["a-1", "g-1"] and list(trace["failed"]) == ["a-2", "b-1"]
    assert f"speechmtp: error: {trace['failed']['b-1']}" == errors[1]
    assert main(["score", str(data), str(tmp_path / "text")]) == 1
    assert "2 of 4 missing (a-2 b-1)" in capsys.readouterr().err.replace("utterances ", "").replace(",", "")


@pytest.mark.usefixtures("several_lines")
def test_line_breaks_are_one_space_in_kaldi_files_and_on_standard_output(
    data: Path, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    decode(data, model, tmp_path)
    assert (tmp_path / "text").read_text(encoding="utf-8") == "a-1 ÄNE TWO THREE\ng-1 ÄNE TWO THREE\n"
    assert json.loads((tmp_path / "trace.json").read_text())["utterances"]["a-1"]["text"] == "\nÄNE\r\nTWO\u2028\tTHREE"
    capsys.readouterr()
    assert main(["transcribe", str(data / "a.wav"), "--model", model]) == 0
    assert capsys.readouterr().out == "ÄNE TWO THREE\n"


@pytest.mark.usefixtures("several_lines")
def test_compare_writes_a_line_an_utterance(data: Path, model: str, tmp_path: Path) -> None:
    one = tmp_path / "data"
    one.mkdir()
    (one / "wav.scp").write_text(f"a {data / 'a.wav'}\n")
    (one / "text").write_text("a ONE\n")
    assert main(["compare", str(one), "--model", model, "--strategies", "ar", "--out", str(tmp_path)]) == 0
    assert (tmp_path / "text" / "ar" / "text").read_bytes() == "a ÄNE TWO THREE\n".encode()


def test_the_trace_is_kept_where_the_text_cannot_be_written(
    data: Path, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text" / "in the way").mkdir(parents=True)
    assert decode(data, model, tmp_path) == 2
    assert str(tmp_path / "text") in capsys.readouterr().err.splitlines()[-1]
    assert list(json.loads((tmp_path / "trace.json").read_text())["utterances"]) == ["a-1", "g-1"]


def test_a_folder_that_cannot_be_written_is_found_before_decoding(
    data: Path, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("speechmtp.cli.decode._decode", lambda *_: pytest.fail("decoded"))
    (tmp_path / "config.yaml").mkdir()
    assert decode(data, model, tmp_path) == 2
    assert str(tmp_path / "config.yaml") in capsys.readouterr().err


def recording_of(read: Callable[[object, int, object, str], np.ndarray]) -> type[listening.Recording]:
    """What stands for files: one block, that `read` gives."""

    class Read(listening.Recording):
        def __iter__(self) -> Iterator[np.ndarray]:
            samples = read(self._audio, self._target_rate, self._rate, self._name)
            self.seconds = len(samples) / self._target_rate
            yield samples

    return Read


@pytest.mark.usefixtures("several_lines")
@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1", "utf-8"])
def test_standard_output_of_any_encoding(encoding: str, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(source: object, rate: int, own: object, name: str) -> np.ndarray:
        if "ž" in name:
            raise DataError(f"{name}: no such file")
        return 0.1 * np.random.default_rng(0).normal(size=rate).astype(np.float32)

    monkeypatch.setattr(listening, "Recording", recording_of(read))
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, io.TextIOWrapper(io.BytesIO(), encoding))
    assert main(["transcribe", "größe.wav", "ž.wav", os.fsdecode(b"gr\xf6\xdfe.wav"), "--model", model]) == 2
    out, err = (stream.buffer.getvalue().decode(encoding) for stream in (sys.stdout, sys.stderr))  # type: ignore
    name, text = ("gr\\xf6\\xdfe.wav", "\\xc4NE") if encoding == "ascii" else ("größe.wav", "ÄNE")
    assert out == f"{name}: {text} TWO THREE\ngr\\udcf6\\udcdfe.wav: {text} TWO THREE\n"
    letter = "ž" if encoding in ("utf-8", "cp1252") else "\\u017e"
    assert err.splitlines()[:2] == [f"speechmtp: error: {letter}.wav: no such file", "speechmtp: 1 of 3 files failed"]


def test_names_that_are_not_utf8_have_a_noise_key_and_a_json_row(
    model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert listening.noise_key_of("größe") == 0x5BD3A989
    monkeypatch.setattr(listening, "Recording", recording_of(lambda *_: np.ones(RATE, np.float32)))
    name = os.fsdecode(b"gr\xf6\xdfe.wav")
    assert main(["transcribe", name, "--model", model, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["file"] == name


def test_json_on_standard_output_is_json_in_any_encoding(monkeypatch: pytest.MonkeyPatch) -> None:
    value = {"path": "größe", "name": os.fsdecode(b"\xf6"), "letter": "ž"}
    for encoding in ("ascii", "latin-1", "utf-8"):
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding))
        settle_streams()
        print_json(value)
        sys.stdout.flush()
        assert json.loads(sys.stdout.buffer.getvalue().decode(encoding)) == value


class Refusing(io.RawIOBase):
    """A stream that takes nothing, as a broken pipe or a full disk."""

    def __init__(self, error: type[OSError], code: int) -> None:
        self.error, self.code = error, code

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        raise self.error(self.code, os.strerror(self.code))


@pytest.mark.parametrize(("code", "error", "exit_code"), [
    (errno.EPIPE, BrokenPipeError, 0), (errno.ENOSPC, OSError, 2),
])  # fmt: skip
def test_standard_output_that_takes_nothing(
    code: int, error: type[OSError], exit_code: int, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(Refusing(error, code), "utf-8"))
    assert main(["strategies"]) == exit_code
    said = "" if exit_code == 0 else "speechmtp: error: strategies: No space left on device\n"
    assert capsys.readouterr().err == said


def test_a_standard_error_that_takes_nothing_loses_no_file(
    data: Path, model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stream = io.TextIOWrapper(Refusing(OSError, errno.ENOSPC), "utf-8")
    monkeypatch.setattr(sys, "stderr", stream)
    assert main(["transcribe", str(data / "b.wav"), str(data / "a.wav"), "--model", model]) == 2
    assert capsys.readouterr().out.startswith(f"{data / 'a.wav'}: ")
    monkeypatch.setattr(stream, "flush", lambda: None)


def test_closed_and_full_streams_of_a_process(data: Path) -> None:
    command = f"{sys.executable} -m speechmtp.cli.main"
    for ending, code, said in (
        (f"data stats {data} >&-", 0, ""),
        ("score none none 2>&-", 2, ""),
        (f"data validate {data} >/dev/full", 2, "speechmtp: error: data: No space left on device\n"),
        (f"data validate {data} | true; exit ${{PIPESTATUS[0]}}", 0, ""),
    ):
        done = subprocess.run(["bash", "-c", f"{command} {ending}"], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (code, said), ending
        assert not done.stdout, ending
