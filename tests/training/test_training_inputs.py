"""A training is resumed with what it was begun with, or one line says what differs."""

import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from small_speech import write_speech
from toy_phase import ToyPhase

from speechmtp.data.kaldi import read_data_dir
from speechmtp.errors import CheckpointError
from speechmtp.training import checkpoint as store
from speechmtp.training import distributed
from speechmtp.training.inputs import INPUTS, check_inputs, data_fact, folder_facts, keep_inputs
from speechmtp.training.loop import LoopConfig, load_finished, run_phase
from speechmtp.training.optim import OptimConfig

LOOP = LoopConfig(evaluate_every=100, save_every=2)


@dataclass(frozen=True)
class Options:
    """A configuration with a group, a list and a path."""

    seed: int = 0
    tokenizer: str = "here/tokenizer.model"
    speeds: tuple[float, ...] = (1.0, 1.1)
    optim: OptimConfig = field(default_factory=OptimConfig)


FACTS = {"train data": "3 utterances", "model config.json": "sha256 00"}


def begun(out: Path, config: Options = Options(), **facts: str) -> bool:
    return check_inputs(out, "train.yaml", config, {**FACTS, **facts}, ("tokenizer",))


def test_what_differs_is_named(tmp_path: Path) -> None:
    assert not begun(tmp_path) and not list(tmp_path.iterdir())
    keep_inputs(tmp_path, "train.yaml", Options(), FACTS, ("tokenizer",))
    assert {p.name for p in tmp_path.iterdir()} == {"train.yaml", INPUTS}
    assert begun(tmp_path) and begun(tmp_path, Options(tokenizer="there/tokenizer.model"))
    for config, facts, message in (
        (Options(seed=1), {}, f"{tmp_path / 'train.yaml'}: differs from the configuration given: seed was 0, is 1; "),
        (Options(optim=replace(OptimConfig(), clip=9.0)), {}, "optim.clip was 5.0, is 9.0; resume with the same"),
        (Options(speeds=(1.0, 1.2)), {}, "speeds.1 was 1.1, is 1.2"),
        (Options(speeds=(1.0,)), {}, "speeds.1 was 1.1, is not set"),
        (Options(), {"train data": "4 utterances"}, "train data was 3 utterances, is 4 utterances; resume on the same"),
        (Options(), {"kept data": "x"}, f"{tmp_path}: kept data was not given, is x; "),
    ):
        with pytest.raises(CheckpointError) as caught:
            begun(tmp_path, config, **facts)
        assert message in str(caught.value) and "\n" not in str(caught.value)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(CheckpointError):
        keep_inputs(tmp_path, "train.yaml", Options(seed=1), FACTS)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
    (tmp_path / INPUTS).write_text("{torn")
    with pytest.raises(CheckpointError, match=f"{tmp_path / INPUTS}: cannot be read"):
        begun(tmp_path)


def test_a_training_of_an_earlier_version_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keep_inputs(tmp_path, "train.yaml", Options(), FACTS)
    (tmp_path / INPUTS).unlink()
    assert begun(tmp_path, **{"train data": "other"})
    keep_inputs(tmp_path, "train.yaml", Options(), {"train data": "other"})
    assert "warning" in capsys.readouterr().err and not (tmp_path / INPUTS).exists()


def test_the_fact_of_a_data_directory_is_its_contents(tmp_path: Path) -> None:
    def fact(folder: Path) -> str:
        return data_fact(read_data_dir(folder, need_text=False))

    data = write_speech(tmp_path / "one", 4)
    known = fact(data)
    assert known.startswith("4 utterances (sha256 ")
    moved = shutil.copytree(data, tmp_path / "elsewhere" / "two")
    (moved / "wav.scp").write_text((moved / "wav.scp").read_text().replace(str(data), str(moved)))
    (moved / "utt2spk").unlink()
    assert fact(moved) == known, "folders may move"
    for name, old, new in (("text", "s-00 ", "s-00 A"), ("wav.scp", "s-01.wav", "s-02.wav")):
        text = (moved / name).read_text()
        (moved / name).write_text(text.replace(old, new))
        assert fact(moved) != known, name
        (moved / name).write_text(text)
    with (moved / "wav" / "s-03.wav").open("ab") as file:
        file.write(b"\0\0")
    assert fact(moved) != known, "the size of a file"


def test_the_facts_of_a_model_are_its_files(tmp_path: Path) -> None:
    for name in ("model.safetensors", "config.json", "README.md"):
        (tmp_path / name).write_text(name)
    (tmp_path / "heads").mkdir()
    facts = folder_facts("model", tmp_path)
    assert set(facts) == {"model model.safetensors", "model config.json"}
    (tmp_path / "config.json").write_text("{}")
    assert [name for name, fact in folder_facts("model", tmp_path).items() if fact != facts[name]] == [
        "model config.json"
    ]


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_phase(ToyPhase(2), tmp_path, LOOP, 0, False)

    def error(phase: ToyPhase, seed: int = 0) -> str:
        with pytest.raises(CheckpointError) as caught:
            run_phase(phase, tmp_path, LOOP, seed, True)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "seed was 0, is 5; resume with the same" in error(ToyPhase(4), 5)
    other = ToyPhase(4)
    other.name = "other"
    assert "phase was toy, is other" in error(other)
    wide = ToyPhase(4)
    wide.module["line"] = torch.nn.Linear(5, 1)  # type: ignore[index]
    message = r"1 of another shape (first: line.weight [1, 3], expected [1, 5])"
    assert message in error(wide)
    with pytest.raises(CheckpointError) as caught:
        load_finished(wide.module, tmp_path)
    assert message in str(caught.value)
    with monkeypatch.context() as patch:
        patch.setattr(distributed, "start", lambda *_: (0, 2))
        assert "processes was 1, is 2" in error(ToyPhase(4))
    (tmp_path / "final.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"final\.json: cannot be read"):
        load_finished(ToyPhase().module, tmp_path)
    assert set(run_phase(ToyPhase(4), tmp_path, LOOP, 0, True)) == {"score"}


def test_a_checkpoint_of_an_earlier_version_goes_on(tmp_path: Path) -> None:
    """It has neither seed nor processes."""
    phase = ToyPhase(2)
    run_phase(phase, tmp_path / "new", LOOP, 0, False)
    folder = tmp_path / "new" / "ckpt-00000002"
    groups = {name: store.read_group(folder, name) for name in ("model", "ema")}
    optimiser = torch.load(folder / "optim.pt", weights_only=True)
    store.save_checkpoint(tmp_path / "old", 2, groups, optimiser, {"phase": "toy", "bad": 0, "scores": []})
    run_phase(ToyPhase(4), tmp_path / "old", LOOP, 0, True)
