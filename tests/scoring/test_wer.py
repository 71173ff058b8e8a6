"""Scores joined by utterance id: rates, missing, extra and empty texts, Unicode, agreement of all files."""

import random
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechmtp.errors import DataError
from speechmtp.scoring import wer as wer_module
from speechmtp.scoring.report import per_speaker_lines, per_utterance_lines, wer_interval, write_report
from speechmtp.scoring.wer import Counts, Report, score, split_words
from speechmtp.text.normalize import get_normalizer

NONE, BASIC = get_normalizer("none"), get_normalizer("kaldi-basic")


def random_report(seed: int = 3, utterances: int = 300) -> tuple[Report, dict[str, str]]:
    rng = random.Random(seed)
    refs, hyps, speakers = {}, {}, {}
    for index in range(utterances):
        name = f"s{index % 12:02d}-u{index:03d}"
        ref = rng.choices("abcdef", k=rng.randint(0, 9))
        hyp = [w if rng.random() < 0.8 else rng.choice("abcdef") for w in ref if rng.random() < 0.9]
        hyp += rng.choices("abcdef", k=rng.choice([0, 0, 0, 1, 2]))
        refs[name], hyps[name], speakers[name] = " ".join(ref), " ".join(hyp), name.split("-")[0]
    return score(refs, hyps, NONE), speakers


def test_rates_are_over_the_corpus() -> None:
    report = score({"u1": "a b c d", "u2": "e"}, {"u1": "a b c d", "u2": "x y"}, NONE)
    assert report.counts == Counts(hits=4, sub=1, del_=0, ins=1)
    assert report.wer == pytest.approx(40.0)  # not the mean of 0 and 200
    assert report.ser == pytest.approx(50.0)


def test_the_spec_vector() -> None:
    assert score({"u": "a c d e f"}, {"u": "e b f e"}, NONE).wer == pytest.approx(80.0)
    assert score({"u": "a c d e f"}, {"u": "e b f e"}, NONE, sclite=True).wer == pytest.approx(100.0)


def test_details_add_up_to_the_total_on_random_pairs(tmp_path: Path) -> None:
    report, speakers = random_report()
    write_report(report, tmp_path, wer_interval(report, 0, speakers), speakers)
    expected = report.counts

    per_utt = [0, 0, 0, 0]
    for line in (tmp_path / "per_utt").read_text().splitlines():
        fields = line.split()
        if fields[1] == "#csid":
            per_utt = [a + int(b) for a, b in zip(per_utt, fields[2:])]
    assert per_utt == [expected.hits, expected.sub, expected.ins, expected.del_]

    rows = [line.split() for line in (tmp_path / "per_spk").read_text().splitlines()]
    raw = [row for row in rows if row[1] == "raw" and row[0] != "SUM"]
    sums = [sum(int(row[i]) for row in raw) for i in range(2, 10)]
    assert len(raw) == 12
    assert sums == [int(cell) for cell in next(r for r in rows if r[:2] == ["SUM", "raw"])[2:]]
    assert sums == [300, expected.ref_words, *per_utt, expected.errors, report.sentence_errors]

    ops = {"correct": 0, "substitution": 0, "insertion": 0, "deletion": 0}
    for line in (tmp_path / "ops").read_text().splitlines():
        name, _, _, number = line.split()
        ops[name] += int(number)
    assert list(ops.values()) == per_utt

    first = (tmp_path / "wer").read_text().splitlines()[0]
    assert f"[ {expected.errors} / {expected.ref_words}, {expected.ins} ins, {expected.del_} del" in first


def test_rows_are_joined_by_id_not_by_order() -> None:
    refs = {f"u{i}": f"word{i}" for i in range(10)}
    assert score(refs, dict(reversed(refs.items())), NONE).wer == 0.0


def test_a_missing_hypothesis_stays_in_the_denominator() -> None:
    refs = {f"u{i}": "a b" for i in range(10)}
    hyps = {name: text for name, text in refs.items() if name != "u4"}
    report = score(refs, hyps, NONE)
    assert report.counts == Counts(hits=18, del_=2)
    assert report.missing == ("u4",)
    assert report.empty == ()
    assert "1 of 10 utterances missing (u4)" in report.problems[0]
    assert score(refs, hyps, NONE, allow_missing=True).problems == ()


def test_an_extra_hypothesis_is_a_problem_and_not_scored() -> None:
    report = score({"u1": "a"}, {"u1": "a", "u2": "b"}, NONE)
    assert (report.counts, report.extra) == (Counts(hits=1), ("u2",))
    assert "u2" in report.problems[0]
    assert score({"u1": "a"}, {"u1": "a", "u2": "b"}, NONE, allow_extra=True).problems == ()


def test_empty_texts() -> None:
    report = score({"u1": "a b", "u2": "", "u3": "c"}, {"u1": "", "u2": "x", "u3": "c"}, NONE)
    assert report.counts == Counts(hits=1, del_=2, ins=1)
    assert (report.empty, report.empty_refs, report.problems) == (("u1",), ("u2",), ())


