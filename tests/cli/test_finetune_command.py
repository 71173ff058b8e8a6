"""`train asr --model`: a model folder like any other, resumed, with heads trained on it; mistakes in one line."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from speechmtp.bundle import load_without_heads
from speechmtp.cli.main import main
from speechmtp.training.tasks.encoded_utterances import EncodedUtterance
from tests import tiny

QUICK = ("rows=2", "steps=4", "precision=float32", "optim.warmup=1", "loop.evaluate_every=2", "loop.save_every=2")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Moonshine's folder."""
    return tiny.write_seq2seq(tmp_path_factory.mktemp("seq2seq") / "base")


@pytest.fixture(scope="module")
def data(spoken: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two spoken examples with a short text each."""
    folder = shutil.copytree(spoken, tmp_path_factory.mktemp("finetune") / "data")
    (folder / "text").write_text("digits in the\nletters an ant\n")
    return folder


def command(base: Path, data: Path, out: Path, *more: str) -> list[str]:
    """A short fine-tuning; values stand behind options."""
    values = [word for word in more if "=" in word]
    options = [word for word in more if "=" not in word]
    return ["train", "asr", "--model", str(base), "--train", str(data), "--dev", str(data), "--out", str(out),
            "--threads", "1", *options, *QUICK, "target_case=lower", *values]  # fmt: skip


@pytest.mark.parametrize("parts", ["full", "decoder"])
def test_a_model_folder_is_written_resumed_and_decoded(
    parts: str, base: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    options = [f"parts={parts}", "--dev", str(data), "--prompts", str(tmp_path / "encoder_outputs")]
    assert main([*command(base, data, out, *options)]) == 0
    sizes, figures, model, hint = capsys.readouterr().out.splitlines()
    assert json.loads(sizes) == {"train": 2, "dropped": []} and model == f"model: {out / 'model'}"
    assert set(json.loads(figures)) == {"score", "wer", "wer_2"}
    assert {p.name for p in tmp_path.glob("*encoder_outputs")} == (
        {"encoder_outputs", "dev_encoder_outputs", "dev2_encoder_outputs"} if parts == "decoder" else set()
    )
    card = (out / "model" / "card.md").read_text()
    assert f"base, {parts}, on data, 4 updates of 2 rows, seed 0" in card and card.count("before") == 2
    old, new = (load_file(f / "model.safetensors") for f in (base, out / "model"))
    assert set(new) == set(old)
    moved = {name for name in old if not torch.equal(old[name], new[name])}
    assert any(".decoder." in name for name in moved)
    assert any(".encoder." in name for name in moved) == (parts == "full")
    assert (
        main(["decode", str(data), "--model", str(out / "model"), "--strategy", "ar", "--out", str(tmp_path / "text")])
        == 0
    )
    shutil.rmtree(out / "model")
    assert main([*command(base, data, out, *options, "--resume")]) == 0
    assert all(torch.equal(new[n], w) for n, w in load_file(out / "model" / "model.safetensors").items())
    other = shutil.copytree(data, tmp_path / "other")
    (other / "text").write_text("digits in the\nletters an in\n")
    assert main([*command(base, other, out, *options, "--resume")]) == 2
    assert "data 1 was 2 utterances" in capsys.readouterr().err
    words = hint.removeprefix("its heads: speechmtp ").split()
    small = ["--depth", "1", "rows=2", "steps=1", "precision=float32", "optim.warmup=1", "targets=text"]
    if parts == "decoder":
        assert main([*words, *small]) == 0
        assert (out / "model" / "heads" / "chain" / "heads.safetensors").exists()
    else:  # these weights never end by themselves
        assert main([*words, *small]) == 2
        assert "no output of the development set ended by itself" in capsys.readouterr().err


def test_kept_audio_needs_no_transcripts(
    base: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    from speechmtp.training.tasks import finetune_data

    pytest.importorskip("peft", reason="LoRA needs the extra `train`")
    whole = finetune_data.encoded_utterances

    def shortened(*given: Any) -> list[EncodedUtterance]:
        return [replace(item, text=item.text[:5], ended=True) for item in whole(*given)]

    monkeypatch.setattr(finetune_data, "encoded_utterances", shortened)
    keep = shutil.copytree(data, tmp_path / "keep")
    (keep / "text").unlink()
    assert main(command(base, data, tmp_path / "out", "--keep", str(keep), "keep_share=0.5", "parts=lora")) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[0]) == {"train": 2, "keep": 2, "dropped": []}
    assert "keep held to what it said" in (tmp_path / "out" / "model" / "card.md").read_text()
    model = load_without_heads(str(tmp_path / "out" / "model")).model
    assert not any("lora" in name or "base_layer" in name for name in model.state_dict())


def test_wrong_input_is_one_line_and_nothing_is_written(
    base: Path, data: Path, tmp_path: Path, failing: Callable[[list[str]], str]
) -> None:
    out = tmp_path / "out"

    def error(*more: str, model: Path | str = base) -> str:
        return failing(command(Path(model), data, out, *more))

    assert "partz: no such key" in error("partz=full") and "did you mean 'parts'" in error("partz=full")
    assert "'sideways' is not one of full, decoder, lora" in error("parts=sideways")
    assert "keep_share 0.1 of 2 rows is 0" in error("keep_share=0.1", "--keep", str(data))
    assert "an4: a speech LLM of ours, expected Moonshine or Whisper" in error(model="an4")
    assert "nowhere" in error(model="nowhere")
    assert "no such folder" in error("--keep", str(tmp_path / "nothing"))
    assert "--threads -1" in error("--threads", "-1")
    plain = ["train", "asr", "--train", str(data), "--dev", str(data), "--out", str(out)]
    assert "no --config, and no --model" in failing(plain)
    assert "--keep and --prompts go with a --model" in failing([*plain, "--config", "x.yaml", "--keep", str(data)])
    assert "one --dev data directory" in failing([*plain, "--config", "x.yaml", "--dev", str(data)])
    assert not out.exists()


def test_the_configuration_is_checked_without_a_model(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("parts: decoder\nsteps: 7\n")
    assert main(["train", "asr", "--model", "none", "--train", "x", "--dev", "x", "--out", "x", "--check",
                 "--config", str(path)]) == 0  # fmt: skip
    assert capsys.readouterr().out == f"{path}: parts decoder, 7 updates\n"
