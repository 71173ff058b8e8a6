"""Training a voice: it learns what its tokens depend on, resumes exactly, and its heads learn what its trunk draws."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from small_voice import SAMPLING, SETTINGS

from speechmtp.codec.contract import Spans
from speechmtp.data.kaldi import read_data_dir
from speechmtp.errors import DataError
from speechmtp.models.bases.unit_lm import UnitLM
from speechmtp.training.loop import LoopConfig
from speechmtp.training.optim import OptimConfig
from speechmtp.training.tasks.head_inputs.voices import drawn
from speechmtp.training.tasks.tts import SpokenBatch, SpokenBatches, TtsConfig, sequences_of, train_voice
from speechmtp.training.tasks.tts_data import Spoken, read_spoken, words_of


def spoken(seed: int, units: int = 12) -> Spoken:
    """An utterance whose tokens say which unit is spoken."""
    draw = np.random.default_rng(seed)
    ids, frames = draw.integers(1, 8, units), 2 * draw.integers(2, 6, units)
    words = np.arange(units) // 3
    spans = Spans(ids, words, frames)
    middles = (np.arange(spans.tokens) + 0.5) * 3.2
    tokens = 10 * ids[np.searchsorted(frames.cumsum(), middles, side="right").clip(max=units - 1)]
    return Spoken(ids, words, frames, tokens.tolist())


ROWS = [spoken(seed) for seed in range(12)]
CONFIG = TtsConfig(
    model=SETTINGS, steps=60, batch_tokens=300, corrupt=0.2, dropout=0.0,
    optim=OptimConfig(lr=1e-2, warmup=5, schedule="cosine", clip=1.0),
    loop=LoopConfig(evaluate_every=30, save_every=20),
)  # fmt: skip


def test_a_voice_learns_tokens_and_durations(tmp_path: Path) -> None:
    voice, figures = train_voice(CONFIG, ROWS[:10], ROWS[10:], tmp_path, torch.float32)
    assert figures["nats"] < 1.0  # 7 units, equally likely: 1.95
    batch = SpokenBatch.of(ROWS[10:])
    wrong = SpokenBatch(batch.ids.flip(1), batch.words, batch.frames, batch.speed, batch.tokens)

    def nats(one: SpokenBatch) -> float:
        sequences = sequences_of(voice, one)
        hidden = voice.trunk(sequences.embeddings, sequences.positions, sequences.segments).hidden[:, :-1]
        known = one.tokens >= 0
        return float(torch.nn.functional.cross_entropy(voice.trunk.unembed(hidden[known]), one.tokens[known]))

    with torch.no_grad():
        assert nats(wrong) > nats(batch) + 0.5  # the units are not ignored


def test_training_resumes_exactly(tmp_path: Path) -> None:
    import speechmtp.training.loop as loop

    whole, _ = train_voice(CONFIG, ROWS[:10], ROWS[10:], tmp_path / "whole", torch.float32)
    stopped = 0

    class Stop(RuntimeError):
        pass

    kept = loop.clip_gradients

    def clip(*given: object, **options: object) -> object:
        nonlocal stopped
        stopped += 1
        if stopped == 45:
            raise Stop
        return kept(*given, **options)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "clip_gradients", clip)
        with pytest.raises(Stop):
            train_voice(CONFIG, ROWS[:10], ROWS[10:], tmp_path / "cut", torch.float32)
    again, _ = train_voice(CONFIG, ROWS[:10], ROWS[10:], tmp_path / "cut", torch.float32, resume=True)
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name]), name


def test_batches_hold_every_utterance_once_an_epoch() -> None:
    batches = SpokenBatches(ROWS, 200, 0)
    sizes = [batches.batch(number).tokens for number in range(batches.batches)]
    assert sum(len(one) for one in sizes) == len(ROWS)
    assert all(one.numel() <= 200 or len(one) == 1 for one in sizes)
    assert sum(int((one >= 0).sum()) for one in sizes) == batches.tokens


def test_sequences_are_laid_out_as_decoding_lays_them() -> None:
    torch.manual_seed(0)
    voice = UnitLM(SETTINGS).double().eval()
    batch = SpokenBatch.of(ROWS[:3])
    with torch.no_grad():
        sequences = sequences_of(voice, batch)
        for row, one in enumerate(ROWS[:3]):
            size = len(one.tokens)
            ids, words, frames = (torch.as_tensor(part) for part in (one.ids, one.words, one.frames))
            prompt = voice.read(ids, words, frames).prompt
            assert prompt.hints is not None and prompt.hints.shape[1] == size
            embedded = voice.trunk.embed(torch.tensor(one.tokens[:-1])) + prompt.hints[0, 1:]
            wanted = torch.cat([prompt.entries[0], embedded])
            torch.testing.assert_close(sequences.embeddings[row, :size], wanted)
            assert sequences.positions[row, : size + 1].tolist() == list(range(size + 1))


def test_drawn_tokens_are_of_the_planned_length_and_vary() -> None:
    torch.manual_seed(0)
    voice = UnitLM(SETTINGS).eval()
    one, two = (drawn(voice, ROWS, SAMPLING, lambda done, total: None) for _ in range(2))
    assert [len(row.tokens) for row in one] == [len(row.tokens) for row in ROWS]
    assert [row.tokens for row in one] == [row.tokens for row in two]
    assert len({tuple(row.tokens[:8]) for row in one}) > 6


def data_dir(folder: Path, **tables: str) -> Path:
    """A data directory of one utterance."""
    folder.mkdir(exist_ok=True)
    soundfile.write(folder / "a.wav", np.zeros(8400), 24000)
    usual = {
        "wav.scp": f"u {folder / 'a.wav'}\n", "text": "u Hi\n", "utt2spk": "u u\n", "phones": "u hˈI.\n",
        "frames": "u 4 2 1 3 2 2\n", "tokens": f"u {' '.join(['1'] * 9)}\n",
    }  # fmt: skip
    for name, text in {**usual, **tables}.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def test_tables_are_read_with_their_blanks(tmp_path: Path) -> None:
    [row] = read_spoken(read_data_dir(data_dir(tmp_path), need_text=False), 10)
    assert row.frames.tolist() == [8, 4, 2, 6, 4, 4] and len(row.tokens) == 9
    assert words_of("a b, c") == [0, 0, 0, 1, 1, 1, 2, 2]


@pytest.mark.parametrize(
    ("tables", "expected"),
    [
        ({"frames": "u 4 2\n"}, "2 frames for 4 phones"),
        ({"phones": "u h#I.\n"}, "'#' is no unit"),
        ({"tokens": "u 1 1\n"}, "2 tokens up to 1, expected 9"),
        ({"tokens": "u 1 1 1 1 1 1 1 1 99\n"}, "9 tokens up to 99, expected 9 below 10"),
        ({"phones": "u  hˈI.\n"}, "no utterance"),
        ({"utt2speed": "u fast\n"}, "'fast', expected a number"),
    ],
)
def test_errors_of_tables_name_the_table(tmp_path: Path, tables: dict[str, str], expected: str) -> None:
    data = read_data_dir(data_dir(tmp_path, **tables), need_text=False)
    with pytest.raises(DataError, match=expected):
        read_spoken(data, 10)
