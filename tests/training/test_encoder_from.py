"""A model trained behind another one's encoder: what it takes over, what it leaves alone, what must agree."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_speech import ENCODER, FBANK, texts, write_speech

from speechmtp.bundle import Bundle, BundleConfig, load_bundle, load_draft_model, save_bundle
from speechmtp.cli.main import main
from speechmtp.config import write_yaml
from speechmtp.heads.latent import LatentHeadsConfig
from speechmtp.models.adapter import CtcMergeConfig
from speechmtp.models.bases.table import new_model
from speechmtp.models.encoder_lm import ModelConfig
from speechmtp.models.trunk import ScratchTrunkConfig
from speechmtp.text.tokenizer import train_tokenizer
from speechmtp.training.loop import LoopConfig
from speechmtp.training.optim import OptimConfig
from speechmtp.training.tasks.asr import AsrConfig
from speechmtp.training.tasks.text import TextPhaseConfig, TextSource


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Speech, a tokenizer, two bases (float32 and int8 of the same weights) and a configuration."""
    place = tmp_path_factory.mktemp("encoder_from")
    for name, count in (("train", 10), ("dev", 3)):
        write_speech(place / name, count)
    tokenizer = train_tokenizer(texts(10), 12, "bpe")
    tokenizer.save(place / "tokenizer.model")
    torch.manual_seed(3)
    model = ModelConfig(ENCODER, trunk=ScratchTrunkConfig(width=32, layers=2, heads=2, ff_width=64))
    base = new_model(model, tokenizer, FBANK).eval()
    with torch.no_grad():
        base.encoder.ctc.bias[-1] = -4.0  # an unlikely blank, so that there are segments to learn from
        base.encoder.mean.fill_(0.3)
    for storage in ("float32", "int8"):
        config = BundleConfig(features=FBANK, model=base.config, normalizer="kaldi-basic")
        save_bundle(Bundle(config, base), place / storage, storage)
    write_yaml(place / "small.yaml", small_config(place))
    return place


def small_config(place: Path) -> AsrConfig:
    text = TextPhaseConfig(
        steps=3, rows=4, texts=(TextSource(str(place / "train" / "text"), 1.0, True),), passes=1, strengths=(1.0,),
        optim=OptimConfig(lr=1e-3, warmup=1),
    )  # fmt: skip
    trunk = ScratchTrunkConfig(width=16, layers=1, heads=2, ff_width=32)
    return AsrConfig(
        tokenizer=str(place / "tokenizer.model"), precision="float32", features=FBANK, encoder_from="unset",
        model=ModelConfig(adapter=CtcMergeConfig(acoustics=False), trunk=trunk), heads=LatentHeadsConfig(depth=0),
        phases=(text,), loop=LoopConfig(evaluate_every=2, save_every=3, average=2),
    )  # fmt: skip


def train(folder: Path, out: Path, *options: str) -> int:
    data = [part for which in ("train", "dev") for part in (f"--{which}", str(folder / which))]
    return main(["train", "asr", "--config", str(folder / "small.yaml"), *data, "--out", str(out), *options])


@pytest.mark.parametrize("storage", ["float32", "int8"])
def test_the_encoder_is_taken_over_and_stays_as_it_is(
    folder: Path, tmp_path: Path, storage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Stored like the base's, so that the model drafts for it; adapter and trunk alone are trained."""
    assert train(folder, tmp_path, "--storage", storage, f"encoder_from={folder / storage}") == 0
    base, small = load_bundle(str(folder / storage)), load_bundle(str(tmp_path / "model"))
    for name, tensor in base.model.encoder.state_dict().items():
        assert torch.equal(tensor, small.model.encoder.state_dict()[name]), name
    assert small.config.model.encoder == ENCODER and small.config.features == FBANK
    torch.manual_seed(0)
    fresh = new_model(small.config.model, small.tokenizer, FBANK)
    if storage == "float32":
        for part, drawn in ((small.model.trunk, fresh.trunk), (small.model.adapter, fresh.adapter)):
            assert any(not torch.equal(a, b) for a, b in zip(part.parameters(), drawn.parameters()))
    draft = load_draft_model(str(tmp_path / "model"), base)
    out = base.model.encode_audio(torch.randn(1, 40, 16), torch.tensor([40]))
    assert draft.prompt(out).embeddings.shape[-1] == 16
    assert train(folder, tmp_path, "--resume", "--storage", storage, f"encoder_from={folder / storage}") == 0
    moved = shutil.copytree(folder / storage, folder / f"moved-{storage}")
    assert train(folder, tmp_path, "--resume", "--storage", storage, f"encoder_from={moved}") == 0
    other = {"int8": "float32", "float32": "int8"}[storage]
    assert train(folder, tmp_path, "--resume", "--storage", storage, f"encoder_from={folder / other}") == 2
    assert "encoder model.safetensors was sha256" in capsys.readouterr().err


def test_what_belongs_to_the_encoder_must_agree(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train_tokenizer(texts(12, 5), 11, "bpe").save(tmp_path / "other.model")
    base = f"encoder_from={folder / 'float32'}"
    wrong = {
        "features.scale: 1.0, expected 32768.0": (base, "features.scale=1"),
        "normalizer: whisper-en, expected kaldi-basic": (base, "normalizer=whisper-en"),
        "other.model is not that of encoder_from": (base, f"tokenizer={tmp_path / 'other.model'}"),
        "model.encoder: other sizes": (base, "model.encoder={features: 16, width: 8, heads: 2}"),
        "none: no such model folder": ("encoder_from=none",),
        "ctc trains the encoder": (base, "phases=[{kind: ctc}]"),
    }
    for message, overrides in wrong.items():
        assert train(folder, tmp_path / "out", *overrides) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1, error
    assert not (tmp_path / "out").exists()  # a second try with what was wrong put right needs no other folder


def test_sizes_of_the_encoder_may_be_said_again(folder: Path, tmp_path: Path) -> None:
    own = replace(small_config(folder), model=replace(small_config(folder).model, encoder=ENCODER))
    write_yaml(tmp_path / "same.yaml", own)
    data = ["--train", str(folder / "train"), "--dev", str(folder / "dev"), f"encoder_from={folder / 'float32'}"]
    assert main(["train", "asr", "--config", str(tmp_path / "same.yaml"), *data, "--out", str(tmp_path / "out")]) == 0
