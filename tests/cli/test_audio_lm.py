"""Qwen2-Audio through the ordinary command line: a kind of model is one file, one line of the table, and this."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from small_audio_lm import ENDS, write_audio_lm

import speechmtp
from speechmtp.bundle import load_bundle, save_bundle
from speechmtp.cli.main import main
from speechmtp.data.kaldi import DataDir
from speechmtp.decoding.strategies import parse_strategy
from speechmtp.errors import DataError
from speechmtp.evaluation.peers import peer_modes
from speechmtp.training.tasks.head_inputs.prompts import greedy_outputs, prompt_data, prompt_dev
from speechmtp.training.tasks.heads import HeadsTrainConfig
from speechmtp.types import Reference

RATE = 16000
SHORT = ["--threads", "1", "precision=float32", "steps=4", "rows=2", "passes=2", "loop.evaluate_every=2",
         "loop.save_every=2"]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of two layers whose texts are long."""
    return write_audio_lm(tmp_path_factory.mktemp("audio_lm") / "model", 5)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five utterances of noise."""
    place = tmp_path_factory.mktemp("data")
    draw = np.random.default_rng(0)
    for n in range(5):
        soundfile.write(place / f"u{n}.wav", 0.1 * draw.standard_normal(9000 + 3000 * n), RATE)
    (place / "wav.scp").write_text("".join(f"u{n} {place / f'u{n}.wav'}\n" for n in range(5)))
    (place / "text").write_text("".join(f"u{n} the cat sat on the mat\n" for n in range(5)))
    return place


def noise(size: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(size).astype(np.float32)


@pytest.mark.parametrize(
    ("seed", "tied", "chat"), [(0, False, True), (1, False, False), (2, True, True), (4, False, False)]
)
def test_tokens_are_those_of_transformers(seed: int, tied: bool, chat: bool, tmp_path: Path) -> None:
    """`ar` and drafting strategies against the model's own `generate` from features and token ids, in float64."""
    recogniser = speechmtp.load(str(write_audio_lm(tmp_path / "model", seed, tied, chat)), dtype="float64")
    face: Any = recogniser.bundle.model
    top = face.trunk.model
    assert (top.lm_head.weight is top.get_input_embeddings().weight) == tied
    ended = set()
    requests, wanted = [], []
    for size in (1120, 5000, 16000, 32000):
        audio = noise(size, seed)
        request = recogniser.listen(audio)
        inputs = face.inputs(torch.from_numpy(audio))
        text = face.processor.batch_decode(inputs["input_ids"])[0]
        assert ("<|im_start|>assistant" in text) == chat and "Transcribe the speech." in text
        out = top.generate(
            **inputs, max_new_tokens=request.limit, do_sample=False, eos_token_id=list(ENDS), pad_token_id=0
        )
        requests.append(request)
        wanted.append(out[0, inputs["input_ids"].shape[1] :].tolist())
        ended.add(wanted[-1][-1])
    assert recogniser.bundle.model.eos == ENDS
    for label in ("ar", "lookup", "jacobi", "oracle"):
        known = [r.knowing(Reference(tuple(w))) for r, w in zip(requests, wanted)]
        results = recogniser.decode(known, parse_strategy(label))
        assert [list(result.tokens) for result in results] == wanted, label
        assert [result.trace.finished for result in results] == [row[-1] in ENDS for row in wanted]
    assert tied or ended & set(ENDS)


def test_either_end_token_ends_a_text(tmp_path: Path) -> None:
    found = set()
    for seed in (0, 4):
        recogniser = speechmtp.load(str(write_audio_lm(tmp_path / str(seed), seed, chat=seed == 0)), dtype="float64")
        for size in (5000, 16000, 32000):
            [result] = recogniser.decode([recogniser.listen(noise(size, seed))], parse_strategy("ar"))
            found |= {result.tokens[-1]} & set(ENDS)
            assert not set(result.tokens[:-1]) & set(ENDS)
    assert found == set(ENDS)


