"""Scripts that measure a voice: a draft's exactness, speed beside others, hostile lines; with an untrained voice."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scripts import ROOT, imported

import speechmtp
from speechmtp.bundle import Bundle, BundleConfig
from speechmtp.decoding.sampling import SamplingConfig
from speechmtp.errors import DataError
from speechmtp.heads.chain import ChainHeadsConfig
from speechmtp.heads.table import build_heads
from speechmtp.models.bases.unit_lm import UnitLM
from speechmtp.models.bases.unit_settings import UnitModelSettings
from speechmtp.models.trunk import ScratchTrunkConfig
from speechmtp.models.unit_encoder import UnitEncoderConfig
from speechmtp.synthesis import Synthesiser

TRUNK = ScratchTrunkConfig(width=16, layers=1, heads=2, ff_width=32)
UNITS = UnitEncoderConfig(width=8, layers=1, heads=2, ff_width=16)


class Hum:
    """A codec that hums at one level, whatever the tokens are."""

    rate = 24000

    silent: tuple[int, ...] = ()

    def decode(self, tokens: Any, spans: Any, seed: int = 0) -> np.ndarray:
        """Samples [N]."""
        return np.full(300 * int(spans.frames.sum()), 0.1, dtype=np.float32)


@pytest.fixture(scope="module")
def voice() -> Synthesiser:
    """An untrained voice with untrained heads, which says a unit in 25 ms."""
    torch.manual_seed(0)
    model = UnitLM(UnitModelSettings(trunk=TRUNK, units=UNITS, tokens=30)).eval()
    with torch.no_grad():
        model.trunk.requires_grad_(False)
        for weight in model.trunk.parameters():
            weight.mul_(3 if weight.dim() > 1 else 1)
        model.durations.steps[-1].bias[0] = 20.0
    heads = {"chain": build_heads(ChainHeadsConfig(depth=3), model.trunk.shape).eval()}
    config = BundleConfig(kind="voice", model=model.config, sampling=SamplingConfig(temperature=0.9, top_k=12))
    codec: Any = Hum()
    return Synthesiser(Bundle(config, model, heads, codec=codec), torch.device("cpu"), torch.float32)


@pytest.fixture
def loaded(voice: Synthesiser, monkeypatch: pytest.MonkeyPatch) -> Synthesiser:
    """The voice is what `load_voice` gives."""
    monkeypatch.setattr(speechmtp, "load_voice", lambda *words: voice, raising=False)
    return voice


@pytest.fixture
def scripts() -> Iterator[Any]:
    """The scripts of this page."""
    with imported("voice_exact", "voice_peers", "voice_peers_side", "voice_hostile") as modules:
        yield modules


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """Three sentences."""
    (tmp_path / "texts").write_text("a Hello there.\nb Go on.\nc No, thank you.\n")
    return tmp_path / "texts"


def test_drafts_change_nothing(scripts: Any, loaded: Any, texts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--texts", str(texts), "--number", "3", "--seeds", "0,1", "--rows", "1,3"]
    strategies = ["--strategy", "verify:depth=3", "--strategy", "verify:depth=3,rule=ratio"]
    assert scripts[0].main([*words, *strategies]) == 0
    text = capsys.readouterr().out
    rows = [line for line in text.splitlines() if line.startswith("| verify:depth=3 ")]
    assert len(rows) == 3 and "| coupling |" in rows[2] and "| ratio" in text
    assert [cell.strip() for cell in rows[0].split("|")][3] == "6"  # outputs: three sentences, two seeds
    assert scripts[0].main([*words, "--number", "9"]) == 2
    assert "3 sentences, 9 expected" in capsys.readouterr().err


def test_a_wrong_token_is_no_near_tie(
    scripts: Any, loaded: Any, texts: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A draft that changes one token is found, with a gap that no rounding explains."""
    decode = Synthesiser.decode

    def wrong(self: Synthesiser, requests: Any, strategy: Any, sampling: Any = None, recorded: Any = None) -> list[Any]:
        results = decode(self, requests, strategy, sampling, recorded)
        if strategy.name == "ar":
            return results
        return [replace(one, tokens=(*one.tokens[:4], (one.tokens[4] + 1) % 30, *one.tokens[5:])) for one in results]

    monkeypatch.setattr(Synthesiser, "decode", wrong)
    words = ["--texts", str(texts), "--number", "2", "--seeds", "0", "--rows", "1", "--strategy", "verify:depth=3"]
    assert scripts[0].main(words) == 1
    text = capsys.readouterr().out
    assert text.count("| verify:depth=3 |    1 |    0 |") == 2  # seed 0, both sentences