def test_no_reference_word_leaves_the_rate_undefined() -> None:
    report = score({"u": ""}, {"u": "a"}, NONE)
    assert (report.wer, report.cer, report.ser) == (None, None, 100.0)
    assert wer_interval(report).low is None


def test_no_reference_at_all_is_an_error() -> None:
    with pytest.raises(DataError, match="no utterance to score"):
        score({}, {}, NONE)


def test_what_the_normaliser_empties_is_kept_and_listed() -> None:
    report = score({"u1": "a", "u2": "..."}, {"u1": "!", "u2": "..."}, BASIC)
    assert report.emptied == ("u1", "u2")
    assert report.counts == Counts(del_=1)
    assert len(report.utterances) == 2


@pytest.mark.parametrize(
    ("ref", "hyp"), [("你\u3000好", "你 好"), ("a\u00a0b", "a b"), ("cafe\u0301", "café"), ("ＡＢ", "ab")]
)
def test_unicode_forms_of_one_text_make_no_error(ref: str, hyp: str) -> None:
    report = score({"u": ref}, {"u": hyp}, BASIC)
    assert (report.wer, report.cer) == (0.0, 0.0)
    assert report.raw.errors > 0  # the raw rate beside it shows what the normaliser did


def test_words_are_parted_by_ascii_space_alone() -> None:
    assert split_words(" a\u00a0b\t c\u3000d \r") == ["a\u00a0b", "c\u3000d"]


def test_characters_are_nfc_code_points_without_spaces() -> None:
    assert score({"u": "ab cd"}, {"u": "abcd"}, NONE).cer == 0.0
    assert score({"u": "ab cd"}, {"u": "abcd"}, NONE, keep_space=True).cer == pytest.approx(20.0)
    assert score({"u": "e\u0301"}, {"u": "é"}, NONE).cer == 0.0
    assert score({"u": "éx"}, {"u": "ex"}, NONE).cer == pytest.approx(50.0)


def test_a_disagreement_with_jiwer_is_an_internal_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wer_module, "align", lambda ref, hyp, sclite: list(zip(ref, hyp)))
    with pytest.raises(AssertionError, match="by jiwer"):
        score({"u": "a b"}, {"u": "b"}, NONE)
    monkeypatch.undo()
    monkeypatch.setattr(wer_module, "Levenshtein", SimpleNamespace(distance=lambda ref, hyp: 7))
    with pytest.raises(AssertionError, match="character errors"):
        score({"u": "a b"}, {"u": "b"}, NONE)


def test_jiwer_is_really_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jiwer", SimpleNamespace())
    with pytest.raises(AttributeError):
        score({"u": "a"}, {"u": "a"}, NONE)


@given(st.lists(st.tuples(st.text(max_size=12), st.text(max_size=12)), min_size=1, max_size=4))
def test_any_text_is_scored_as_jiwer_scores_it(pairs: list[tuple[str, str]]) -> None:
    refs, hyps = ({f"u{i}": pair[side] for i, pair in enumerate(pairs)} for side in (0, 1))
    for normalizer in (NONE, BASIC):
        report = score(refs, hyps, normalizer)  # raises AssertionError where jiwer disagrees
        assert report.raw.ref_words == sum(len(split_words(ref)) for ref in refs.values())
        assert (report.counts.errors == 0) == (report.ser == 0.0)


def test_record_says_what_was_normalised() -> None:
    record = score({"u": "a"}, {"u": "a"}, BASIC).normalizer
    assert record["id"] == "kaldi-basic"
    assert record["applied_to"] == ["reference", "hypothesis"]


def test_per_utt_and_per_spk_layout() -> None:
    report = score({"s-1": "the cat sat", "s-2": "so"}, {"s-1": "the bat", "s-2": "so it"}, NONE)
    assert per_utterance_lines(report.utterances) == [
        "s-1  ref  the  cat  sat",
        "s-1  hyp  the  ***  bat",
        "s-1  op    C    D    S",
        "s-1  #csid  1 1 0 1",
        "s-2  ref  so  ***",
        "s-2  hyp  so  it",
        "s-2  op   C    I",
        "s-2  #csid  1 0 1 0",
    ]
    rows = [line.split() for line in per_speaker_lines(report.utterances, {"s-1": "s", "s-2": "s"})]
    assert rows[0] == ["SPEAKER", "id", "#SENT", "#WORD", "Corr", "Sub", "Ins", "Del", "Err", "S.Err"]
    assert rows[1] == ["s", "raw", "2", "4", "2", "1", "1", "1", "3", "2"]
    assert rows[2] == ["s", "sys", "2", "4", "50.00", "25.00", "25.00", "25.00", "75.00", "100.00"]
    assert [row[0] for row in rows[3:]] == ["SUM", "SUM"]
