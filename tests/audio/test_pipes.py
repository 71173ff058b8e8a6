"""Command pipes: what they give, and how they end when they fail, hang, flood or lie."""

import struct
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechmtp.audio import pipes
from speechmtp.audio.io import read_audio, read_pipe, write_audio
from speechmtp.errors import DataError

AUDIO = (0.5 * np.sin(np.arange(8000) * 0.1)).astype(np.float32)


def test_decodes_the_output(tmp_path: Path) -> None:
    for name in ("a.wav", "a.flac", "a.opus"):
        write_audio(tmp_path / name, AUDIO, 16000)
        audio, rate = read_pipe(f"cat {tmp_path / name} | cat")
        assert rate == 16000
        assert np.array_equal(audio, read_audio(tmp_path / name)[0])
    assert len(read_pipe(f"cat {tmp_path / 'a.wav'}", rate=8000)[0]) == 4000


@pytest.mark.parametrize("length", [0xFFFFFFFF, 0x7FFFF000, 0x7FFFFFFF, 0])
def test_mends_lengths_that_were_not_known(tmp_path: Path, length: int) -> None:
    path = tmp_path / "a.wav"
    write_audio(path, AUDIO, 16000)
    data = bytearray(path.read_bytes())
    place = data.index(b"data") + 4
    data[place : place + 4] = struct.pack("<I", length)
    data[4:8] = struct.pack("<I", min(length + 36, 0xFFFFFFFF))
    expected, _ = read_audio(path)
    path.write_bytes(data)
    assert np.array_equal(read_pipe(f"cat {path}")[0], expected)


def test_output_cut_short_is_no_audio(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav", AUDIO, 16000)
    with pytest.raises(DataError, match=r"0\.03 s of audio, 0\.50 s expected by its header"):
        read_pipe(f"head -c 1044 {tmp_path / 'a.wav'}")


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("echo first >&2; echo last words >&2; exit 3", r"exit code 3 \(last words\)"),
        ("false | cat", "exit code 1"),
        ("no-such-program-here", r"exit code 127 \(.*not found\)"),
        ("true", "no output"),
        ("echo this is text", "unreadable"),
        ("cat", "no output"),
    ],
)
def test_failures_name_the_command(command: str, said: str) -> None:
    with pytest.raises(DataError, match=said) as caught:
        read_pipe(command)
    assert str(caught.value).startswith(f"{command} |: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("command", ["sleep 30", "exec >&- 2>&-; sleep 30", "yes >&2", "sleep 30 & echo x"])
def test_time_limit_ends_the_command_and_its_children(command: str) -> None:
    begin = time.monotonic()
    with pytest.raises(DataError, match=r"still running after 0\.4 s"):
        read_pipe(command, timeout=0.4)
    assert time.monotonic() - begin < 5


def test_output_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipes, "_OUTPUT_CAP", 1 << 20)
    with pytest.raises(DataError, match="more than 1 MiB"):
        read_pipe("yes")


def test_environment_is_bare(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_OF_THE_CALLER", "x")
    names = pipes.run_pipe("compgen -e", timeout=20).decode().split()
    assert "SECRET_OF_THE_CALLER" not in names
    assert set(names) <= {"PATH", "LC_ALL", "PWD", "SHLVL", "OLDPWD", "_"}


def test_a_channel_is_chosen_and_errors_of_the_audio_have_a_name(tmp_path: Path) -> None:
    both = np.stack([AUDIO, -0.5 * AUDIO], axis=1)
    soundfile.write(tmp_path / "a.wav", both, 16000)
    command = f"cat {tmp_path / 'a.wav'}"
    np.testing.assert_allclose(read_pipe(command, channel=1)[0], -0.5 * AUDIO, atol=1e-4)
    np.testing.assert_allclose(read_pipe(command)[0], 0.25 * AUDIO, atol=1e-4)
    with pytest.raises(DataError, match=r"^wav\.scp:3: channel 2 asked"):
        read_pipe(command, channel=2, name="wav.scp:3")
