"""Reading of tables and data directories: places in errors, roots, segments, pipes, the samples themselves."""

from __future__ import annotations

import os
import random
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from small_sets import lines, segments, write_set

from speechmtp.data.audio_paths import decodable_file
from speechmtp.data.kaldi import read_data_dir
from speechmtp.data.tables import read_table, write_table
from speechmtp.errors import DataError


def test_values_keep_unicode_spaces_and_inner_runs(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes("b \t 你\u3000好  x\na\u00a0b\n".encode())
    assert read_table(path) == {"b": "你\u3000好  x", "a\u00a0b": ""}


@pytest.mark.parametrize(
    ("content", "place", "what"),
    [
        (b"a 1\nb \xff\n", ":2:", "not UTF-8 at byte 3"),
        (b"a 1\r\nb 2\n", ":1:", "carriage return"),
        (b"\xef\xbb\xbfa 1\n", ":1:", "byte-order mark"),
        (b"a 1\n\nb 2\n", ":2:", "blank line"),
        (b"a 1\n b 2\n", ":2:", "starts with a space"),
        (b"a 1\nb 2\na 1\n", ":3:", "stands in line 1 already"),
    ],
)
def test_errors_name_file_and_line(tmp_path: Path, content: bytes, place: str, what: str) -> None:
    path = tmp_path / "text"
    path.write_bytes(content)
    with pytest.raises(DataError, match=what) as caught:
        read_table(path)
    assert str(caught.value).startswith(f"{path}{place}")


@pytest.mark.parametrize(
    ("content", "what", "command"),
    [
        (b"\xef\xbb\xbfa 1\nb 2\n", "byte-order mark", r"sed -i '1s/^\xEF\xBB\xBF//' {}"),
        ("a 1\nb 2\n".encode("utf-16"), "UTF-16", "iconv -f UTF-16 -t UTF-8 {} > NEW && mv NEW {}"),
        (b"a 1\r\nb 2\r\n", "carriage return", r"sed -i 's/\r$//' {}"),
        (b"a 1\n\nb 2\n", "blank line", r"sed -i '/^[ \t]*$/d' {}"),
        (b" a 1\nb 2\n", "starts with a space", r"sed -i 's/^[ \t]*//' {}"),
    ],
)
def test_the_command_that_an_error_names_mends_the_file(
    content: bytes, what: str, command: str, tmp_path: Path
) -> None:
    path = tmp_path / "hyp of mine"
    path.write_bytes(content)
    with pytest.raises(DataError, match=what) as caught:
        read_table(path)
    shown = str(caught.value).split("run `")[1].rstrip("`")
    assert shown == command.replace("{}", f"'{path}'")
    subprocess.run(["bash", "-c", shown], check=True, cwd=tmp_path)
    assert read_table(path) == {"a": "1", "b": "2"}


def test_a_table_of_a_data_directory_is_mended_by_validation(tmp_path: Path) -> None:
    (tmp_path / "wav.scp").write_text("a a.wav\n")
    (tmp_path / "text").write_bytes(b"a 1\r\n")
    with pytest.raises(DataError, match=f"run `speechmtp data validate --fix {tmp_path}`"):
        read_table(tmp_path / "text")


def test_missing_table(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_table(tmp_path / "text")


def test_written_tables_are_in_byte_order_and_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "text"
    table = {"s2-u1": "x", "s10-u1": "你 好", "s1-u1": "", "S": "y", "é": "z"}
    write_table(path, table)
    assert path.read_text(encoding="utf-8") == "S y\ns1-u1\ns10-u1 你 好\ns2-u1 x\né z\n"
    assert read_table(path) == table
    for bad in ({"a b": "x"}, {"a": "x\ny"}, {"": "x"}):
        with pytest.raises(DataError):
            write_table(path, bad)
    assert read_table(path) == table
    assert [p.name for p in path.parent.iterdir()] == ["text"]


def test_directory_as_a_mapping(good: Path) -> None:
    data = read_data_dir(good)
    assert list(data) == ["a-1", "a-2", "b-1", "b-2"] == [u.id for u in data.utterances]
    assert data["a-2"].text == "HELLO TWO"
    assert data["b-1"].speaker == "b"
    assert data["b-1"].origin == "wav.scp:3"
    assert data.transcripts()["b-2"] == "HELLO TEN"
    assert data.durations == dict.fromkeys(data, 0.5)
    samples = data["a-1"].load()
    assert (samples.dtype, samples.shape) == (np.float32, (8000,))
    assert data["a-1"].load(rate=8000).shape == (4000,)


def test_order_of_lines_does_not_matter(good: Path) -> None:
    whole = read_data_dir(good).transcripts()
    for name in ("text", "utt2spk", "wav.scp", "utt2dur"):
        rows = (good / name).read_text().splitlines()
        random.Random(name).shuffle(rows)
        lines(good / name, *rows)
    data = read_data_dir(good)
    assert data.transcripts() == whole
    assert [u.id for u in data.utterances] == sorted(whole)


def test_text_can_be_left_out(good: Path) -> None:
    (good / "text").unlink()
    (good / "utt2spk").unlink()
    assert read_data_dir(good, need_text=False)["a-1"].text is None
    with pytest.raises(DataError, match="text"):
        read_data_dir(good)


def test_ids_that_differ_are_an_error_with_a_line(good: Path, put: Any) -> None:
    put(good / "text", 3, None)
    with pytest.raises(DataError, match=r"wav\.scp:3: 'b-1' has no line in text \(1 missing from text, 0 extra\)"):
        read_data_dir(good)


def test_places_of_relative_paths(good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpora, other, empty = (write_set(tmp_path / name) for name in ("corpora", "other", "empty"))
    assert read_data_dir(good)["a-1"].audio == f"{good}/wav/a-1.wav"
    monkeypatch.setenv("SPEECHMTP_CORPORA", str(corpora))
    assert read_data_dir(good)["a-1"].audio == f"{corpora}/wav/a-1.wav"
    (good / "info.json").write_text('{"root": "../other"}')
    assert os.path.samefile(read_data_dir(good)["a-1"].audio, other / "wav" / "a-1.wav")
    assert read_data_dir(good, root=empty)["a-1"].audio == f"{empty}/wav/a-1.wav"
    (other / "wav" / "a-1.wav").unlink()
    assert read_data_dir(good)["a-1"].audio == f"{corpora}/wav/a-1.wav"


def test_missing_audio_says_where_it_was_sought(good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPEECHMTP_CORPORA", str(tmp_path / "corpora"))
    (good / "wav" / "b-1.wav").unlink()
    with pytest.raises(DataError) as caught:
        read_data_dir(good)
    places = [f"{base}/wav/b-1.wav" for base in (tmp_path / "corpora", good, Path.cwd())]
    assert str(caught.value).startswith(f"{good}/wav.scp:3: ")
    assert ", ".join(places) in str(caught.value)
    assert read_data_dir(good, check_audio=False)["b-1"].text == "HELLO SIX"


@pytest.mark.parametrize("path", ["~/a.wav", "https://example.org/a.wav"])
def test_home_and_urls_are_errors(good: Path, put: Any, path: str) -> None:
    put(good / "wav.scp", 2, f"a-2 {path}")
    with pytest.raises(DataError, match=r"wav\.scp:2: .* is a home folder or URL"):
        read_data_dir(good)


def test_folder_with_spaces_and_quotes(tmp_path: Path, put: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPEECHMTP_CORPORA", raising=False)
    good = write_set(tmp_path / "a b'c")
    (good / "wav" / "a-2.wav").rename(good / "wav" / "it's 2.wav")
    put(good / "wav.scp", 2, "a-2 wav/it's 2.wav")
    put(good / "wav.scp", 3, f'b-1 cat "{good}/wav/b-1.wav" |')
    put(good / "wav.scp", 4, f'b-2 cat "{good}/wav/b-2.wav" | cat |')
    data = read_data_dir(good, allow_pipes=True)
    assert [u.load(allow_pipes=True).shape for u in data.utterances] == [(8000,)] * 4
    assert [u.pipe for u in data.utterances] == [False, False, False, True]


@pytest.mark.parametrize(
    ("last", "count"),
    [
        ("1.2 -1", 12800),
        ("1.2 -1.0", 12800),
        ("1.2 2.3", 12800),
        ("1.2 1.9", 11200),
        ("1.20003 1.90004", 11201),
    ],
)
def test_segments_have_exact_sample_counts(good: Path, last: str, count: int) -> None:
    segments(good, f"b-2 rec {last}")
    utterance = read_data_dir(good)["b-2"]
    assert utterance.load().shape == (count,)
    whole = soundfile.read(good / "wav" / "rec.wav", dtype="float32")[0]
    start = int(np.floor(utterance.start * 16000 + 0.5))
    np.testing.assert_array_equal(utterance.load(), whole[start : start + count])


def test_segment_far_past_the_end_is_an_error_and_dropped_by_fix(good: Path, run: Any) -> None:
    segments(good, "b-2 rec 1.2 2.6")
    with pytest.raises(DataError, match=r"segments:4: segment b-2 is 1\.2 s to 2\.6 s, its recording lasts 2\.000 s"):
        read_data_dir(good)["b-2"].load()
    assert run("validate", good, "--fix-drop")[0] == 0
    assert list(read_data_dir(good)) == ["a-1", "a-2", "b-1"]


@pytest.mark.parametrize("fields", ["rec 1 x", "rec 1", "rec 2 1", "rec -1 2", "rec nan 2", "lost 0 1"])
def test_bad_segments_name_their_line(good: Path, fields: str) -> None:
    segments(good, f"b-2 {fields}")
    with pytest.raises(DataError, match=r"segments:4: "):
        read_data_dir(good)


def test_segment_channel(good: Path, put: Any) -> None:
    segments(good, "b-2 rec 1.0 1.5 1")
    both = np.stack([np.zeros(32000), np.full(32000, 0.25)], axis=1)
    soundfile.write(good / "wav" / "rec.wav", both, 16000)
    data = read_data_dir(good)
    assert data["b-2"].load().max() == 0.25
    assert data["b-1"].load().max() == 0.125
    put(good / "wav.scp", 1, f"rec cat {good}/wav/rec.wav | cat |")
    piped = read_data_dir(good, allow_pipes=True)["b-2"]
    samples = piped.load(allow_pipes=True)
    assert (samples.shape, samples.max()) == ((8000,), 0.25)


def test_commands_are_refused_and_never_run(good: Path, put: Any, tmp_path: Path) -> None:
    mark = tmp_path / "PWNED"
    put(good / "wav.scp", 2, f"a-2 touch {mark} |")
    with pytest.raises(DataError, match=r"wav\.scp:2: .* commands are off"):
        read_data_dir(good)
    utterance = read_data_dir(good, allow_pipes=True)["a-2"]
    with pytest.raises(DataError, match="commands are off"):
        utterance.load()
    assert not mark.exists()
    with pytest.raises(DataError, match=r"wav\.scp:2|touch"):
        utterance.load(allow_pipes=True)
    assert mark.exists()


@pytest.mark.parametrize(
    ("command", "file"),
    [
        ("cat 'a b.wav'", "a b.wav"),
        ("flac -dcs a.flac", "a.flac"),
        ("flac -c -d -s a.flac", "a.flac"),
        ("sox a.wav -t wav -", "a.wav"),
        ("cat a.wav; rm b", None),
        ("cat $(ls)", None),
        ("cat -n", None),
        ("cat a.wav b.wav", None),
        ("cat a*.wav", None),
        ("sox a.wav -t wav - rate 8000", None),
        ("cat 'a.wav", None),
        ("touch a.wav", None),
    ],
)
def test_commands_that_only_decode(command: str, file: str | None) -> None:
    assert decodable_file(command) == file


def test_bad_durations_and_info_are_errors(good: Path, put: Any) -> None:
    put(good / "utt2dur", 3, "b-1 zero")
    with pytest.raises(DataError, match=r"utt2dur:3: "):
        read_data_dir(good)
    put(good / "utt2dur", 3, "b-1 0.5")
    (good / "info.json").write_text("{")
    with pytest.raises(DataError, match=r"info\.json: not JSON"):
        read_data_dir(good)
