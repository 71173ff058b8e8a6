"""A bundle without tokenizer and normaliser: tokens in, tokens out, such as those of a codec."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from small_lm import write_lm

import speechmtp
from speechmtp.bundle import Bundle, load_bundle, save_bundle
from speechmtp.decoding.strategies import parse_strategy
from speechmtp.errors import ConfigError
from speechmtp.heads.folder import trunk_digest
from speechmtp.heads.table import FAMILIES, build_heads

ENDS = (1, 5)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A causal LM of 64 tokens that no tokenizer names; two of them end an output."""
    place = write_lm(tmp_path / "codes", "qwen3")
    for path in place.glob("*token*"):
        path.unlink()
    (place / "generation_config.json").write_text('{"eos_token_id": [1, 5]}')
    return place


def with_heads(bundle: Bundle) -> Bundle:
    config = next(family for family in FAMILIES if family.kind == "latent")(depth=2)  # type: ignore[attr-defined]
    torch.manual_seed(0)
    bundle.heads = {"latent": build_heads(config, bundle.model.trunk.shape)}
    return bundle


def test_it_is_saved_loaded_and_decoded_to_tokens(folder: Path, tmp_path: Path) -> None:
    bundle = with_heads(load_bundle(str(folder)))
    assert bundle.tokenizer is None and bundle.normalizer == "none" and bundle.model.eos == ENDS
    save_bundle(bundle, tmp_path / "mine")
    assert not (tmp_path / "mine" / "normalizer.json").exists()
    assert not list((tmp_path / "mine").glob("tokenizer*"))
    recogniser = speechmtp.load(str(tmp_path / "mine"), dtype="float64")
    assert list(recogniser.bundle.heads) == ["latent"]
    assert trunk_digest(load_bundle(str(tmp_path / "mine")).model) == trunk_digest(load_bundle(str(folder)).model)
    lm = recogniser.bundle.text_model
    requests = [lm.read(ids, limit) for ids, limit in (((7, 9, 11), 20), ((3,), 8), ((60, 2, 2, 8), 30))]
    expected = []
    for request in requests:
        out = lm.trunk.model.generate(  # type: ignore[operator]
            torch.tensor([request.ids]), max_new_tokens=request.limit, do_sample=False, eos_token_id=list(ENDS),
            pad_token_id=0,
        )  # fmt: skip
        expected.append(out[0, len(request.ids) :].tolist())
    for label in ("ar", "verify", "lookup"):
        results = recogniser.decode(requests, recogniser.runner.prepared(parse_strategy(label)))
        assert [list(result.tokens) for result in results] == expected
        assert [result.text for result in results] == [""] * 3


class Sines:
    """A codec whose tokens are pitches, a hundredth of a second each."""

    rate = 8000

    def decode(self, tokens: Sequence[int]) -> np.ndarray:
        """Samples [80 n]."""
        steps = np.arange(80) / self.rate
        parts = [np.sin(2 * np.pi * 100 * (1 + token) * steps) for token in tokens]
        return np.concatenate([np.zeros(0), *parts]).astype(np.float32)


def test_with_a_codec_the_result_is_audio(folder: Path) -> None:
    recogniser = speechmtp.load(str(folder), device="cpu")
    recogniser.bundle.codec = Sines()
    request = recogniser.bundle.text_model.read((7, 9, 11), 20)
    silent, spoken = (recogniser.decode([request] * 2, parse_strategy(label))[0] for label in ("ar", "lookup"))
    assert spoken.tokens == silent.tokens and spoken.text == ""
    assert spoken.audio is not None and silent.audio is not None
    (samples, rate), said = spoken.audio, [token for token in spoken.tokens if token not in ENDS]
    assert rate == 8000 and samples.dtype == np.float32 and len(samples) == 80 * len(said) > 0
    assert np.array_equal(samples, Sines().decode(said)) and np.array_equal(samples, silent.audio[0])


def test_text_and_audio_are_refused_in_one_line(folder: Path) -> None:
    recogniser = speechmtp.load(str(folder))
    with pytest.raises(ConfigError, match="has no tokenizer, its tokens are no text; give it") as caught:
        recogniser.bundle.model.encode("one")
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="a text LM, which hears no audio"):
        recogniser.transcribe(torch.zeros(16000).numpy(), 16000)


def test_a_model_without_an_end_token_is_refused(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "endless")
    for name in ("generation_config.json", "config.json"):
        path = tmp_path / "endless" / name
        path.write_text(path.read_text().replace('"eos_token_id": 1', '"eos_token_id": null'))
    (tmp_path / "endless" / "generation_config.json").unlink()
    with pytest.raises(ConfigError, match="no end token; set eos_token_id in its generation_config"):
        load_bundle(str(tmp_path / "endless"))
