"""Draft heads keep the settings of their trunk that its weights do not tell, and are refused on a trunk with others."""

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from small_audio_lm import write_audio_lm
from transformers import AutoConfig, Qwen2Config

from speechmtp.bundle import load_bundle, load_without_heads, save_bundle
from speechmtp.config import read_yaml, write_yaml
from speechmtp.errors import CheckpointError, ConfigError, StaleHeadsError
from speechmtp.evaluation.head_list import list_heads
from speechmtp.heads.folder import BaseDigests, load_heads, save_heads, trunk_digest, trunk_settings
from speechmtp.heads.latent import LatentHeadsConfig
from speechmtp.models.character_ctc import CharacterCtcConfig, CharacterCtcHead
from speechmtp.models.config_settings import computing_settings, first_difference
from speechmtp.models.storage import SCALE
from speechmtp.models.trunk import Trunk


def model_of(trunk: Trunk) -> Any:
    """What head folders ask of a model."""
    return SimpleNamespace(trunk=trunk)


@pytest.fixture(scope="module")
def trunk() -> Trunk:
    return tiny.trunk(family="qwen3").float()


@pytest.fixture(scope="module")
def heads_folder(trunk: Trunk, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Heads of `trunk`."""
    folder = tmp_path_factory.mktemp("heads") / "latent"
    heads = tiny.random_heads(LatentHeadsConfig(2), 0, trunk.shape).float()
    save_heads(heads, folder, "base", trunk_digest(model_of(trunk)), "int8", settings=trunk_settings(model_of(trunk)))
    return folder


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"rms_norm_eps": 1e-3}, "rms_norm_eps 1e-06, which is 0.001 here"),
        ({"hidden_act": "gelu"}, "hidden_act silu, which is gelu here"),
        ({"num_attention_heads": 4}, "num_attention_heads 2, which is 4 here"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}},
         "rope_parameters.rope_theta 10000, which is 500000 here"),
        ({"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}},
         "rope_parameters.factor not set, which is 2 here"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}},
         "rope_parameters.partial_rotary_factor not set, which is 0.5 here"),
    ],
)  # fmt: skip
def test_heads_of_other_settings_are_refused(
    trunk: Trunk, heads_folder: Path, changes: dict[str, Any], named: str
) -> None:
    other = copy.deepcopy(trunk)
    for name, value in changes.items():
        setattr(other.model.config, name, value)
    with pytest.raises(StaleHeadsError) as caught:
        load_heads(heads_folder, model_of(other))
    assert f"these heads were trained on a trunk with {named}; train them again on this one" in str(caught.value)
    load_heads(heads_folder, model_of(other), allow_stale=True)


@pytest.mark.parametrize(
    "changes",
    [
        {"attention_dropout": 0.5, "initializer_range": 1.0, "use_cache": False, "eos_token_id": 7, "dtype": "float16"},
        {"_name_or_path": "elsewhere", "transformers_version": "5.99.0", "max_position_embeddings": 99},
        {"introduced_later": 3, "rope_parameters": {"rope_type": "default", "rope_theta": 10000, "factor": None}},
    ],
)
def test_settings_that_change_nothing_are_let_through(
    trunk: Trunk, heads_folder: Path, changes: dict[str, Any]
) -> None:
    other = copy.deepcopy(trunk)
    for name, value in changes.items():
        setattr(other.model.config, name, value)
    load_heads(heads_folder, model_of(other))


def test_heads_of_an_earlier_version_are_let_through(trunk: Trunk, heads_folder: Path, tmp_path: Path) -> None:
    """They have no settings."""
    config = read_yaml(heads_folder / "config.yaml")
    assert config.pop("trunk_settings")["rope_parameters.rope_theta"] == "10000"
    save_file(load_file(heads_folder / "heads.safetensors"), tmp_path / "heads.safetensors")
    write_yaml(tmp_path / "config.yaml", config)
    other = copy.deepcopy(trunk)
    other.model.config.rms_norm_eps = 0.5
    load_heads(tmp_path, model_of(other))


def test_a_name_that_one_version_lacks_is_no_difference_but_a_rotary_one_is() -> None:
    assert first_difference({"a": "1", "old": "2"}, {"a": "1", "new": "3"}) == ""
    assert first_difference({"a": "1"}, {"a": "2"}) == "a 1, which is 2 here"
    default = {"text.rope_parameters.rope_type": "default"}
    assert first_difference({}, default) == ""  # nothing is known of it
    assert "not set" in first_difference(default, default | {"text.rope_parameters.factor": "4"})


def test_the_settings_of_parts_are_told_apart(tmp_path: Path) -> None:
    settings = computing_settings(AutoConfig.from_pretrained(str(write_audio_lm(tmp_path / "m"))))
    assert settings["audio_config.encoder_attention_heads"] == settings["text_config.num_attention_heads"] == "2"
    assert settings["text_config.rope_parameters.rope_type"] == "default"
    whole, float_like = (Qwen2Config(rope_parameters={"rope_type": "default", "rope_theta": n}) for n in (7, 7.0))
    assert computing_settings(whole) == computing_settings(float_like)
    assert not any(part in name for name in settings for part in ("token_id", "dropout", "version", "dtype", "init"))


@pytest.mark.parametrize(
    ("key", "value", "refused"),
    [("decoder_hidden_act", "gelu", "these heads"), ("encoder_hidden_act", "relu", "these heads"),
     ("encoder_hidden_act", "relu", "this CTC head"), ("decoder_hidden_act", "gelu", "")],
)  # fmt: skip
def test_folders_of_models_keep_the_settings(key: str, value: str, refused: str, tmp_path: Path) -> None:
    """Heads depend on the encoder too, a CTC head on the encoder alone."""
    bundle = load_without_heads(str(tiny.write_seq2seq(tmp_path / "raw")))
    if refused == "these heads":
        bundle.heads = {"own": tiny.random_heads(LatentHeadsConfig(1), 0, bundle.model.trunk.shape).float()}
    else:
        bundle.ctc = CharacterCtcHead(
            CharacterCtcConfig(" ab", memory_width=16, width=16, layers=1, heads=2, ff_width=8)
        )
    save_bundle(bundle, tmp_path / "m")
    load_bundle(str(tmp_path / "m"))
    path = tmp_path / "m" / "config.json"
    assert f'"{key}": "' in path.read_text() or f'"{key}"' not in path.read_text()
    config = AutoConfig.from_pretrained(str(tmp_path / "m"))
    setattr(config, key, value)
    config.save_pretrained(str(tmp_path / "m"))
    if refused:
        with pytest.raises(StaleHeadsError, match=f"{refused} w.* trained on an? .* with {key} .*, which is {value}"):
            load_bundle(str(tmp_path / "m"))
        if bundle.heads:
            assert [row["fits"] for row in list_heads(str(tmp_path / "m"))] == [False]
    else:
        load_bundle(str(tmp_path / "m"))


@pytest.mark.parametrize("name", ["default", "an4"])
def test_embedded_heads_know_the_settings_of_their_trunk(name: str) -> None:
    bundle = load_bundle(name)
    for path in bundle.head_folders.values():
        stored = read_yaml(path / "config.yaml")["trunk_settings"]
        assert len(stored) > 10 and not first_difference(stored, trunk_settings(bundle.model))
    bundle.model.trunk.model.config.rope_parameters["rope_theta"] = 777.0
    digests = BaseDigests(bundle.model, bundle.folder / "model.safetensors")
    with pytest.raises(StaleHeadsError, match="rope_theta 10000, which is 777 here"):
        load_heads(next(iter(bundle.head_folders.values())), bundle.model, digests=digests)


def test_damaged_head_folders_are_one_line(trunk: Trunk, heads_folder: Path, tmp_path: Path) -> None:
    def error(change: Any, name: str = "heads.safetensors") -> str:
        folder = tmp_path / "h"
        folder.mkdir(exist_ok=True)
        for path in heads_folder.iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        change(folder / name)
        with pytest.raises((CheckpointError, ConfigError)) as caught:
            load_heads(folder, model_of(trunk))
        assert "\n" not in str(caught.value)
        return str(caught.value)

    def without_scale(path: Path) -> None:
        state = load_file(path)
        state = {"weight": torch.zeros_like(state["weight"], dtype=torch.int8)} if "weight" in state else state
        save_file({n: t for n, t in state.items() if not n.endswith(SCALE)}, path)

    assert "without their scales (first: weight int8" in error(without_scale)
    assert "a pointer of Git LFS" in error(lambda p: p.write_text("version https://git-lfs.github.com/spec/v1\n"))
    assert "an empty file" in error(lambda p: p.write_bytes(b""))
    assert "heads.safetensors: No such file" in error(lambda p: p.unlink())
    assert "cannot be read" in error(lambda p: p.write_bytes(p.read_bytes()[:50]))
    assert "config.yaml: a pointer" in error(
        lambda p: p.write_text("version https://git-lfs.github.com/spec/v1\n"), "config.yaml"
    )

    def settings(**changes: object) -> Any:
        def write(path: Path) -> None:
            config = read_yaml(path)
            config["heads"].update(changes)
            write_yaml(path, config)

        return write

    assert "heads.kind: [] is not one of" in error(settings(kind=[]), "config.yaml")
    assert "config.yaml: heads.dropout=3.0, expected a number from 0 to 1" in error(
        settings(kind="chain", dropout=3.0), "config.yaml"
    )
