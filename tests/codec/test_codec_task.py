"""`train codec` and `codec encode | decode` on a tiny data directory."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from speechmtp.audio.io import read_audio, write_audio
from speechmtp.cli.main import main
from speechmtp.codec.contract import Spans
from speechmtp.codec.folder import load_codec, save_codec
from speechmtp.codec.unit25 import Unit25Config
from speechmtp.data.kaldi import read_data_dir
from speechmtp.errors import DataError
from speechmtp.training.loop import LoopConfig, TrainingStopped
from speechmtp.training.tasks.codec import CodecTrainConfig, compared, render, spectral_loss, train_codec
from speechmtp.training.tasks.codec_data import Crops, read_recordings
from speechmtp.training.tasks.tts_data import read_spans
from tests.codec.codec_scenes import TINY, tiny_codec

PHONES = {"a-1": "hˈI ðɛɹ.", "a-2": "jˈɛs,  nˈO.", "a-3": "tˈu ˈA!"}  # the second lost a word
SIZES = replace(TINY, units=178)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data directory of three utterances of noise and tones, with tokens."""
    data = tmp_path / "data"
    data.mkdir()
    tables: dict[str, dict[str, str]] = {name: {} for name in ("wav.scp", "phones", "frames", "tokens", "utt2spk")}
    random = np.random.default_rng(0)
    for key, phones in PHONES.items():
        frames = random.integers(2, 6, len(phones) + 2)
        total = int(frames.sum()) * 600
        tone = 0.3 * np.sin(2 * np.pi * 200 * np.arange(total) / 24000) * (random.random(total) < 0.9)
        write_audio(tmp_path / f"{key}.wav", tone.astype(np.float32), 24000)
        tables["wav.scp"][key], tables["phones"][key] = str(tmp_path / f"{key}.wav"), phones
        tables["frames"][key], tables["utt2spk"][key] = " ".join(map(str, frames)), "a"
        tables["tokens"][key] = " ".join(map(str, random.integers(0, 108, -(-total // 960))))
    for name, table in tables.items():
        (data / name).write_text("".join(f"{key} {value}\n" for key, value in table.items()), encoding="utf-8")
    return data


def test_spans_keep_blanks_and_leave_out_what_lost_words(folder: Path) -> None:
    found = read_spans(read_data_dir(folder, need_text=False))
    assert sorted(found) == ["a-1", "a-3"]
    assert len(found["a-1"].ids) == len(PHONES["a-1"]) + 2 and found["a-1"].words.tolist() == [0] * 5 + [1] * 5
    for key, spans in found.items():
        assert spans.samples == len(read_audio(folder.parent / f"{key}.wav", rate=None)[0])


def rewrite(name: str, old: str, new: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        text = (folder / name).read_text(encoding="utf-8")
        assert old in text
        (folder / name).write_text(text.replace(old, new, 1), encoding="utf-8")

    return change


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (rewrite("phones", "hˈI", "h5I"), "'5' is no unit"),
        (rewrite("phones", "ðɛɹ", "ðɛ"), "10 frames for 7 phones"),
        (rewrite("frames", "a-1 ", "a-1 x "), "whole numbers of 25 ms"),
        (rewrite("frames", "a-1 ", "b-1 "), "a-1 has no line in phones or frames"),
        (rewrite("tokens", "a-1 ", "a-1 3 "), "encode the directory again"),
        (rewrite("tokens", "a-1 ", "a-1 108 "), "tokens up to 10[78]"),
    ],
)
def test_tables_that_do_not_fit_are_named(folder: Path, change: Callable[[Path], None], told: str) -> None:
    change(folder)
    with pytest.raises(DataError, match=told):
        read_recordings(read_data_dir(folder, need_text=False), folder / "tokens", 108)


def crops(folder: Path, quanta: int = 4) -> Crops:
    recordings = read_recordings(read_data_dir(folder, need_text=False), folder / "tokens", 108)
    return Crops(recordings, rows=2, quanta=quanta, ahead=6, whole_words=True, seed=1)


def test_a_crop_is_what_decoding_gives(folder: Path) -> None:
    """Without noise and pulses an utterance's first crop is the head of `decode`: frames, units, tokens and windows are
    the same in training."""
    codec = tiny_codec()
    codec.decoder = type(codec.decoder)(SIZES).eval()
    codec.encoder = type(codec.encoder)(SIZES).eval()
    codec.config = replace(codec.config, network=SIZES)
    with torch.no_grad():
        codec.decoder.head.bias.view(5, -1)[[0, 2]] = -20.0  # neither pulses nor noise
        codec.decoder.head.bias.view(5, -1)[3] = 0.0
    recordings = read_recordings(read_data_dir(folder, need_text=False), folder / "tokens", 108)
    batch = crops(folder, quanta=3).cut([(0, 0), (1, 0)])
    with torch.inference_mode():
        found = render(codec, batch).numpy()
    for one, ours in zip(recordings, found):
        whole = codec.decode(one.tokens.tolist(), one.spans)
        wanted = whole[4800 : 4800 + len(ours)]
        size = min(len(wanted), len(ours)) - 600  # the end of an utterance has another level
        assert size > 3000 and wanted.std() > 1e-3
        assert np.allclose(ours[:size], wanted[:size], atol=1e-3 * wanted.std())


def test_batches_are_functions_of_their_number_and_cover_everything(folder: Path) -> None:
    one, two = crops(folder), crops(folder)
    assert torch.equal(one.batch(3).samples, two.batch(3).samples)
    assert torch.equal(one.batch(3).tokens, two.batch(3).tokens)
    assert len({tuple(one.batch(n).samples[r][:50].tolist()) for n in range(4) for r in range(2)}) > 1
    batch = one.batch(0)
    assert compared(batch).shape == (2, 300 * (4 * 16 - 18)) == tuple(render(tiny_like(batch), batch).shape)


def tiny_like(batch: object) -> object:
    from speechmtp.codec.unit25 import Unit25Codec

    torch.manual_seed(0)
    return Unit25Codec(replace(tiny_codec().config, network=SIZES)).eval()


def test_the_loss_is_nothing_for_the_same_and_falls_with_training(folder: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    samples = torch.randn(2, 6000)
    assert float(spectral_loss(samples, samples, 1.0)[0]) == 0
    assert float(spectral_loss(samples, 2 * samples, 1.0)[0]) > 0.5
    config = train_config()
    recordings = read_recordings(read_data_dir(folder, need_text=False), folder / "tokens", 108)
    codec = tiny_like(None)
    with torch.no_grad():
        batch = crops(folder).batch(0)
        before = float(spectral_loss(render(codec, batch), compared(batch), 1.0)[0])
    figures = train_codec(config, codec, recordings, recordings, tmp_path / "out")
    assert figures["score"] < before


def train_config(steps: int = 12) -> CodecTrainConfig:
    codec = replace(tiny_codec().config, network=SIZES)
    return CodecTrainConfig(
        codec=codec, steps=steps, rows=2, quanta=3, dev_batches=1,
        optim=replace(CodecTrainConfig().optim, lr=2e-2, warmup=2, ema=0.5),
        loop=LoopConfig(evaluate_every=100, save_every=4),
    )  # fmt: skip


def test_a_stopped_training_goes_on_as_if_it_had_not_stopped(folder: Path, tmp_path: Path, monkeypatch) -> None:
    import os
    import signal

    from speechmtp.training.tasks import codec as task

    recordings = read_recordings(read_data_dir(folder, need_text=False), folder / "tokens", 108)
    whole, stopped = tiny_like(None), tiny_like(None)
    train_codec(train_config(6), whole, recordings, recordings, tmp_path / "whole")
    calls, own = [], task.render

    def killed(*given: object) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return own(*given)

    monkeypatch.setattr(task, "render", killed)
    with pytest.raises(TrainingStopped):
        train_codec(train_config(6), stopped, recordings, recordings, tmp_path / "half")
    again = tiny_like(None)
    train_codec(train_config(6), again, recordings, recordings, tmp_path / "half", resume=True)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_the_commands(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_codec(tiny_like(None), tmp_path / "codec", "card\n", "float32")
    common = ["--threads", "1", "--device", "cpu"]
    out = tmp_path / "exp"
    train = ["train", "codec", "--train", str(folder), "--dev", str(folder), *common]
    sizes = ["steps=2", "rows=2", "quanta=3", "dev_batches=1"]
    assert main([*train, "--init", str(tmp_path / "codec"), "--out", str(out), *sizes]) == 0
    trained = load_codec(out / "model")
    assert trained.config == load_codec(tmp_path / "codec").config
    assert "2 updates of 2 crops" in (out / "model" / "card.md").read_text()
    assert (
        main(["codec", "decode", str(folder), "--out", str(tmp_path / "wavs"), "--codec", str(out / "model"), *common])
        == 0
    )
    assert sorted(p.name for p in (tmp_path / "wavs").iterdir()) == ["a-1.wav", "a-3.wav"]
    samples, rate = read_audio(tmp_path / "wavs" / "a-1.wav", rate=None)
    spans = read_spans(read_data_dir(folder, need_text=False))["a-1"]
    assert rate == 24000 and len(samples) == spans.samples
    stored = {
        "phones": PHONES["a-1"],
        "frames": " ".join(str(n // 2) for n in spans.frames),
        "tokens": [5] * spans.tokens,
    }
    (tmp_path / "one.json").write_text(json.dumps(stored))
    one = ["codec", "decode", str(tmp_path / "one.json"), "--codec", str(out / "model"), *common]
    assert main([*one, "--out", str(tmp_path / "one.wav")]) == 0
    assert len(read_audio(tmp_path / "one.wav", rate=None)[0]) == spans.samples
    capsys.readouterr()
    for argv, told in [
        ([*train, "--init", "none", "--out", str(out)], "holds a training already"),
        ([*train, "--init", str(tmp_path / "codec"), "--out", str(tmp_path / "n"), "codec.ahead=4"], "beside --init"),
        ([*train, "--init", str(tmp_path), "--out", str(tmp_path / "n")], "a codec folder is expected"),
        ([*one[:2], str(tmp_path / "no.json"), *one[3:], "--out", "x.wav"], "No such file"),
        ([*one[:2], str(folder / "phones"), *one[3:], "--out", "x.wav"], "no phones, frames and tokens in JSON"),
        (["codec", "encode", str(tmp_path / "a-1.wav"), *one[3:]], "needs --phones, --frames and --out"),
    ]:
        assert main(argv) == 2
        error = capsys.readouterr().err
        assert told in error and error.count("\n") == 1, error


def test_a_codec_folder_is_what_was_saved(tmp_path: Path) -> None:
    codec = tiny_codec()
    save_codec(codec, tmp_path / "codec", "card\n", "float32")
    again = load_codec(tmp_path / "codec")
    spans = Spans(np.array([0, 5, 0]), np.array([0, 0, 0]), np.array([10, 20, 10]))
    assert np.array_equal(again.decode([7] * spans.tokens, spans), codec.decode([7] * spans.tokens, spans))
    assert isinstance(again.config, Unit25Config) and not again.training
