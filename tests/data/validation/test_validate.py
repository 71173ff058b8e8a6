"""Validation and mending as a whole: options, backups, dropping, pipes, locales."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from small_sets import lines, no_prefix, segments, snapshot


def test_header_length_lie_is_a_warning(good: Path, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from speechmtp.audio import io

    honest = io.audio_info

    def lying(path: str) -> io.AudioInfo:
        info = honest(path)
        return io.AudioInfo(info.rate, info.channels, info.samples * (2 if path.endswith("a-2.wav") else 1))

    monkeypatch.setattr(io, "audio_info", lying)
    code, printed = run("validate", good, "--check-audio", "decode")
    assert code == 0
    assert f"{good}/wav.scp:2: E32 warning: header has 16000 samples, decoded are 8000" in printed


def test_dc_and_clipping_are_warnings(good: Path, run: Any) -> None:
    soundfile.write(good / "wav" / "a-2.wav", np.where(np.arange(8000) % 3, 1.0, -0.5), 16000)
    code, printed = run("validate", good, "--check-audio", "decode")
    assert code == 0
    assert "wav.scp:2: E40 warning: audio is 66.7 % clipped, DC 0.50" in printed


def test_shared_audio_of_two_sets(good: Path, make_set: Any, tmp_path: Path, run: Any) -> None:
    other = make_set(tmp_path / "test")
    lines(other / "wav.scp", *(f"z-{n} wav/{p}.wav" for n, p in enumerate(("a-1", "a-2", "b-1", "b-2"))))
    shutil.copy(other / "wav" / "b-2.wav", good / "wav" / "a-2.wav")
    code, printed = run("validate", good, "--against", other)
    assert code == 1
    assert f"{good}/wav.scp:2: E41 same audio as 'z-3' of {other / 'wav.scp'}" in printed
    assert f"{good}/utt2spk:1: E41 warning: speaker 'a' is also in {other / 'utt2spk'}" in printed
    assert f"{good}/text:1: E41 warning: text of 'a-1' is also in" in printed


def test_at_most_fifty_of_a_code_are_printed(good: Path, run: Any) -> None:
    with (good / "text").open("a") as stream:
        stream.writelines(f"c-{n:03d} HELLO\n" for n in range(70))
    code, printed = run("validate", good)
    assert code == 1
    assert printed.count(": E13 ") == 50
    assert "E13: 20 more of this code" in printed
    assert f"{good}: 70 defects" in printed


def test_json_has_every_defect(good: Path, put: Any, run: Any) -> None:
    put(good / "text", 2, "a-2 HELLO  THERE")
    code, printed = run("validate", good, "--json")
    found = json.loads(printed)
    assert (code, found["errors"], found["warnings"]) == (1, 1, 0)
    defect = found["defects"][0]
    assert (defect["code"], defect["line"], defect["fix"]) == ("E19", 2, "fix")


def test_fix_keeps_the_old_files_and_says_what_it_dropped(good: Path, put: Any, run: Any) -> None:
    put(good / "text", 2, "a-2 HELLO\u3000THERE\r")
    old = (good / "text").read_bytes()
    (good / "wav" / "b-1.wav").unlink()
    lines(good / "phones", "a-1 h", "a-2 h", "b-1 h", "b-2 h")
    code, printed = run("validate", good, "--fix-drop")
    assert code == 0
    assert "dropped 'b-1' (wav.scp:3: E28" in printed
    assert "mended 1 of E05" in printed
    backups = list((good / ".backup").iterdir())
    assert len(backups) == 1
    assert (backups[0] / "text").read_bytes() == old
    for name in ("text", "utt2spk", "wav.scp", "utt2dur", "phones"):
        assert [line.split()[0] for line in (good / name).read_text().splitlines()] == ["a-1", "a-2", "b-2"]
    assert (good / "spk2utt").read_text() == "a a-1 a-2\nb b-2\n"
    assert (good / "text").read_text() == "a-1 HELLO ONE\na-2 HELLO THERE\nb-2 HELLO TEN\n"


def test_dropping_a_recording_drops_its_segments_and_idle_speakers(good: Path, tone: Any, run: Any) -> None:
    segments(good, "b-1 lost 0.8 1.2", "b-2 lost 1.2 -1")
    lines(good / "wav.scp", "lost wav/lost.wav", "rec wav/rec.wav")
    code, printed = run("validate", good, "--fix-drop")
    assert code == 0, printed
    assert (good / "wav.scp").read_text() == "rec wav/rec.wav\n"
    assert (good / "spk2gender").read_text() == "a f\n"
    assert (good / "segments").read_text().count("\n") == 2


def test_dropping_everything_is_refused(good: Path, run: Any) -> None:
    shutil.rmtree(good / "wav")
    before = snapshot(good)
    code, printed = run("validate", good, "--fix-drop")
    assert code == 2
    assert "would leave no utterance" in printed
    assert snapshot(good) == before


def test_rename_reaches_every_table(good: Path, run: Any) -> None:
    no_prefix(good)
    assert run("validate", good, "--fix", "--rename")[0] == 0
    assert (good / "spk2utt").read_text() == "a a-x2 a-x4\nb b-x1 b-x3\n"
    assert (good / "notes").read_text().split()[::2] == ["a-x2", "a-x4", "b-x1", "b-x3"]
    assert (good / "wav.scp").read_text().splitlines()[2] == "b-x1 wav/a-1.wav"


def test_options_turn_checks_off(good: Path, run: Any) -> None:
    no_prefix(good)
    assert run("validate", good, "--no-spk-sort")[0] == 0
    (good / "text").unlink()
    assert run("validate", good, "--no-spk-sort", "--no-text")[0] == 0
    (good / "wav.scp").unlink()
    assert run("validate", good, "--no-spk-sort", "--no-text", "--no-wav")[0] == 0


def test_empty_text_can_be_allowed(good: Path, put: Any, run: Any) -> None:
    put(good / "text", 2, "a-2")
    code, printed = run("validate", good, "--empty-text")
    assert code == 0
    assert "text:2: E20 warning: empty transcript" in printed


def test_wrong_usage(good: Path, tmp_path: Path, run: Any) -> None:
    assert run("validate", tmp_path / "nowhere")[0] == 2
    assert run("validate", good, "--rename")[0] == 2


def test_pipes_run_only_when_allowed_and_decoded(good: Path, put: Any, run: Any, tmp_path: Path) -> None:
    mark = tmp_path / "PWNED"
    put(good / "wav.scp", 2, f"a-2 touch {mark} |")
    for words in ([], ["--check-audio", "decode"], ["--allow-pipes"], ["--fix"], ["--fix-drop"]):
        run("validate", good, *words)
        assert not mark.exists(), words
    code, printed = run("validate", good)
    assert code == 1
    assert f"{good}/wav.scp:2: E35 " in printed
    code, printed = run("validate", good, "--allow-pipes", "--check-audio", "decode")
    assert code == 1
    assert f"{good}/wav.scp:2: E29 audio unreadable" in printed
    assert mark.exists()


def test_failing_pipe(good: Path, put: Any, run: Any) -> None:
    put(good / "wav.scp", 2, "a-2 cat wav/a-2.wav; exit 3 |")
    code, printed = run("validate", good, "--allow-pipes", "--check-audio", "decode")
    assert code == 1
    assert "wav.scp:2: E29 audio unreadable" in printed
    assert "exit code 3" in printed
    assert run("validate", good, "--allow-pipes", "--check-audio", "decode", "--fix-drop")[0] == 0
    assert "a-2" not in (good / "text").read_text()


def test_plain_decoding_commands_are_files(good: Path, put: Any, run: Any) -> None:
    put(good / "wav.scp", 2, "a-2 cat wav/a-2.wav |")
    put(good / "wav.scp", 3, "b-1 sox wav/b-1.wav -t wav - |")
    assert run("validate", good, "--check-audio", "decode")[0] == 0


@pytest.mark.parametrize("separator", ["\t", " \t "])
def test_tabs_separate_too(good: Path, separator: str, run: Any) -> None:
    for name in ("wav.scp", "utt2spk", "utt2dur"):
        (good / name).write_text((good / name).read_text().replace(" ", separator))
    assert run("validate", good)[0] == 0


@pytest.mark.parametrize("locale", ["C", "POSIX", "C.UTF-8"])
def test_locale_does_not_matter(good: Path, locale: str, tmp_path: Path) -> None:
    lines(good / "text", "é-1 ÉTÉ\u00a0", "b-2 TEN", "a-1 ONE", "a-10 x", "a-1_ y", "B-1 z")
    code = (
        "import sys; from speechmtp.data.tables import write_table;"
        "from speechmtp.data.validation.fix import fix_data_dir;"
        "r = fix_data_dir(sys.argv[1]); write_table(sys.argv[1] + '/table', {'é': '你', 'z': '', 'Z': 'b'});"
        "from speechmtp.cli.streams import settle_streams; settle_streams(); [print(d.render()) for d in r.defects]"
    )
    script = tmp_path / "fix.py"
    script.write_text(code, encoding="utf-8")
    environment = {**os.environ, "LC_ALL": locale, "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    result = subprocess.run([sys.executable, script, good], env=environment, capture_output=True, timeout=60)
    assert result.returncode == 0, result.stderr
    expected = "B-1 z\na-1 ONE\na-10 x\na-1_ y\nb-2 TEN\né-1 ÉTÉ\n"
    assert (good / "text").read_bytes() == expected.encode()
    assert (good / "table").read_bytes() == "Z b\nz\né 你\n".encode()