def test_every_command_runs_on_it(folder: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    heads = tmp_path / "heads" / "chain"
    command = ["train", "heads", "--model", str(folder), "--family", "chain", "--depth", "3", "--out", str(heads),
               "--train", str(data), "--dev", str(data), "--prompts", str(tmp_path / "prompts.safetensors"),
               *SHORT, "targets=text"]  # fmt: skip
    assert main(command) == 0
    assert (tmp_path / "prompts.safetensors").exists() and (heads / "heads.safetensors").exists()
    capsys.readouterr()
    assert main(["transcribe", "--model", str(folder), str(data / "u0.wav"), str(data / "u1.wav")]) == 0
    assert len(capsys.readouterr().out.strip().splitlines()) >= 2
    out = tmp_path / "decoded"
    options = ["--heads", str(heads), "--strategy", "verify", "--out", str(out)]
    assert main(["decode", str(data), "--model", str(folder), *options]) == 0
    decoded = json.loads((out / "trace.json").read_text())["utterances"]
    assert sorted(decoded) == [f"u{n}" for n in range(5)]
    out = tmp_path / "cmp"
    names = "ar,verify,tree:paths=0.00.1,lookup,transformers"
    options = ["--heads", str(heads), "--dtype", "float64", "--strategies", names, "--out", str(out)]
    assert main(["compare", str(data), "--model", str(folder), *options]) == 0
    rows = {row["label"]: row for row in json.loads((out / "compare.json").read_text())}
    model = load_bundle(str(folder)).model
    peers = {f"transformers:{mode}" for mode, why in peer_modes(model.trunk, True).items() if why is None}
    assert "transformers:greedy" in peers and peers <= set(rows)
    assert rows["ar"]["tokens"] > 60 and rows["verify:depth=3"]["fed"] > rows["ar"]["fed"]
    assert all(row["identical_to_ar"] == 5 and row["wer"] is not None for row in rows.values())


def test_heads_are_trained_on_what_the_model_says(folder: Path, data: Path, tmp_path: Path) -> None:
    command = ["train", "heads", "--model", str(folder), "--family", "residual", "--depth", "2", "--train", str(data),
               "--dev", str(data), "--out", str(tmp_path / "heads"), *SHORT, "targets=own"]  # fmt: skip
    assert main(command) == 0
    assert list(load_bundle(str(folder), heads=[str(tmp_path / "heads")]).heads) == ["heads"]


def test_heads_of_another_trunk_are_refused(
    folder: Path, data: Path, tmp_path: Path, failing: Callable[[list[str]], str]
) -> None:
    command = ["train", "heads", "--model", str(folder), "--family", "linear", "--train", str(data), "--dev", str(data),
               "--out", str(tmp_path / "heads"), *SHORT, "targets=text"]  # fmt: skip
    assert "use mode=frozen" in failing([*command, "mode=joint"])
    assert main(command) == 0
    other = write_audio_lm(tmp_path / "other", 9)
    error = failing(
        ["decode", str(data), "--model", str(other), "--heads", str(tmp_path / "heads"), "--out", str(tmp_path / "o")]
    )
    assert "trained on another trunk" in error


@pytest.mark.parametrize("storage", ["float32", "int8"])
def test_a_folder_of_ours_comes_back(folder: Path, tmp_path: Path, storage: Any) -> None:
    bundle = load_bundle(str(folder))
    save_bundle(bundle, tmp_path / "mine", storage)
    back = load_bundle(str(tmp_path / "mine"))
    assert back.config == bundle.config and back.model.eos == ENDS
    own, other = bundle.model.trunk.state_dict(), back.model.trunk.state_dict()
    for name, tensor in own.items():
        assert torch.allclose(tensor, other[name], atol=0 if storage == "float32" else 0.1), name
    text = "the cat sat"
    assert back.model.decode(back.model.encode(text)) == text


def test_an_instruction_of_the_folder_is_in_the_prompt(folder: Path, tmp_path: Path) -> None:
    bundle = load_bundle(str(folder))
    save_bundle(bundle, tmp_path / "mine")
    path = tmp_path / "mine" / "config.yaml"
    path.write_text(path.read_text().replace("Transcribe the speech.", "Count the cats."))
    face: Any = load_bundle(str(tmp_path / "mine")).model
    assert "Count the cats." in face.text()


def test_a_recording_longer_than_the_model_hears_is_cut(folder: Path) -> None:
    recogniser = speechmtp.load(str(folder))
    found = recogniser.transcribe(0.01 * noise(5 * RATE), RATE)
    lengths = [segment.end - segment.start for segment in found.segments]
    assert sum(lengths) == pytest.approx(5.0) and all(1.2 <= length <= 2.0 for length in lengths[:-1])


def test_heads_need_utterances_and_outputs_a_limit(folder: Path, tmp_path: Path) -> None:
    bundle = load_bundle(str(folder))
    nothing = DataDir(tmp_path, ())
    with pytest.raises(DataError, match="no utterance to train heads on; check") as caught:
        prompt_data(bundle, nothing, HeadsTrainConfig(), None, False, lambda done, total: None)
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="no utterance to train heads on; check"):
        prompt_dev(bundle, nothing, False)
    request = bundle.model.listen(torch.from_numpy(noise(9000)))
    assert request.limit is not None
    [own] = greedy_outputs(bundle.model, [request])
    [free] = greedy_outputs(bundle.model, [replace(request, limit=None)])
    assert free[: len(own)] == own[: len(free)] and min(len(free), len(own)) > 1


def test_recordings_of_wrong_lengths_are_refused(folder: Path) -> None:
    recogniser = speechmtp.load(str(folder))
    with pytest.raises(DataError, match="too short for the encoder"):
        recogniser.listen(noise(1119))
    with pytest.raises(DataError, match="at most 2 s are heard at a time"):
        recogniser.listen(noise(2 * RATE + 1))
