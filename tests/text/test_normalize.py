"""Normalisers: what they do to text, what their records say, and what they refuse."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from speechmtp.errors import ConfigError
from speechmtp.text.normalize import NORMALIZERS, Normalizer, get_normalizer, kaldi_basic

needs_transformers = pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None, reason="whisper-en is transformers' code"
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hello, world!", "HELLO WORLD"),
        ("  a\t b\n", "A B"),
        ("你\u3000好", "你 好"),
        ("a\u00a0b", "A B"),
        ("cafe\u0301", "CAFÉ"),
        ("ＡＢ１", "AB1"),
        ("don\u2019t DON'T don\u02bct", "DON'T DON'T DON'T"),
        ("well-known", "WELL KNOWN"),
        ("soft\u00adhyphen \ufeffx", "SOFTHYPHEN X"),
        ("a\u200bb", "A B"),
        ("straße", "STRASSE"),
        ("it ' s '' x", "IT S X"),
        ("\u0301 x", "X"),
        ("हिन्दी", "हिन्दी"),
        ("...", ""),
        ("", ""),
    ],
)
def test_kaldi_basic(text: str, expected: str) -> None:
    assert get_normalizer("kaldi-basic")(text) == expected


@given(st.text(max_size=30))
@example("\u00a8a")  # compatibility forms that decompose to a space and a mark
@example("\u0149")
@example("\u0390\u0345")
@example("a\u200d\u0301")
def test_kaldi_basic_is_stable_and_single_spaced(text: str) -> None:
    once = kaldi_basic(text)
    assert kaldi_basic(once) == once
    assert once.split() == [word for word in once.split(" ") if word]
    assert once == once.strip()
    assert "  " not in once


@given(st.text(max_size=30))
def test_none_changes_nothing(text: str) -> None:
    assert get_normalizer("none")(text) == text


def test_records_tell_normalisers_apart_and_are_json() -> None:
    records = [get_normalizer(name).record() for name in ("none", "kaldi-basic")]
    assert [set(record) for record in records] == [{"id", "version", "sha256", "lang"}] * 2
    assert records[0]["sha256"] != records[1]["sha256"]
    assert all(len(record["sha256"]) == 64 for record in records)
    assert json.loads(json.dumps(records)) == records
    assert get_normalizer("kaldi-basic").record() == records[1]


def test_unknown_name_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'kaldi-basic'"):
        get_normalizer("kaldi_basic")
    with pytest.raises(ConfigError, match="none, kaldi-basic, whisper-en"):
        get_normalizer("zzz")


def _shouted() -> Normalizer:
    return Normalizer("shouted", 1, "de", {"steps": ["upper case", "!"]}, lambda text: f"{text.upper()}!")


def test_a_new_normaliser_is_one_line_of_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(NORMALIZERS, "shouted", _shouted)
    assert get_normalizer("shouted")("größe") == "GRÖSSE!"
    assert get_normalizer("shouted").record()["lang"] == "de"
    with pytest.raises(ConfigError, match="did you mean 'shouted'"):
        get_normalizer("shoted")
    with pytest.raises(ConfigError, match="'shouted' takes no spelling map"):
        get_normalizer("shouted", "map.json")


# Normaliser -> a text and what becomes of it.
SAMPLES = {
    "none": ("  Hello,  World", "  Hello,  World"),
    "kaldi-basic": ("  Hello,  World", "HELLO WORLD"),
    "whisper-en": ("  Hello,  World", "hello world"),
}


@needs_transformers
@pytest.mark.parametrize("name", NORMALIZERS)
def test_every_normaliser_of_the_table_answers_to_its_name(name: str) -> None:
    normalize = get_normalizer(name)
    record = normalize.record()
    text, expected = SAMPLES[name]
    assert normalize(text) == expected
    assert (record["id"], normalize("")) == (name, "")
    assert record == get_normalizer(name).record()
    assert normalize(normalize("Hello, World")) == normalize("Hello, World")


def test_only_whisper_takes_a_spelling_map() -> None:
    with pytest.raises(ConfigError, match="takes no spelling map"):
        get_normalizer("none", "map.json")


@needs_transformers
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("won't", "will not"),
        ("uh hmm mm yeah", "yeah"),
        ("one oh one", "101"),
        ("[noise] hello (laugh)", "hello"),
        ("<unk> foo", "foo"),
        ("colour", "colour"),  # no map is given, none is shipped
    ],
)
def test_whisper_english(text: str, expected: str) -> None:
    assert get_normalizer("whisper-en")(text) == expected


@needs_transformers
def test_whisper_english_with_a_map_says_so(tmp_path: Path) -> None:
    path = tmp_path / "normalizer.json"
    path.write_text(json.dumps({"colour": "color"}))
    mapped, plain = get_normalizer("whisper-en", path), get_normalizer("whisper-en")
    assert mapped("The Colour") == "the color"
    assert plain.record()["spelling_map"] == {"entries": 0, "sha256": None}
    assert mapped.record()["spelling_map"]["entries"] == 1
    assert mapped.record()["sha256"] != plain.record()["sha256"]


@pytest.mark.parametrize("content", ["{", "[1]", '{"a": 1}', None])
def test_bad_spelling_map(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "map.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=r"map\.json: "):
        get_normalizer("whisper-en", path)


def test_import_is_light() -> None:
    code = "import sys, speechmtp.text.normalize; assert not {'torch', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
