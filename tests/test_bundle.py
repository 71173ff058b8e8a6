"""Model folders: what is stored comes back, and what does not fit is refused in one line."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from speechmtp.audio.features import FbankConfig
from speechmtp.bundle import (
    Bundle,
    BundleConfig,
    load_bundle,
    load_draft_model,
    save_bundle,
)
from speechmtp.config import read_yaml, write_yaml
from speechmtp.decoding.sampling import SamplingConfig
from speechmtp.errors import CheckpointError, ConfigError
from speechmtp.heads import folder as folder_module
from speechmtp.heads.folder import BaseDigests, load_heads, trunk_digest
from speechmtp.heads.latent import LatentHeadsConfig
from speechmtp.heads.table import build_heads
from speechmtp.kernels.cpu.int8_linear import quantise
from speechmtp.models.bases.table import new_model
from speechmtp.models.encoder import EncoderConfig
from speechmtp.models.encoder_lm import ModelConfig
from speechmtp.models.locate import EMBEDDED, OTHER_FORMATS, PICKLED, VOICES, locate
from speechmtp.models.storage import SCALE, file_digest, pack, unpack
from speechmtp.models.trunk import ScratchTrunkConfig
from speechmtp.text.tokenizer import train_tokenizer


@pytest.fixture
def bundle() -> Bundle:
    torch.manual_seed(0)
    tokenizer = train_tokenizer(["ONE TWO THREE", "FOUR FIVE"], 16)
    config = ModelConfig(
        EncoderConfig(width=32, layers=2, heads=2, ff_width=64, kernel=5, channels=8, inter_ctc=(1,)),
        trunk=ScratchTrunkConfig(width=32, layers=2, heads=2, ff_width=64),
    )
    model = new_model(config, tokenizer, FbankConfig()).eval()
    heads = build_heads(LatentHeadsConfig(depth=2), model.trunk.shape)
    torch.nn.init.normal_(heads.weight)
    return Bundle(BundleConfig(model=model.config, normalizer="kaldi-basic"), model, {"latent": heads}, "card", "tiny")


def test_float32_comes_back_bit_for_bit(bundle, tmp_path):
    save_bundle(bundle, tmp_path / "m")
    back = load_bundle(str(tmp_path / "m"))
    for name, tensor in bundle.model.state_dict().items():
        assert torch.equal(tensor, back.model.state_dict()[name]), name
    assert torch.equal(bundle.heads["latent"].weight, back.heads["latent"].weight)
    assert back.config == bundle.config
    assert back.tokenizer.sha256 == bundle.tokenizer.sha256
    assert back.card == "card"


def test_int8_is_within_half_a_step_of_every_row(bundle, tmp_path):
    save_bundle(bundle, tmp_path / "m", "int8")
    back = load_bundle(str(tmp_path / "m")).model.state_dict()
    stored = load_file(tmp_path / "m" / "model.safetensors")
    checked = 0
    for name, tensor in bundle.model.state_dict().items():
        if name + SCALE not in stored:
            continue
        scale = stored[name + SCALE]
        while scale.dim() < tensor.dim():
            scale = scale.unsqueeze(-1)
        assert ((tensor - back[name]).abs() <= scale * 0.5001).all(), name
        checked += 1
    assert checked > 10


def test_int8_of_the_same_weights_twice_is_the_same(bundle):
    once = unpack(pack(bundle.model.state_dict(), "int8"))
    twice = unpack(pack(once, "int8"))
    assert all(torch.equal(once[n], twice[n]) for n in once)


def test_int8_finds_every_scale_again():
    """Of 5000 scales, dividing the largest value by 127 misses the last bit of some."""
    scale = torch.rand(5000, 1, generator=torch.Generator().manual_seed(0)) + 1e-3
    values = torch.tensor([[127.0, -3.0, 50.0]]) * scale
    missed = values.abs().amax(-1, keepdim=True) / 127 != scale
    assert 0 < missed.sum() < 200
    integers, found = quantise(values)
    assert torch.equal(integers * found[:, None], values)


def test_quantise_gives_one_scale_a_row():
    integers, scale = quantise(torch.tensor([[1.0, -127.0], [0.0, 0.0]]))
    assert integers.tolist() == [[1, -127], [0, 0]]
    assert scale[0] == 1.0


def test_tied_embedding_is_stored_once(bundle, tmp_path):
    save_bundle(bundle, tmp_path / "m")
    names = load_file(tmp_path / "m" / "model.safetensors")
    assert sum("embed_tokens" in n or "lm_head" in n for n in names) == 1
    model = load_bundle(str(tmp_path / "m")).model.trunk.model
    assert model.get_input_embeddings().weight.data_ptr() == model.get_output_embeddings().weight.data_ptr()


@pytest.mark.parametrize("storage", ["float32", "int8"])
def test_heads_carry_the_digest_of_the_trunk_as_loaded(bundle, tmp_path, storage):
    save_bundle(bundle, tmp_path / "m", storage)
    back = load_bundle(str(tmp_path / "m"))  # would raise if the digest were of other weights
    with torch.no_grad():
        next(back.model.trunk.parameters()).add_(1)
    with pytest.raises(CheckpointError, match="another trunk"):
        load_heads(tmp_path / "m" / "heads" / "latent", back.model)
    load_heads(tmp_path / "m" / "heads" / "latent", back.model, allow_stale=True)


def test_digest_moves_with_the_weights(bundle):
    before = trunk_digest(bundle.model)
    with torch.no_grad():
        list(bundle.model.trunk.parameters())[-1].add_(1e-3)
    assert trunk_digest(bundle.model) != before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("encoder.ctc.bias"), "1 missing .*encoder.ctc.bias"),
        (lambda s: s.update(other=torch.zeros(1)), "1 unexpected .*other"),
        (lambda s: s.update({"encoder.ctc.bias": torch.zeros(3)}), "another shape .*encoder.ctc.bias"),
    ],
)
def test_tensors_that_do_not_fit_are_named(bundle, tmp_path, change, message):
    save_bundle(bundle, tmp_path / "m")
    path = tmp_path / "m" / "model.safetensors"
    state = load_file(path)
    change(state)
    save_file(state, path)
    with pytest.raises(CheckpointError, match=message):
        load_bundle(str(tmp_path / "m"))


def test_broken_folders_get_one_line(bundle, tmp_path):
    with pytest.raises(CheckpointError, match="no such model folder"):
        load_bundle(str(tmp_path / "none"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"config\.yaml"):
        load_bundle(str(tmp_path / "empty"))
    save_bundle(bundle, tmp_path / "m")
    (tmp_path / "m" / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_bundle(str(tmp_path / "m"))
    write_yaml(tmp_path / "m" / "config.yaml", {"format_version": 99})
    with pytest.raises(CheckpointError, match="format 99"):
        load_bundle(str(tmp_path / "m"))


@pytest.fixture
def small(bundle):
    """A model of half the width behind the encoder of `bundle`."""
    config = ModelConfig(
        bundle.model.config.encoder, trunk=ScratchTrunkConfig(width=16, layers=1, heads=2, ff_width=32)
    )
    model = new_model(config, bundle.tokenizer, FbankConfig()).eval()
    model.encoder.load_state_dict(bundle.model.encoder.state_dict())
    return Bundle(BundleConfig(model=model.config), model, name="small")


@pytest.mark.parametrize("storage", ["float32", "int8"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_draft_model_stands_behind_the_encoder_of_its_base(bundle, small, tmp_path, storage, dtype):
    save_bundle(bundle, tmp_path / "m", storage)
    base = load_bundle(str(tmp_path / "m"))
    small.model.encoder.load_state_dict(base.model.encoder.state_dict())
    save_bundle(small, tmp_path / "s", storage)
    base.to(torch.device("cpu"), dtype)
    draft = load_draft_model(str(tmp_path / "s"), base)
    assert draft.encoder is base.model.encoder
    own = load_bundle(str(tmp_path / "s")).model
    for part in ("adapter", "trunk"):
        for name, tensor in getattr(own, part).state_dict().items():
            assert torch.equal(tensor.to(dtype), getattr(draft, part).state_dict()[name]), name
    out = base.model.encode_audio(torch.randn(1, 40, 80, dtype=dtype), torch.tensor([40]))
    prompt = draft.prompt(out)
    assert prompt.embeddings.dtype == dtype
    assert prompt.embeddings.shape[1:] == (base.model.prompt(out).embeddings.shape[1], 16)


def test_a_draft_model_with_another_vocabulary_is_refused(bundle, small, tmp_path):
    small.model.tokenizer = train_tokenizer(["ONE TWO SIX", "FOUR TEN"], 16)  # as many pieces
    save_bundle(small, tmp_path / "s")
    bundle.folder = tmp_path / "m"
    message = rf"draft model {tmp_path / 's'}: another vocabulary, 16 pieces .*16 pieces of {tmp_path / 'm'} .*; "
    with pytest.raises(CheckpointError, match=message) as caught:
        load_draft_model(str(tmp_path / "s"), bundle)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["mean", "ctc.bias"])
def test_a_draft_model_with_another_encoder_is_refused(bundle, small, tmp_path, name):
    with torch.no_grad():
        small.model.encoder.state_dict()[name][0] += 1e-3
    save_bundle(small, tmp_path / "s")
    bundle.folder = tmp_path / "m"
    message = rf"encoder is not that of {tmp_path / 'm'}; train it with encoder_from={tmp_path / 'm'}"
    with pytest.raises(CheckpointError, match=message) as caught:
        load_draft_model(str(tmp_path / "s"), bundle)
    assert "\n" not in str(caught.value)


def test_a_draft_model_whose_encoder_attends_otherwise_is_refused(bundle, small, tmp_path):
    """The same weights in chunks say something else."""
    small.config = BundleConfig(model=replace(small.config.model, encoder=replace(small.config.model.encoder, chunk=4)))
    save_bundle(small, tmp_path / "s")
    with pytest.raises(CheckpointError, match="encoder is not that"):
        load_draft_model(str(tmp_path / "s"), bundle)


def test_heads_of_the_same_file_are_not_compared_by_weights(bundle, tmp_path, monkeypatch):
    """The file's digest suffices; a folder without one, or with that of another file, is judged by its weights."""
    save_bundle(bundle, tmp_path / "m")
    where = tmp_path / "m" / "heads" / "latent" / "config.yaml"
    known = read_yaml(where)
    assert known["weights_sha256"] == file_digest(tmp_path / "m" / "model.safetensors") != ""
    expected = trunk_digest(bundle.model)
    with monkeypatch.context() as patch:
        patch.setattr(folder_module, "weights_digest", lambda *_: pytest.fail("the weights were looked at"))
        assert load_bundle(str(tmp_path / "m")).trunk_sha256 == expected
    for other in ({}, {"weights_sha256": ""}, {"weights_sha256": "0" * 64}):
        write_yaml(where, {key: value for key, value in known.items() if key != "weights_sha256"} | other)
        assert load_bundle(str(tmp_path / "m")).trunk_sha256 == expected
    write_yaml(where, known | {"weights_sha256": "0" * 64, "trunk_sha256": "1" * 64})
    with pytest.raises(CheckpointError, match="another trunk"):
        load_bundle(str(tmp_path / "m"))


