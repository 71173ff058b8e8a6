"""What a data directory holds, in numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest


def test_stats(good: Path, tone: Any, run: Any) -> None:
    (good / "utt2dur").unlink()
    tone(good / "wav" / "b-2.wav", seconds=2.5)
    code, printed = run("stats", good, "--json")
    (stats,) = json.loads(printed)
    assert code == 0
    assert (stats["utterances"], stats["speakers"], stats["words"], stats["distinct_words"]) == (4, 2, 8, 5)
    assert stats["hours"] == pytest.approx(4.0 / 3600)
    assert stats["duration_percentiles"] == {
        "0": 0.5,
        "5": 0.5,
        "25": 0.5,
        "50": 0.5,
        "75": 1.0,
        "95": 2.2,
        "100": 2.5,
    }
    counts = {cell["from"]: cell["count"] for cell in stats["duration_histogram"]}
    assert counts[0.0] == 3
    assert counts[2.0] == 1
    assert stats["characters"]["L"] == 8
    code, printed = run("stats", good)
    assert code == 0
    assert "utterances 4, 0.001 h, speakers 2" in printed
    assert "L 8" in printed
