"""The load tool: which figures it makes of what was sent and said, and that it sends when audio is due."""

import importlib.util
import json
import os
import sys
import threading
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import soundfile

import speechmtp
from speechmtp.text.normalize import get_normalizer
from speechmtp.words.word import Word

ROOT = Path(__file__).resolve().parents[2]
PLAIN = get_normalizer("kaldi-basic")


def tool(name: str) -> ModuleType:
    """A module of tools/."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # for dataclasses
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def figures() -> ModuleType:
    """tools/load_figures.py."""
    return tool("load_figures")


@pytest.fixture(scope="module")
def streams() -> ModuleType:
    """tools/load_streams.py."""
    return tool("load_streams")


def record(**more: Any) -> dict[str, Any]:
    """A connection that began at 100 s and said two utterances, of 2 s and 1 s."""
    return {
        "number": 0, "asked": 99.0, "connect": 0.01, "refused": "", "t0": 100.0, "lateness": [0.001] * 99 + [0.015],
        "blocked": 0.0, "closed": "", "aborted": False, "fast": False,
        "slots": [
            {"id": "a", "begin": 0, "end": 32000, "asked": 102.0, "samples": 32000, "check": 1},
            {"id": "b", "begin": 48000, "end": 64000, "asked": 104.0, "samples": 32000, "check": 2},
        ],
        "events": [
            [100.9, "tail", "x", " one"], [101.2, "heard", 1000, 4, 2], [101.5, "delta", "x", "one"],
            [101.5, "tail", "x", " too"], [102.0, "committed", "x"], [102.2, "delta", "x", " two."],
            [102.3, "completed", "x", "one two."], [104.0, "committed", "y"],
        ],
    } | more  # fmt: skip


WORDS = {"a": [Word("one", 0.5, 1.0), Word("two", 1.2, 1.7)]}


def test_delays_are_behind_the_words_and_the_commit(figures: ModuleType) -> None:
    found = figures.measured([record()], "commit", {"a": "one two.", "b": "three"}, WORDS, PLAIN)
    delays = found.delays
    assert delays["emission"] == pytest.approx([0.5, 0.5])  # at 101.5 and 102.2, spoken until 101.0 and 101.7
    assert delays["first token"] == pytest.approx([0.4]) and delays["finalisation"] == pytest.approx([0.3])
    assert delays["shown"] == pytest.approx([-0.1, 0.5]) and delays["heard"] == pytest.approx([0.2])
    assert found.counts["commits"] == 2 and found.counts["lost"] == 1 and not found.counts["wrong"]
    assert found.counts["words"] == 2 and found.counts["retracted"] == 1
    assert found.texts == {"a": "one two."} and not found.void
    text = "\n".join(figures.lines(found.figures()))
    assert "emission" in text and "lost 1" in text and "VOID" not in text and json.dumps(found.figures())


def test_what_differs_from_alone_is_wrong_and_what_is_late_is_void(figures: ModuleType) -> None:
    late = record(lateness=[0.001] * 98 + [0.03] * 2)
    found = figures.measured([late], "commit", {"a": "one too."}, {}, PLAIN)
    assert found.counts["wrong"] == found.counts["wrong words"] == 1
    assert found.wrong == [{"id": "a", "expected": "one too.", "found": "one two."}]
    assert found.void and any(line.startswith("VOID") for line in figures.lines(found.figures()))


def test_a_stub_tells_how_much_audio_it_got(figures: ModuleType) -> None:
    events = [[102.0, "committed", "x"], [102.1, "completed", "x", "w1 w2 n32000x00000001"],
              [104.0, "committed", "y"], [104.1, "completed", "y", "n31999x00000002"]]  # fmt: skip
    found = figures.measured([record(events=events)], "commit", {}, {}, PLAIN, stub=True)
    assert [one["id"] for one in found.wrong] == ["b"] and found.counts["lost"] == 0


def test_without_commits_items_belong_to_the_utterance_in_which_they_begin(figures: ModuleType) -> None:
    events = [
        [100.6, "started", "x", 450], [101.5, "delta", "x", "one"], [101.9, "completed", "x", "one"],
        [102.0, "started", "y", 1900], [102.5, "delta", "y", "two"], [102.7, "completed", "y", "two"],
        [103.5, "started", "z", 3010], [104.5, "failed", "z", "broken"],
    ]  # fmt: skip
    found = figures.measured([record(events=events)], "vad", {"a": "one two"}, WORDS, PLAIN)
    assert found.delays["finalisation"] == pytest.approx([102.7 - 101.7])
    assert found.counts["failed"] == 1 and found.counts["lost"] == found.counts["wrong"] == 0


def test_refusals_and_closed_connections_are_counted(figures: ModuleType) -> None:
    refused = record(refused="503", connect=0.04, events=[], slots=[])
    found = figures.measured([refused, record(closed="1013 full")], "commit", {}, {}, PLAIN)
    assert found.counts["refused"] == found.counts["closed"] == 1 and found.delays["refused"] == [0.04]
    assert any("closed: 1013 full (1 times)" in line for line in figures.lines(found.figures()))


def test_percentiles_histograms_and_slopes(figures: ModuleType) -> None:
    values = [0.001 * n for n in range(1, 1001)]
    assert figures.spread(values)["p95"] == pytest.approx(0.95, abs=0.001) and figures.spread([])["p50"] is None
    bins = figures.histogram([*values, -1.0, 1e9])
    assert sum(bins["counts"]) == 1002 and bins["from"] == sorted(bins["from"]) and bins["from"][0] == 0.0
    times = [float(n) for n in range(100)]
    assert figures.slope(times, [0.5 + 0.002 * time for time in times]) == pytest.approx(2.0)
    assert figures.slope(times[:50], times[:50]) is None


def test_utterances_begin_on_a_grid_and_pieces_end_with_them(streams: ModuleType) -> None:
    audio = {"a": np.arange(5000, dtype="<i2"), "b": np.ones(16000, "<i2")}
    plan = streams.Plan("", "", [0], 1.0, "", conversation=True)
    slots = streams.Programme(plan, audio, 0).slots()
    first, second = next(slots), next(slots)
    assert (first.id, second.id) == ("a", "b") and len(first.samples) == 10240 and len(second.samples) == 33280
    edges = streams.pieces(first, 640)
    assert edges[7:9] == [(4480, 5000), (5000, 5120)] and edges[-1][1] == 10240
    plan, many = streams.Plan("", "", [0], 1.0, "", seed=2), dict.fromkeys("abcdef", audio["a"])
    assert len({next(streams.Programme(plan, many, number).slots()).id for number in range(20)}) > 3


def test_the_front_alone_gets_every_sample(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "data"
    data.mkdir()
    samples, rate = soundfile.read(str(speechmtp.example("reading")), dtype="int16")
    soundfile.write(tmp_path / "a.wav", samples[: rate // 2], rate)
    (data / "wav.scp").write_text(f"a {tmp_path}/a.wav\n")
    out = tmp_path / "out.json"
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        load = tool("load")
        assert load.main(
            [
                "run",
                str(data),
                "--streams",
                "3",
                "--fast",
                "1",
                "--minutes",
                "0.035",
                "--spread",
                "0.1",
                "--out",
                str(out),
            ]
        ) in (0, 1)
    finally:
        sys.path.remove(str(ROOT / "tools"))
    report = json.loads(out.read_text())
    assert report["counts"]["connections"] == 3 and report["counts"]["commits"] >= 3
    assert report["counts"]["lost"] == report["counts"]["wrong"] == report["counts"]["refused"] == 0
    assert report["delays"]["finalisation"]["p50"] < 1 and report["processes"][0]["front"]
    assert report["event_loop_delay_p99"] is not None and "front: " in capsys.readouterr().out


def test_a_process_is_watched() -> None:
    watch = tool("load_watch")
    with watch.Watch(os.getpid()) as seen:
        stop = threading.Event()
        threading.Thread(target=stop.wait, daemon=True).start()
        until = time.process_time() + 0.2
        while time.process_time() < until:
            pass
        stop.set()
    [row] = [one for one in seen.rows() if one["front"]]
    assert row["cpu"] > 0.2 and row["rss_mb"][0] > 20 and row["threads"][0] >= 1 and row["descriptors"][0] > 2
    assert watch.sample(1 << 30) is None


def test_quantiles_of_metrics_are_those_between_two_looks() -> None:
    watch = tool("load_watch")
    before = 'x_bucket{le="0.01"} 10\nx_bucket{le="0.02"} 10\nx_bucket{le="+Inf"} 10\n'
    after = 'x_bucket{le="0.01"} 60\nx_bucket{le="0.02"} 109\nx_bucket{le="+Inf"} 110\n'
    assert watch.quantile(before, after, "x", 0.5) == 0.01 and watch.quantile(before, after, "x", 0.99) == 0.02
    assert watch.quantile(before, after, "x", 1.0) == float("inf") and watch.quantile("", "", "x", 0.5) is None