@pytest.mark.parametrize("name", [*EMBEDDED, *VOICES])
def test_embedded_heads_name_weights_and_file(name):
    """What stands in the configurations is true, and old readers of the digests of unpacked weights agree."""
    bundle = load_bundle(name)
    digests = BaseDigests(bundle.model)
    for path in bundle.head_folders.values():
        config = read_yaml(path / "config.yaml")
        assert config["weights_sha256"] == file_digest(bundle.folder / "model.safetensors")
        assert config["trunk_sha256"] == digests.trunk == bundle.trunk_sha256
    if bundle.ctc is not None:
        config = read_yaml(bundle.folder / "ctc" / "config.yaml")
        assert config["weights_sha256"] == file_digest(bundle.folder / "model.safetensors")
        assert config["encoder_sha256"] == digests.encoder


@pytest.mark.parametrize("safe", [True, False])
def test_pickled_weights_are_downloaded_only_where_there_are_no_others(safe, tmp_path, monkeypatch):
    import huggingface_hub

    asked = []

    def download(name, ignore_patterns=None, allow_patterns=None):
        asked.append((name, ignore_patterns, allow_patterns))
        if safe:
            (tmp_path / "model-00001-of-00002.safetensors").write_bytes(b"shard")
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert locate("owner/model") == tmp_path
    more = [] if safe else [("owner/model", None, PICKLED)]
    assert asked == [("owner/model", OTHER_FORMATS, None), *more]


