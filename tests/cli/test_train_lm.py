"""`train lm`: from text to a folder of transformers that decodes, twice with one tokenizer."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from engine_runs import Limits
from safetensors.torch import load_file
from small_lm import LINES, load_lm

from speechmtp.cli.main import main
from speechmtp.decoding.engine import plain_outputs
from speechmtp.evaluation.held_out import text_prompt

QUICK = [
    "model.width=32", "model.layers=2", "model.heads=2", "model.ff_width=48", "vocab_size=290", "lines=2",
    "held_out=2", "rows=2", "size=24", "precision=float32", "optim.warmup=1", "loop.evaluate_every=3",
]  # fmt: skip


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text of 30 lines."""
    path = tmp_path_factory.mktemp("text") / "lines.txt"
    path.write_text("\n".join(LINES * 6) + "\n")
    return path


def command(text: Path, out: Path, *more: str, steps: int = 6) -> list[str]:
    """A short training."""
    return ["train", "lm", "--text", str(text), "--out", str(out), "--threads", "1", *more, *QUICK, f"steps={steps}"]


@pytest.fixture(scope="module")
def trained(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder `big`, which has learned the text, and `small` with its tokenizer."""
    folder = tmp_path_factory.mktemp("trained")
    assert main([*command(text, folder / "big", steps=60), "optim.lr=0.01"]) == 0
    shared = ["--tokenizer", str(folder / "big" / "model")]
    assert main([*command(text, folder / "small", *shared), "model.layers=1", "vocab_size=300"]) == 0
    return folder


def failing(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of a command that fails."""
    capsys.readouterr()
    assert main(arguments) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("speechmtp: error: ") and "\n" not in error
    return error


def test_the_folder_loads_and_decodes_as_transformers_does(trained: Path) -> None:
    lm = load_lm(trained / "big" / "model")
    assert (lm.bos, lm.eos[0]) == (1, 2) and lm.trunk.vocab_size == len(lm.tokenizer) == 290
    ids = lm.encode(LINES[0])
    assert lm.decode(ids) == LINES[0]
    [said] = plain_outputs(lm.trunk, text_prompt(lm.trunk, [ids[:6]]), lm.rules, Limits(0.0, 40, 40))
    own = lm.trunk.model.generate(torch.tensor([ids[:6]]), max_new_tokens=40, do_sample=False)[0].tolist()
    assert said == own[6:] and len(said) > 3


def test_figures_and_card_say_what_was_reached(trained: Path) -> None:
    final = json.loads((trained / "big" / "training" / "final.json").read_text())
    first = json.loads((trained / "small" / "training" / "final.json").read_text())
    assert final["steps"] == 60 and final["figures"]["perplexity"] < 0.5 * first["figures"]["perplexity"]
    card = (trained / "big" / "model" / "card.md").read_text()
    assert f"- perplexity a token: {final['figures']['perplexity']:.2f}\n" in card
    assert "on lines.txt: 60 updates of 2 x 24 tokens" in card and "the last 2 documents" in card
    assert {p.name for p in (trained / "big").iterdir()} == {
        "config.yaml", "inputs.json", "tokenizer", "training", "model",
    }  # fmt: skip


def test_a_small_model_shares_the_tokenizer(trained: Path) -> None:
    big, small = (load_lm(trained / name / "model") for name in ("big", "small"))
    assert big.tokenizer.get_vocab() == small.tokenizer.get_vocab()
    assert small.trunk.vocab_size == big.trunk.vocab_size and small.trunk.layers == 1
    config = yaml.safe_load((trained / "small" / "config.yaml").read_text())
    assert config["tokenizer"] == str(trained / "big" / "model")


def test_a_finished_training_writes_the_same_model_again(text: Path, trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained / "big", tmp_path / "big")
    shutil.rmtree(tmp_path / "big" / "model")
    assert main([*command(text, tmp_path / "big", "--resume", steps=60), "optim.lr=0.01"]) == 0
    one, other = (load_file(folder / "big" / "model" / "model.safetensors") for folder in (trained, tmp_path))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_what_cannot_be_done_is_one_line(
    text: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def error(*more: str, out: Path = tmp_path / "out") -> str:
        return failing([*command(text, out, *more)], capsys)

    assert "absent.txt" in failing(command(tmp_path / "absent.txt", tmp_path / "out"), capsys)
    assert "absent.txt" in error("--dev", str(tmp_path / "absent.txt"))
    assert "tokenizer" in error("--tokenizer", str(tmp_path)) and not (tmp_path / "out").exists()
    assert "15 documents, held_out 15; lower" in failing([*command(text, tmp_path / "out"), "held_out=15"], capsys)
    assert "--threads -1: expected 0 (PyTorch's choice) to 1024" in error("--threads", "-1")
    assert "did you mean 'steps'" in failing([*command(text, tmp_path / "out"), "stps=3"], capsys)
    assert "width 30 must be an even multiple" in failing([*command(text, tmp_path / "out"), "model.width=30",
                                                           "model.heads=4"], capsys)  # fmt: skip
    assert "give --resume" in error(out=trained / "big")
    assert "differs from the configuration given" in error("--resume", out=trained / "big")
    (tmp_path / "more.txt").write_text(text.read_text() + "one more\n")
    resumed = [*command(tmp_path / "more.txt", trained / "big", "--resume", steps=60), "optim.lr=0.01"]
    assert re.search(
        "big: text was sha256 .*, is sha256 .*; resume on the same model and data", failing(resumed, capsys)
    )
