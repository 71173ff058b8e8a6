"""Which files of a folder are tables, and what the keys of a table are."""

from __future__ import annotations

from pathlib import Path

import pytest

from speechmtp.data.layout import TABLES, UTTERANCE_EXTRAS, is_of_utterances, read_contents

IDS = {"a-1", "a-2", "b-1"}


def test_tables_are_the_visible_plain_files(tmp_path: Path) -> None:
    for name in ("wav.scp", "text", "notes", "info.json", "log.txt", ".hidden", "card.md", "x.gz"):
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "wav").mkdir()
    assert read_contents(tmp_path) == {name: name.encode() for name in ("notes", "text", "wav.scp")}


@pytest.mark.parametrize(
    ("name", "keys", "expected"),
    [
        ("text", {"other"}, True),
        ("text.raw", set(), True),
        ("utt2anything", {"other"}, True),
        ("segments", set(), True),
        ("codes.scp", set(), True),
        ("spk2gender", IDS, False),
        ("reco2dur", IDS, False),
        ("notes", {"a-1"}, True),
        ("notes", {"a-1", "other"}, False),
        ("notes", set(), False),
    ],
)
@pytest.mark.parametrize("segmented", [False, True])
def test_tables_of_utterances(name: str, keys: set[str], expected: bool, segmented: bool) -> None:
    assert is_of_utterances(name, keys, IDS, segmented) is expected


def test_wav_scp_is_of_utterances_unless_there_are_segments() -> None:
    assert is_of_utterances("wav.scp", {"other"}, IDS, segmented=False)
    assert not is_of_utterances("wav.scp", IDS, IDS, segmented=True)


def test_extras_are_tables_of_utterances() -> None:
    assert set(UTTERANCE_EXTRAS) <= set(TABLES)
    assert all(is_of_utterances(name, (), set(), True) for name in UTTERANCE_EXTRAS)
    for fewest, most in TABLES.values():
        assert fewest >= 1 and (most is None or most >= fewest)