def test_a_folder_is_of_one_kind_and_says_how_its_tokens_are_drawn(bundle, tmp_path):
    drawn = SamplingConfig(temperature=0.8, top_k=12)
    bundle.config = replace(bundle.config, sampling=drawn)
    save_bundle(bundle, tmp_path / "m")
    assert load_bundle(str(tmp_path / "m"), kind="recogniser").config.sampling == drawn
    with pytest.raises(CheckpointError) as error:
        load_bundle(str(tmp_path / "m"), kind="voice")
    wanted = "a recogniser, expected a voice; use `speechmtp.load` or `speechmtp transcribe`"
    assert str(error.value) == f"{tmp_path / 'm'}: {wanted}"
    raw = read_yaml(tmp_path / "m" / "config.yaml")
    write_yaml(tmp_path / "m" / "config.yaml", {k: v for k, v in raw.items() if k not in ("kind", "sampling")})
    old = load_bundle(str(tmp_path / "m"))
    assert old.config.kind == "recogniser" and old.config.sampling is None
    write_yaml(tmp_path / "m" / "config.yaml", raw | {"kind": "voice"})
    with pytest.raises(CheckpointError, match=r"a voice, expected a recogniser; use `speechmtp\.load_voice`"):
        load_bundle(str(tmp_path / "m"), kind="recogniser")
    write_yaml(tmp_path / "m" / "config.yaml", raw | {"kind": "clock"})
    with pytest.raises(ConfigError, match="kind: 'clock' is not one of recogniser, voice"):
        load_bundle(str(tmp_path / "m"))
