"""Values that no model, draft or run can have: one line with the field and what it may be, before anything is built."""

import time
from typing import Any
from unittest.mock import Mock

import pytest

from speechmtp.bundle import BundleConfig
from speechmtp.cli import strategies
from speechmtp.cli.main import main
from speechmtp.config import Range, from_dict, load_config
from speechmtp.decoding.strategies import parse_strategy
from speechmtp.decoding.strategy_table import STRATEGIES
from speechmtp.errors import ConfigError
from speechmtp.heads.folder import CtcFolderConfig, HeadFolderConfig
from speechmtp.heads.table import FAMILIES
from speechmtp.models.bases.table import settings_in
from speechmtp.models.trunk import ScratchTrunkConfig
from speechmtp.training.tasks.asr import AsrConfig
from speechmtp.training.tasks.character_ctc import CharacterCtcTrainConfig
from speechmtp.training.tasks.finetune_data import FinetuneConfig
from speechmtp.training.tasks.heads import HeadsTrainConfig
from speechmtp.training.tasks.lm import LmConfig

HUGE = 10**30


@pytest.mark.parametrize("value", [0, -3, 10**9, HUGE])
@pytest.mark.parametrize(
    ("kind", "key"),
    [
        (AsrConfig, "model.encoder.width"), (AsrConfig, "model.encoder.layers"), (AsrConfig, "model.encoder.heads"),
        (AsrConfig, "model.encoder.features"), (AsrConfig, "model.encoder.channels"),
        (AsrConfig, "model.trunk.width"), (AsrConfig, "model.trunk.layers"), (AsrConfig, "model.trunk.heads"),
        (LmConfig, "model.ff_width"), (LmConfig, "vocab_size"), (LmConfig, "size"), (LmConfig, "rows"),
        (CharacterCtcTrainConfig, "ctc.width"), (CharacterCtcTrainConfig, "ctc.stride"),
        (FinetuneConfig, "lora_rank"), (HeadsTrainConfig, "lora_rank"), (HeadsTrainConfig, "prompt_tokens"),
    ],
)  # fmt: skip
def test_sizes_of_a_training(kind: type, key: str, value: int) -> None:
    with pytest.raises(ConfigError, match=rf"{key}={value}, expected [0-9]+ to [0-9]+$"):
        load_config(kind, None, ["model.trunk.kind=scratch"] * ("trunk" in key) + [f"{key}={value}"])


@pytest.mark.parametrize("kind", [AsrConfig, LmConfig, FinetuneConfig, HeadsTrainConfig, CharacterCtcTrainConfig])
def test_seeds_have_64_bits(kind: type) -> None:
    for seed in (0, 2**64 - 1):
        assert load_config(kind, None, [f"seed={seed}"]).seed == seed
    for seed in (-1, 2**64):
        with pytest.raises(ConfigError, match=rf"seed={seed}, expected 0 to 18446744073709551615$"):
            load_config(kind, None, [f"seed={seed}"])


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"encoder": {"heads": 0}}, "model: encoder.heads=0, expected 1 to 1024"),
        ({"adapter": {"kind": "stack", "frames": -1}}, "model: adapter.frames=-1, expected 1 to 1024"),
        ({"trunk": {"kind": "scratch", "layers": HUGE}}, f"model: trunk.layers={HUGE}, expected 1 to 1024"),
        ({"kind": "whisper", "extra": -1}, "model: extra=-1, expected 0 to 65536"),
        ({"kind": "moonshine", "tokens_per_second": "inf"}, "model: tokens_per_second=inf, expected a number above 0"),
        ({"encoder": {"width": 65536}}, "encoder: 7 layers of width 65536 .* at most 20; lower them"),
    ],
)
def test_sizes_of_a_model_folder(model: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        settings_in(model, "m/config.yaml")


def test_features_heads_and_ctc_heads_of_folders() -> None:
    for kind, data, message in (
        (BundleConfig, {"features": {"num_mels": 0}}, r"x: features.num_mels=0, expected 3 to 1024"),
        (HeadFolderConfig, {"heads": {"kind": "block", "layers": -1}}, "x: heads.layers=-1, expected 1 to 1024"),
        (CtcFolderConfig, {"ctc": {"kernel": 0}}, "x: ctc.kernel=0, expected 1 to 1024"),
    ):
        with pytest.raises(ConfigError, match=message):
            from_dict(kind, data, "x")
    for family in FAMILIES:
        for depth in (-1, 10**6):
            with pytest.raises(ConfigError, match=rf"^heads: depth={depth}, expected 0 to 64$"):
                family(depth=depth)


def test_sizes_that_are_legal_one_by_one_are_added_up() -> None:
    ScratchTrunkConfig(width=4096, layers=32, heads=32, ff_width=14336)
    with pytest.raises(ConfigError, match="trunk: 1024 layers of width 8192 and ff_width 384 are up to 769 billion"):
        ScratchTrunkConfig(width=8192, layers=1024, heads=64)


def test_no_option_of_a_strategy_makes_a_draft_of_a_million_tokens() -> None:
    for name, row in STRATEGIES.items():
        for key, option in row.options.items():
            if type(option.default) is int or key in ("depth", "labels"):
                for value in (-1, HUGE):
                    if (key, value) in (("top", HUGE), ("k", HUGE), ("top_k", HUGE)):
                        continue  # cut to the vocabulary
                    with pytest.raises(ConfigError, match=rf"strategy {name}: {key}={value}, expected "):
                        parse_strategy(f"{name}:{key}={value}")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--batch-size", "1000000000"], "--batch-size 1000000000: expected 1 to 4096"),
        (["--batch-size", "-1"], "--batch-size -1: expected 1 to 4096"),
        (["--seed", str(2**64)], f"--seed {2**64}: expected 0 to {2**64 - 1}"),
        (["--seed", "-1"], "--seed -1: expected 0 to"),
        (["--depth", "1000000"], "depth=1000000, expected 0 to 1024"),
    ],
)
def test_numbers_of_the_command_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    began = time.perf_counter()
    assert main(["transcribe", "none.wav", "--model", "an4", "--strategy", "verify", *words]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert time.perf_counter() - began < 5


def test_a_lack_of_memory_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for error, said in (
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried\nat ..."), "can't allocate memory"),
        (MemoryError(), "out of memory"),
    ):
        monkeypatch.setattr(strategies, "run", Mock(side_effect=error))
        assert main(["strategies"]) == 2
        line = capsys.readouterr().err
        assert said in line and line.count("\n") == 1
    monkeypatch.setattr(strategies, "run", Mock(side_effect=RuntimeError("shapes do not fit")))
    with pytest.raises(RuntimeError, match="shapes"):
        main(["strategies"])


def test_a_range_compares_whole_numbers_exactly() -> None:
    both = Range(0, 2**64 - 1)
    assert both.holds(2**64 - 1) and not both.holds(2**64) and not both.holds(10**400)
    assert not both.holds(float("nan")) and not Range(0).holds(float("inf"))
    assert both.words(True) == "0 to 18446744073709551615"
