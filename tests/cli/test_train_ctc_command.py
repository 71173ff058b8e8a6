"""`train ctc`: a folder beside the model that drafts, resumes, and is refused on another encoder."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from speechmtp.api import load
from speechmtp.bundle import load_bundle
from speechmtp.cli.main import main
from speechmtp.training.tasks import character_ctc as task
from tests import tiny

SMALL = ("ctc.width=8", "ctc.layers=1", "ctc.heads=2", "ctc.ff_width=16", "ctc.kernel=5", "rows=2", "steps=6",
         "precision=float32", "loop.evaluate_every=3", "loop.save_every=3")  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Moonshine's folder."""
    return tiny.write_seq2seq(tmp_path_factory.mktemp("seq2seq") / "base")


@pytest.fixture(autouse=True)
def every_output_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A random model seldom ends by itself."""
    whole = task.character_texts
    monkeypatch.setattr(task, "MIN_COUNT", 1)
    monkeypatch.setattr(
        task, "character_texts", lambda items, decode: whole([replace(i, ended=True) for i in items], decode)
    )


def command(model: Path, data: Path, out: Path, *more: str) -> list[str]:
    """A short training."""
    return ["train", "ctc", "--model", str(model), "--train", str(data), "--dev", str(data), "--out", str(out),
            "--threads", "1", *more, *SMALL]  # fmt: skip


@pytest.fixture
def trained(model: Path, spoken: Path, tmp_path: Path) -> Path:
    """The folder of a trained head."""
    assert main(command(model, spoken, tmp_path / "ctc", "--prompts", str(tmp_path / "memories.safetensors"))) == 0
    return tmp_path / "ctc"


def test_a_trained_head_drafts_and_the_text_stays(
    model: Path, spoken: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (tmp_path / "memories.safetensors").exists() and (tmp_path / "dev_memories.safetensors").exists()
    assert "error rates in percent" in (trained / "card.md").read_text()
    options = ["--strategies", "ar,ctc,ctc:mode=whole,ctc-only", "--ctc", str(trained), "--out", str(tmp_path / "cmp")]
    assert main(["compare", str(spoken), "--model", str(model), *options]) == 0
    rows = {row["label"]: row for row in json.loads((tmp_path / "cmp" / "compare.json").read_text())}
    plain = rows["ar"]
    for label in ("ctc", "ctc:mode=whole"):
        assert rows[label]["identical_to_ar"] == plain["utterances"] and rows[label]["fed"] > plain["fed"]
    assert rows["ctc-only"]["trunk_calls"] == 0


def test_the_head_in_the_models_own_folder_is_found(model: Path, trained: Path, tmp_path: Path) -> None:
    own = shutil.copytree(model, tmp_path / "own")
    assert not load(str(own)).has_ctc
    shutil.copytree(trained, own / "ctc", ignore=shutil.ignore_patterns("training"))
    found = load(str(own))
    assert found.has_ctc and found.bundle.ctc is not None
    again = load_bundle(str(model), ctc=str(trained)).ctc
    assert again is not None and all(
        map(torch.equal, again.state_dict().values(), found.bundle.ctc.state_dict().values())
    )


def test_another_encoder_is_refused(trained: Path, tmp_path: Path, failing: Callable[[list[str]], str]) -> None:
    other = tiny.write_seq2seq(tmp_path / "other", seed=1)
    message = failing(["transcribe", "--model", str(other), "--ctc", str(trained), "nothing.wav"])
    assert "was trained on another encoder (base); train it again" in message


@pytest.mark.parametrize("storage", ["int8", "uint8", "float32"])
def test_a_rounded_model_keeps_its_head(model: Path, trained: Path, tmp_path: Path, storage: str) -> None:
    """The head is bound to the encoder as it will be loaded."""
    out = tmp_path / "out"
    assert main(["export", "--model", str(model), "--ctc", str(trained), "--storage", storage, "--out", str(out)]) == 0
    assert load(str(out)).has_ctc


def test_a_training_goes_on_and_is_not_written_over(
    model: Path, spoken: Path, trained: Path, tmp_path: Path, failing: Callable[[list[str]], str]
) -> None:
    before = (trained / "ctc.safetensors").read_bytes()
    assert "holds a training already; give --resume" in failing(command(model, spoken, trained))
    assert main(command(model, spoken, trained, "--resume")) == 0
    assert (trained / "ctc.safetensors").read_bytes() == before
    other = tiny.write_seq2seq(tmp_path / "other", seed=1)
    message = failing(command(other, spoken, trained, "--resume"))
    assert f"{trained}: model model.safetensors was sha256" in message and "resume on the same model" in message


def test_a_model_with_a_ctc_head_of_its_own_is_refused(
    spoken: Path, tmp_path: Path, failing: Callable[[list[str]], str]
) -> None:
    message = failing(command(Path("an4"), spoken, tmp_path / "ctc"))
    assert "an4: a speech LLM of ours, expected Moonshine or Whisper" in message
