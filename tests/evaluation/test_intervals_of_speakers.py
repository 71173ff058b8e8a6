"""Intervals of a comparison resample speakers where the data names enough of them, as those of `score` do."""

from pathlib import Path

import pytest

import speechmtp
from speechmtp.api import Recogniser
from speechmtp.data.kaldi import read_data_dir
from speechmtp.evaluation.evaluation_sets import EvaluationSet, SpeechEvaluationSet, open_model
from speechmtp.evaluation.settings import EvaluationSettings
from speechmtp.scoring.report import wer_interval
from speechmtp.scoring.wer import score
from speechmtp.text.normalize import get_normalizer
from speechmtp.types import Result, Trace

NAMES = [f"u{number:02}" for number in range(24)]
TEXTS = dict.fromkeys(NAMES, "A B C D")
# Every second speaker is misheard throughout.
OUTPUTS = {name: Result("A" if number // 2 % 2 else "A B C D", (), Trace()) for number, name in enumerate(NAMES)}


@pytest.fixture(scope="module")
def recogniser() -> Recogniser:
    """The smallest embedded model."""
    return speechmtp.load("an4", device="cpu")


@pytest.mark.parametrize(("speakers", "unit"), [(12, "speaker"), (10, "speaker"), (9, "utterance"), (0, "utterance")])
def test_the_unit_is_that_of_score(recogniser: Recogniser, speakers: int, unit: str) -> None:
    given = {name: f"s{number // 2 % speakers}" for number, name in enumerate(NAMES)} if speakers else None
    row = SpeechEvaluationSet(recogniser, {}, 0.0, TEXTS, given).judge(OUTPUTS, 5)
    report = score(TEXTS, {n: r.text for n, r in OUTPUTS.items()}, get_normalizer("kaldi-basic"))
    expected = wer_interval(report, 5, given)
    assert (row["wer_low"], row["wer_high"], row["wer_unit"]) == (expected.low, expected.high, unit)
    by_utterance = wer_interval(report, 5)
    assert ((row["wer_low"], row["wer_high"]) == (by_utterance.low, by_utterance.high)) == (unit == "utterance")
    assert (row["wer"], row["words"], row["normalizer"]) == (37.5, 96, "kaldi-basic")


def test_speakers_are_those_of_the_data(tmp_path: Path) -> None:
    audio = speechmtp.example("digits")
    (tmp_path / "wav.scp").write_text(f"a {audio}\nb {audio}\n")
    (tmp_path / "text").write_text("a FOUR\nb FOUR\n")
    assert read_data_dir(tmp_path).speakers() is None
    (tmp_path / "utt2spk").write_text("a x\nb y\n")
    found: EvaluationSet = open_model(EvaluationSettings(str(tmp_path), "an4", device="cpu")).read()
    assert isinstance(found, SpeechEvaluationSet) and found.speakers == {"a": "x", "b": "y"}