def test_the_gap_is_that_of_plain_decoding(scripts: Any, voice: Any) -> None:
    """The chosen token's own gap is nothing, and every other one's is more; a left-out token's is one of the edge."""
    [request] = [one.request for one in voice.plan("Go on.")]
    sampling = voice.sampling_with(0)
    tokens = list(voice.decode([request], speechmtp.decoding.strategies.parse_strategy("ar"), sampling)[0].tokens)
    found = [scripts[0].gap_of(voice, request, sampling, 3, tokens[3], other) for other in range(30)]
    assert found[tokens[3]] == (0.0, "") and all(gap >= 0 for gap, _ in found)
    assert sum(edge == "edge" for _, edge in found) == 30 - 12


def test_times_are_medians_beside_the_first(scripts: Any) -> None:
    peers = scripts[1]
    side = peers.Side("here", ROOT)
    rows = [peers.Row("one", side, "speechmtp"), peers.Row("two", side, "hibari"), peers.Row("gone", side, "piper")]
    rows[2].missing = "no module"
    for row, wall in zip(rows, (1.0, 0.5)):
        for text in ("a", "b", "a b"):
            row.times[text] = [
                {"audio": 2.0, "wall": each, "processor": each, "first": each} for each in (wall, wall, 9)
            ]
        row.starts = [2.0, 3.0, 8.0]
    one, two = peers.lines_of(rows[:2], ["a", "b"], ["a b"])
    assert (one["rtf"], two["rtf"], two["of first"]) == (0.5, 0.25, 0.5)
    assert (one["first"], one["start"]) == (1000.0, 3.0)
    assert "gone" not in peers.table(rows, ["a", "b"], ["a b"])


def test_sides_of_a_voice(scripts: Any, loaded: Any) -> None:
    """This project's own, and tools that are not there."""
    side = scripts[2]
    answers = list(side.serve(iter([{"tool": "speechmtp", "strategy": "ar"}, {"text": "Go on. No."}])))
    assert answers[1]["audio"] > 0 and 0 < answers[1]["first"] < answers[1]["wall"]
    [missing] = side.serve(iter([{"tool": "kokoro", "strategy": ""}]))
    assert missing["missing"]


def test_hostile_lines_keep_promises(
    scripts: Any, loaded: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hostile = scripts[3]
    lines = hostile.lines_of(1000, 0)
    assert len(lines) == 1000 and lines == hostile.lines_of(1000, 0) and max(len(text) for _, text in lines) >= 5000
    monkeypatch.setattr(hostile, "lines_of", lambda *_: [("nothing", ""), ("words", "Go on."), ("words", "猫")])
    assert hostile.main(["--number", "3"]) == 0
    assert "broken promises: 0" in capsys.readouterr().out
    monkeypatch.setattr(Hum, "decode", lambda *_: np.full(7, 2.0, dtype=np.float32))
    assert hostile.main(["--number", "3"]) == 1
    assert "7 samples" in capsys.readouterr().out

    def refuse(*_: Any, **__: Any) -> Any:
        raise DataError("two\nlines")

    monkeypatch.setattr(Synthesiser, "synthesize", refuse)
    assert hostile.problem_of(loaded, "Go on.", "text")[0] == "an error of several lines"
