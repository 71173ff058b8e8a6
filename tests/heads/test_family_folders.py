"""Head folders of every family: what is stored comes back, and wrong inputs get one clear line."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
import torch
from families import CONFIGS, NAMES, D, batch_of, features_of
from safetensors.torch import load_file, save_file
from torch import Tensor

from speechmtp.config import load_config, read_yaml, write_yaml
from speechmtp.errors import CheckpointError, ConfigError
from speechmtp.heads.chain import ChainHeadsConfig
from speechmtp.heads.contract import HeadSet, TrainBatch
from speechmtp.heads.folder import HeadFolderConfig, load_heads, save_heads, trunk_digest
from speechmtp.heads.latent import LatentHeadsConfig
from speechmtp.heads.table import HeadsConfig, build_heads
from speechmtp.models.trunk import Trunk

every = pytest.mark.parametrize("name", NAMES)
SHORT = [9, 2, 5, 1, 7, 0, 4]


def model_of(trunk: Trunk) -> Any:
    """What head folders ask of a model."""
    return SimpleNamespace(trunk=trunk)


def single(seed: int = 0, **sizes: Any) -> Trunk:
    """A trunk in float32, as folders hold them."""
    return tiny.trunk(seed, **sizes).float()


def stored(config: HeadsConfig, folder: Path, trunk: Trunk, storage: Any = "float32") -> HeadSet:
    """Random heads, whose shortlist is no mere count, in a folder."""
    heads: HeadSet = tiny.random_heads(config, 1, trunk.shape).float()
    if heads.shortlist is not None:
        heads.shortlist.copy_(torch.tensor(SHORT))
    save_heads(heads, folder, "base", trunk_digest(model_of(trunk)), storage)
    return heads


def some_batch(trunk: Trunk, heads: HeadSet) -> TrainBatch:
    """Random tokens."""
    ids = torch.randint(0, tiny.VOCAB, (2, 9), generator=tiny.generator(0))
    return batch_of(trunk, heads, trunk.embed(ids), ids, torch.arange(9).repeat(2, 1))


def drafts(trunk: Trunk, heads: HeadSet) -> Tensor:
    """Each depth's choice of token [B, L, D] on a random batch."""
    batch = some_batch(trunk, heads)
    features = features_of(heads, batch)
    return torch.stack([heads.token_ids(heads.logits(features[:, :, d], d + 1, batch.unembed).argmax(-1))
                        for d in range(heads.depth)], 2)  # fmt: skip


@torch.no_grad()
@every
def test_fault_26_drafts_are_what_they_were_after_a_round_trip(name: str, tmp_path: Path) -> None:
    trunk = single()
    heads = stored(CONFIGS[name], tmp_path / name, trunk)
    back = load_heads(tmp_path / name, model_of(trunk))
    assert back.config == CONFIGS[name] and type(back) is type(heads) and not back.training
    state = heads.state_dict()
    assert state.keys() == back.state_dict().keys()
    assert all(torch.equal(tensor, back.state_dict()[key]) for key, tensor in state.items())
    said = drafts(trunk, heads)
    assert torch.equal(drafts(trunk, back), said) and len(said.unique()) > 3
    if heads.shortlist is not None:
        assert back.shortlist is not None and back.shortlist.tolist() == SHORT
        assert set(said.unique().tolist()) <= set(SHORT)
        back.shortlist.copy_(torch.arange(len(SHORT)))
        assert not torch.equal(drafts(trunk, back), said), "without its table it would say something else"


@every
def test_fault_26_eight_bits_keep_the_shortlist(name: str, tmp_path: Path) -> None:
    trunk = single(width=32)
    heads = stored(CONFIGS[name], tmp_path / name, trunk, "int8")
    back = load_heads(tmp_path / name, model_of(trunk))
    assert (back.shortlist is None) == (heads.shortlist is None)
    assert back.shortlist is None or back.shortlist.tolist() == SHORT
    for key, tensor in heads.named_parameters():
        torch.testing.assert_close(back.get_parameter(key), tensor, rtol=2e-3, atol=tensor.abs().max().item() / 200)


