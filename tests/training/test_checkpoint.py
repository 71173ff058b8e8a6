"""A torn checkpoint is never loaded: the one before it is."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from toy_phase import ToyPhase, checkpoint_names, weights

from speechmtp.errors import CheckpointError
from speechmtp.training import checkpoint as store
from speechmtp.training.loop import LoopConfig, run_phase


def save(folder: Path, step: int, value: float) -> Path:
    tensors = {"model": {"a": torch.full((40,), value), "n": torch.tensor(step)}, "ema": {"a": torch.zeros(3)}}
    return store.save_checkpoint(folder, step, tensors, {"lr": [value]}, {"scores": [value]})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two whole checkpoints."""
    save(tmp_path, 10, 1.0)
    save(tmp_path, 20, 2.0)
    return tmp_path


def cut(name: str) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        data = (path / name).read_bytes()
        (path / name).write_bytes(data[: len(data) // 2])

    return damage


def flip(path: Path) -> None:
    data = bytearray((path / "model.safetensors").read_bytes())
    data[-3] ^= 1
    (path / "model.safetensors").write_bytes(bytes(data))


DAMAGE = {
    "short weights": cut("model.safetensors"),
    "short optimiser": cut("optim.pt"),
    "short mark": cut("COMMITTED"),
    "empty mark": lambda path: (path / "COMMITTED").write_text(""),
    "no mark": lambda path: (path / "COMMITTED").unlink(),
    "no state": lambda path: (path / "state.json").unlink(),
    "no weights": lambda path: (path / "ema.safetensors").unlink(),
    "one bit": flip,
}


def test_the_newest_whole_one_is_taken(folder: Path) -> None:
    newest = store.newest_checkpoint(folder)
    assert newest == folder / "ckpt-00000020"
    group = store.read_group(newest, "model")
    assert group["a"].tolist() == [2.0] * 40 and int(group["n"]) == 20
    assert torch.load(newest / "optim.pt", weights_only=True) == {"lr": [2.0]}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_torn_one_is_passed_over(folder: Path, kind: str) -> None:
    DAMAGE[kind](folder / "ckpt-00000020")
    assert store.newest_checkpoint(folder) == folder / "ckpt-00000010"
    DAMAGE[kind](folder / "ckpt-00000010")
    assert store.newest_checkpoint(folder) is None


def test_what_an_interrupted_save_left_is_not_a_checkpoint(folder: Path) -> None:
    left = folder / "ckpt-00000030.tmp-1"
    save(folder, 30, 3.0).rename(left)
    assert store.newest_checkpoint(folder) == folder / "ckpt-00000020"
    store.prune(folder, 2, 20)
    assert not left.exists() and len(store.checkpoints(folder)) == 2


def test_no_folder_at_all(tmp_path: Path) -> None:
    assert store.newest_checkpoint(tmp_path / "none") is None


def test_pruning_keeps_the_newest_and_counts_no_torn_one(folder: Path) -> None:
    save(folder, 30, 3.0)
    (save(folder, 37, 3.7) / "COMMITTED").unlink()
    save(folder, 35, 3.5)  # a run that went on from 30
    store.prune(folder, 1, 35)
    assert store.newest_checkpoint(folder) == folder / "ckpt-00000035"
    save(folder, 40, 4.0)
    store.prune(folder, 2, 40)
    assert checkpoint_names(folder) == ["ckpt-00000037", "ckpt-00000040"]


def test_saving_a_step_again_replaces_it(folder: Path) -> None:
    cut("model.safetensors")(folder / "ckpt-00000020")
    save(folder, 20, 5.0)
    newest = store.newest_checkpoint(folder)
    assert newest is not None and store.read_group(newest, "model")["a"][0] == 5.0


def test_groups_that_cannot_be_read_are_errors(folder: Path) -> None:
    cut("model.safetensors")(folder / "ckpt-00000020")
    for name in ("model", "none"):
        with pytest.raises(CheckpointError, match="ckpt-00000020"):
            store.read_group(folder / "ckpt-00000020", name)


def test_tied_tensors_are_stored_under_both_names(tmp_path: Path) -> None:
    shared = torch.randn(3, 3)
    store.write_group(tmp_path / "x.safetensors", {"a": shared, "b": shared, "c": shared.T})
    group = store.read_group(tmp_path, "x")
    assert torch.equal(group["a"], shared) and torch.equal(group["b"], shared) and torch.equal(group["c"], shared.T)
    assert [p.name for p in tmp_path.iterdir()] == ["x.safetensors"]


def test_the_mean_of_states() -> None:
    groups = [
        {"a": torch.tensor([1.0, 2.0]), "n": torch.tensor(3)},
        {"a": torch.tensor([3.0, 8.0]), "n": torch.tensor(4)},
    ]
    mean = store.mean_of(groups)
    assert mean["a"].tolist() == [2.0, 5.0] and mean["a"].dtype == torch.float32 and int(mean["n"]) == 4
    assert torch.equal(store.mean_of(groups[:1])["a"], groups[0]["a"])


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_run_goes_on_from_the_one_before_and_says_so(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = LoopConfig(evaluate_every=100, save_every=2)
    whole = ToyPhase(6)
    run_phase(whole, tmp_path / "whole", config, 0, False)
    run_phase(ToyPhase(4), tmp_path / "torn", config, 0, False)
    for name in ("final.json", "final.safetensors"):
        (tmp_path / "torn" / name).unlink()
    DAMAGE[kind](tmp_path / "torn" / "ckpt-00000004")
    resumed = ToyPhase(6)
    capsys.readouterr()
    run_phase(resumed, tmp_path / "torn", config, 0, True)
    assert "ckpt-00000004 cannot be used" in capsys.readouterr().err
    # The schedule of the first four steps was that of a shorter run, so only the batches are compared.
    assert resumed.seen == [2, 3, 4, 5]
    assert weights(resumed).keys() == weights(whole).keys()
