"""Two systems side by side, from reports and from the files of an earlier scoring."""

from pathlib import Path

import pytest

from speechmtp.errors import ConfigError, DataError
from speechmtp.scoring.compare import compare, comparison_lines, read_system, system_of
from speechmtp.scoring.report import wer_interval, write_report
from speechmtp.scoring.wer import Report, score
from speechmtp.text.normalize import get_normalizer

REFS = {f"u{i:02d}": "one two three four" for i in range(40)}


def report_of(wrong: int, normalizer: str = "kaldi-basic") -> Report:
    hyps = {u: "one two" if i < wrong else text for i, (u, text) in enumerate(REFS.items())}
    return score(REFS, hyps, get_normalizer(normalizer))


def test_identical_systems() -> None:
    result = compare(system_of(report_of(5), "a"), system_of(report_of(5), "b"))
    assert (result["identical"], result["exact_match"]) == (40, 100.0)
    assert (result["p"], result["z"], result["delta"]) == (1.0, 0.0, 0.0)
    assert (result["probability_of_improvement"], result["probability_of_tie"]) == (0.0, 1.0)


def test_the_second_system_is_better() -> None:
    result = compare(system_of(report_of(20), "old"), system_of(report_of(4), "new"), seed=3)
    assert result["wer"] == [pytest.approx(25.0), pytest.approx(5.0)]
    assert result["delta"] == pytest.approx(20.0)
    assert result["delta_low"] > 0
    assert result["p"] < 1e-3
    assert result["identical"] == 24
    lines = comparison_lines(result)
    assert lines[0] == "old against new: 24 of 40 texts identical"
    assert "%WER 25.00 against 5.00: +20.00 points" in lines[1]


def test_an_earlier_scoring_reads_back_as_it_was(tmp_path: Path) -> None:
    refs = {"u1": "a\u00a0b c", "u2": "", "u3": "d e", "op": "x y"}
    report = score(refs, {"u1": "c", "u2": "x y", "u3": "", "op": "y x"}, get_normalizer("none"))
    write_report(report, tmp_path, wer_interval(report))
    read, direct = read_system(tmp_path, "x"), system_of(report, "x")
    assert read == direct


def test_different_normalisers_are_refused_unless_forced() -> None:
    first, second = system_of(report_of(1), "a"), system_of(report_of(1, "none"), "b")
    with pytest.raises(ConfigError, match=r"kaldi-basic@1 .* and none@1 .*force=True"):
        compare(first, second)
    assert compare(first, second, force=True)["delta"] == 0.0


def test_different_costs_are_refused() -> None:
    other = score(REFS, REFS, get_normalizer("kaldi-basic"), sclite=True)
    with pytest.raises(ConfigError, match="costs 1/1/1 and sclite"):
        compare(system_of(report_of(0), "a"), system_of(other, "b"))


def test_different_utterances_or_references_are_refused() -> None:
    basic = get_normalizer("kaldi-basic")
    fewer = {u: text for u, text in REFS.items() if u != "u07"}
    with pytest.raises(DataError, match="u07"):
        compare(system_of(report_of(0), "a"), system_of(score(fewer, fewer, basic), "b"))
    changed = {**REFS, "u09": "five"}
    with pytest.raises(DataError, match="u09"):
        compare(system_of(report_of(0), "a"), system_of(score(changed, changed, basic), "b"))


def test_a_folder_without_a_scoring_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no complete scoring"):
        read_system(tmp_path)
    (tmp_path / "summary.json").write_text('{"normalizer": {}, "alignment": "1/1/1"}')
    (tmp_path / "per_utt").write_text("u1  ref  a\nu1  what\n")
    with pytest.raises(DataError, match="per_utt:2: 'what'"):
        read_system(tmp_path)