@torch.no_grad()
@every
def test_fault_27_the_layers_that_are_read_are_stored(name: str, tmp_path: Path) -> None:
    trunk = single(layers=3)
    heads = stored(CONFIGS[name], tmp_path / name, trunk)
    config = load_config(HeadFolderConfig, tmp_path / name / "config.yaml")
    assert config.taps == heads.taps and config.heads == CONFIGS[name]
    assert heads.taps[len(CONFIGS[name].taps) :] == ((3,) if heads.reads_raw else ())
    back = load_heads(tmp_path / name, model_of(trunk))
    assert back.taps == heads.taps
    if CONFIGS[name].taps:
        moved = build_heads(replace(CONFIGS[name], taps=tuple(t + 1 for t in CONFIGS[name].taps)), trunk.shape).eval()
        moved.load_state_dict(back.state_dict())
        said, off = (features_of(heads, some_batch(trunk, heads)) for heads in (back, moved))
        assert float((said - off).abs().max()) > 1e-2, "one layer off says something else"


def test_fault_27_a_layer_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    deep, flat = single(layers=3), single(layers=1)
    stored(LatentHeadsConfig(D, taps=(0, 3)), tmp_path / "tap", deep)
    stored(ChainHeadsConfig(D), tmp_path / "raw", deep)
    with pytest.raises(ConfigError, match="heads: taps has layer 3, expected 0 to 1, the trunk's layers"):
        load_heads(tmp_path / "tap", model_of(flat), allow_stale=True)
    with pytest.raises(CheckpointError, match=r"read the trunk's layers \[3\], expected \[1\]"):
        load_heads(tmp_path / "raw", model_of(flat), allow_stale=True)
    path = tmp_path / "tap" / "config.yaml"
    config = read_yaml(path)
    config["heads"]["taps"] = [0, 2]  # edited by hand: the weights were trained on another layer
    write_yaml(path, config)
    with pytest.raises(CheckpointError, match=r"read the trunk's layers \[0, 3\], expected \[0, 2\]"):
        load_heads(tmp_path / "tap", model_of(deep))


@every
def test_wrong_settings_are_one_line(name: str) -> None:
    for wrong, message in (
        ({"depth": -1}, "heads: depth=-1, expected 0 to 64"),
        ({"taps": (0, 3)}, "heads: taps has layer 3, expected 0 to 2, the trunk's layers"),
        ({"taps": (-1,)}, "heads: taps has layer -1, expected 0 to 2"),
        ({"shortlist": 12}, "heads: shortlist 12, expected 0 to 11, the vocabulary"),
        ({"shortlist": -1}, "heads: shortlist -1, expected 0 to 11"),
    ):
        with pytest.raises(ConfigError, match=message) as caught:
            build_heads(replace(CONFIGS[name], **wrong), tiny.SHAPE)
        assert "\n" not in str(caught.value)


@every
def test_heads_of_another_trunk_or_width_are_refused_in_one_line(name: str, tmp_path: Path) -> None:
    stored(CONFIGS[name], tmp_path / name, single())
    with pytest.raises(CheckpointError, match="trained on another trunk") as caught:
        load_heads(tmp_path / name, model_of(single(1)))
    assert "\n" not in str(caught.value)
    load_heads(tmp_path / name, model_of(single(1)), allow_stale=True)
    with pytest.raises(CheckpointError, match=r"tensors do not fit.* of another shape") as caught:
        load_heads(tmp_path / name, model_of(single(width=32)), allow_stale=True)
    assert "\n" not in str(caught.value)


@every
def test_a_checkpoint_without_a_tensor_names_it(name: str, tmp_path: Path) -> None:
    trunk = single()
    heads = stored(CONFIGS[name], tmp_path / name, trunk)
    path = tmp_path / name / "heads.safetensors"
    state = load_file(path)
    keys = list(heads.state_dict())
    for key in (keys[0], keys[len(keys) // 2], keys[-1]):
        save_file({k: v for k, v in state.items() if k != key}, path)
        with pytest.raises(CheckpointError, match=f"1 missing .*first: {key}") as caught:
            load_heads(tmp_path / name, model_of(trunk))
        assert "\n" not in str(caught.value)


@every
def test_no_depths_can_be_stored(name: str, tmp_path: Path) -> None:
    trunk = single()
    stored(replace(CONFIGS[name], depth=0), tmp_path / name, trunk)
    assert load_heads(tmp_path / name, model_of(trunk)).depth == 0
