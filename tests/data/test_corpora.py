"""The table of corpora: what every corpus offers, how one is found by name, and what adding one takes."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from corpus_layouts import LAYOUTS
from small_sets import lines, write_tone

from speechmtp.data.corpora import table
from speechmtp.data.corpora.archives import archive_in, fetch, unpack
from speechmtp.data.corpora.contract import Corpus
from speechmtp.data.corpora.table import CORPORA, corpus_named
from speechmtp.data.kaldi import read_data_dir
from speechmtp.data.table_set import TableSet, write_tables
from speechmtp.errors import ConfigError, DataError


class Whistles(Corpus):
    """What a new corpus has to say, and no more: one tone an utterance."""

    name = "whistles"
    title = "one whistle"
    language = "und"
    licence = "CC0"
    needs = "whistles/a.wav"

    def is_there(self, source: Path) -> bool:
        return (source / "whistles" / "a.wav").is_file()

    def prepare(self, source: Path, out: Path) -> dict[str, int]:
        tables = {"wav.scp": {"a": "whistles/a.wav"}, "text": {"a": "WHISTLE"}, "utt2spk": {"a": "a"}}
        info = {**self.info(), "root": str(source.resolve())}
        write_tables(out / "all", TableSet(source, tables, info))
        return {"all": 1}


@pytest.fixture
def added(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one line of the table that a new corpus takes; no corpora folder is set."""
    monkeypatch.delenv("SPEECHMTP_CORPORA", raising=False)
    monkeypatch.setitem(table.CORPORA, Whistles.name, Whistles())


@pytest.mark.parametrize("corpus", CORPORA.values(), ids=CORPORA)
def test_every_corpus_says_what_it_is(corpus: Corpus, tmp_path: Path) -> None:
    assert corpus_named(corpus.name) is corpus
    for words in (corpus.title, corpus.licence, corpus.needs):
        assert words and "\n" not in words
    assert corpus.info()["corpus"] == corpus.name
    assert corpus.info()["licence"] == corpus.licence
    json.dumps(corpus.info())
    assert not corpus.is_there(tmp_path)
    with pytest.raises(DataError, match=str(tmp_path)):
        corpus.prepare(tmp_path, tmp_path / "out")
    assert not corpus.url or corpus.url.startswith(("http://", "https://"))


def test_every_corpus_has_a_small_one() -> None:
    assert set(LAYOUTS) == set(CORPORA)


@pytest.mark.parametrize("name", CORPORA)
def test_every_corpus_gives_sound_data_directories(
    name: str, tmp_path: Path, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SPEECHMTP_CORPORA", raising=False)
    expected = LAYOUTS[name](tmp_path / "in")
    corpus, out = CORPORA[name], tmp_path / "out"
    assert corpus.is_there(tmp_path / "in")
    assert run("prepare", name, "--source", tmp_path / "in", "--out", out)[0] == 0
    assert {path.name for path in out.iterdir()} >= set(expected)
    for part, count in expected.items():
        data = read_data_dir(out / part)
        assert len(data) == count
        assert all(utterance.text and utterance.load().size for utterance in data.utterances)
        assert run("validate", out / part, "--check-audio", "decode")[0] == 0
        info = json.loads((out / part / "info.json").read_text())
        assert {key: info[key] for key in corpus.info()} == corpus.info()


def test_a_wrong_name_lists_those_there_are_and_the_nearest(run: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^corpus 'an5': no such corpus; did you mean 'an4'\? there are an4\b"):
        corpus_named("an5")
    code, printed = run("prepare", "zebra", "--source", tmp_path, "--out", tmp_path / "data")
    assert (code, printed) == (2, f"speechmtp: error: corpus 'zebra': no such corpus; there are {', '.join(CORPORA)}\n")
    assert not (tmp_path / "data").exists()


@pytest.mark.usefixtures("added")
def test_a_new_corpus_is_prepared_by_its_name(tmp_path: Path, run: Any) -> None:
    write_tone(tmp_path / "in" / "whistles" / "a.wav")
    code, printed = run("prepare", "whistles", "--source", tmp_path / "in", "--out", tmp_path / "data")
    assert (code, printed) == (0, f"{tmp_path}/data/all: 1 utterances\n")
    assert read_data_dir(tmp_path / "data" / "all")["a"].load().shape == (8000,)
    info = json.loads((tmp_path / "data" / "all" / "info.json").read_text())
    assert (info["corpus"], info["language"], info["licence"]) == ("whistles", "und", "CC0")
    assert f"there are {', '.join(CORPORA)}\n" in run("prepare", "whistle5", "--out", tmp_path / "data")[1]


@pytest.mark.usefixtures("added")
def test_a_corpus_without_an_address_says_so(tmp_path: Path, run: Any) -> None:
    code, printed = run("prepare", "whistles", "--out", tmp_path / "data", "--source", tmp_path)
    assert (code, printed) == (
        2, f"speechmtp: error: --source {tmp_path}: no whistles here, expected whistles/a.wav; give another folder\n",
    )  # fmt: skip
    code, printed = run("prepare", "whistles", "--out", tmp_path / "data", "--download")
    assert code == 2
    assert "whistles: cannot be downloaded; get it by hand (whistles/a.wav)" in printed
    code, printed = run("prepare", "whistles", "--out", tmp_path / "data")
    assert (code, printed.startswith("speechmtp: error: no --source")) == (2, True)


def test_what_is_fetched_is_whole_or_not_there(tmp_path: Path) -> None:
    (tmp_path / "far").write_bytes(b"content")
    found = fetch((tmp_path / "far").as_uri(), tmp_path / "new" / "near")
    assert found.read_bytes() == b"content"
    with pytest.raises(DataError, match="not reachable") as caught:
        fetch((tmp_path / "nowhere").as_uri(), tmp_path / "new" / "other")
    assert "\n" not in str(caught.value)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["near"]


def test_an_archive_is_found_and_unpacked_once(tmp_path: Path) -> None:
    lines(tmp_path / "a", "first")
    with tarfile.open(tmp_path / "x.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "a", "folder/a")
    assert archive_in(tmp_path, "x.tar.gz") == archive_in(tmp_path / "x.tar.gz", "other") == tmp_path / "x.tar.gz"
    assert archive_in(tmp_path, "y.tar.gz") is None
    folder = unpack(tmp_path / "x.tar.gz", tmp_path / "out")
    assert (folder / "folder" / "a").read_text() == "first\n"
    lines(folder / "folder" / "a", "changed")
    unpack(tmp_path / "x.tar.gz", folder)
    assert (folder / "folder" / "a").read_text() == "changed\n"
    (tmp_path / "bad.tar").write_bytes(b"no archive")
    with pytest.raises(DataError, match="cannot be unpacked"):
        unpack(tmp_path / "bad.tar", tmp_path / "elsewhere")
    assert not (tmp_path / "elsewhere").exists()
