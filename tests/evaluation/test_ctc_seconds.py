"""A CTC head runs for the strategies that read it, each time anew, and its seconds are theirs."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny
import torch

import speechmtp
from speechmtp import clock, recognition
from speechmtp.api import Recogniser
from speechmtp.audio.io import read_audio
from speechmtp.bundle import load_bundle
from speechmtp.decoding.strategies import parse_strategy
from speechmtp.evaluation.comparison import run_comparison
from speechmtp.evaluation.evaluation_sets import SpeechEvaluationSet
from speechmtp.models import ctc_labels
from speechmtp.models.character_ctc import CharacterCtcConfig, CharacterCtcHead
from speechmtp.types import CtcCharacters, CtcLabels, CtcSource, Request

HEAD = 8.0  # seconds that a head takes


class Time:
    """A clock that only CTC heads move, and how often they did."""

    def __init__(self) -> None:
        self.runs = 0

    def perf_counter(self) -> float:
        """Seconds so far."""
        return HEAD * self.runs


@pytest.fixture(scope="module", params=["own", "draft"])
def recogniser(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Recogniser:
    """A model with a CTC head of its own, and a tiny one with a CTC draft head of random weights."""
    if request.param == "own":
        return speechmtp.load("an4", device="cpu")
    bundle = load_bundle(str(tiny.write_seq2seq(tmp_path_factory.mktemp("model") / "moonshine")))
    torch.manual_seed(0)
    sizes = CharacterCtcConfig("abc", tiny.WIDTH, width=8, layers=1, heads=2, ff_width=8, kernel=3)
    bundle.ctc = CharacterCtcHead(sizes).eval()
    return Recogniser(bundle, torch.device("cpu"), torch.float32)


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    """The clock of decoding and hearing, which every run of a CTC head moves by `HEAD`."""
    now = Time()

    def counted(function: Any) -> Any:
        def run(*given: Any) -> Any:
            now.runs += 1
            return function(*given)

        return run

    monkeypatch.setattr(CharacterCtcHead, "spell", counted(CharacterCtcHead.spell))
    monkeypatch.setattr(ctc_labels, "ctc_labels", counted(ctc_labels.ctc_labels))
    for module in (clock, recognition):
        monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=now.perf_counter))
    return now


def heard(recogniser: Recogniser) -> list[Request]:
    """Two requests of spoken examples."""
    names = ("digits", "date")
    return [recogniser.listen(read_audio(speechmtp.example(name), recogniser.rate)[0], name) for name in names]


def test_hearing_runs_no_head_and_reading_always_does(recogniser: Recogniser, time: Time) -> None:
    first = heard(recogniser)[0]
    assert time.runs == 0 and first.listen_seconds == 0.0
    source = first.source(CtcSource)
    assert source is not None
    once, again = source.read(), source.read()
    assert time.runs == 2 and once == again and isinstance(once, CtcLabels | CtcCharacters)
    assert once.read() is once, "an output is read without the head"


def test_strategies_that_read_a_head_pay_for_it(recogniser: Recogniser, time: Time) -> None:
    requests, known = heard(recogniser), [("ar", 0), ("ctc", 2), ("ctc-only", 2)]
    for strategy, runs in [*known, *([("verify", 0), ("ctc-heads", 2)] if recogniser.bundle.heads else [])]:
        for _ in range(2):  # nothing is kept for a second strategy
            time.runs = 0
            results = recogniser.decode(requests, parse_strategy(strategy))
            assert time.runs == runs and [r.seconds for r in results] == [HEAD * runs] * 2, strategy
            drafting = 0.0 if strategy == "ctc-only" else HEAD * runs / 2
            assert [r.trace.draft_seconds for r in results] == [drafting] * 2, "divided among the rows"


def test_in_a_mixed_batch_only_the_rows_that_read_it_have_its_seconds(recogniser: Recogniser, time: Time) -> None:
    plain, drafted = recogniser.decode(heard(recogniser), [parse_strategy("ar"), parse_strategy("ctc")])
    assert time.runs == 1 and (plain.trace.draft_seconds, drafted.trace.draft_seconds) == (0.0, HEAD)
    assert plain.seconds == drafted.seconds == HEAD, "those of the batch"


def test_every_row_of_a_comparison_pays(recogniser: Recogniser, time: Time) -> None:
    requests = dict(zip(("digits", "date"), heard(recogniser)))
    evaluation_set = SpeechEvaluationSet(recogniser, requests, 4.0, dict.fromkeys(requests, "A"))
    rows = run_comparison(evaluation_set, ["ar", "ctc", "ctc:mode=whole", "ctc-only"]).rows
    assert [row["seconds"] for row in rows] == [0.0, 2 * HEAD, 2 * HEAD, 2 * HEAD]
    assert [row["end_to_end_seconds"] for row in rows] == [4.0, *[4.0 + 2 * HEAD] * 3]


def test_one_transcription_pays_once(recogniser: Recogniser, time: Time) -> None:
    found = recogniser.transcribe(speechmtp.example("digits"), strategy="ctc")
    assert time.runs == 1 and (found.seconds, found.listen_seconds) == (HEAD, 0.0)


def test_silence_is_empty_without_reading_the_head(time: Time) -> None:
    quiet = speechmtp.load("an4", device="cpu").transcribe(np.zeros(8000, dtype=np.float32), 16000, strategy="ctc")
    assert (quiet.text, quiet.flags, time.runs) == ("", ("empty",), 0)
