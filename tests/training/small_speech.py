"""Synthetic speech for training tests: every letter is a tone; models of a few thousand weights."""

from pathlib import Path

import numpy as np
import soundfile

from speechmtp.audio.features import Fbank, FbankConfig
from speechmtp.data.batch import BatchConfig
from speechmtp.data.feature_store import FeatureStore
from speechmtp.data.kaldi import read_data_dir
from speechmtp.models.encoder import Encoder, EncoderConfig
from speechmtp.training.optim import OptimConfig
from speechmtp.training.tasks.ctc import AudioData, CtcPhaseConfig

RATE = 8000
LETTERS = "ABCDEF"
FBANK = FbankConfig(sample_rate=RATE, num_mels=16)
ENCODER = EncoderConfig(features=16, width=16, layers=2, heads=2, ff_width=24, kernel=4, channels=4, inter_ctc=(1,))
BATCH = BatchConfig(seconds=2.0, rows=4)


def say(text: str) -> np.ndarray:
    """A tone of 0.12 s for every letter, with silence around."""
    time = np.arange(int(0.12 * RATE)) / RATE
    tones = [0.3 * np.sin(2 * np.pi * (300 + 450 * LETTERS.index(letter)) * time) for letter in text]
    return np.concatenate([np.zeros(RATE // 20), *tones, np.zeros(RATE // 20)])


def texts(count: int, seed: int = 0) -> list[str]:
    """Words of 2 to 5 letters, none twice in a row: 0.3 to 0.7 s."""
    random = np.random.default_rng(seed)
    words = []
    for _ in range(count):
        word = [int(random.integers(len(LETTERS)))]
        for _ in range(int(random.integers(1, 5))):
            word.append((word[-1] + int(random.integers(1, len(LETTERS)))) % len(LETTERS))
        words.append("".join(LETTERS[i] for i in word))
    return words


def write_speech(folder: Path, count: int, seed: int = 0) -> Path:
    """A Kaldi data directory."""
    (folder / "wav").mkdir(parents=True)
    lines: dict[str, list[str]] = {"wav.scp": [], "text": [], "utt2spk": []}
    for number, text in enumerate(texts(count, seed)):
        name = f"s-{number:02d}"
        soundfile.write(folder / "wav" / f"{name}.wav", say(text), RATE)
        for table, value in (("wav.scp", f"{folder}/wav/{name}.wav"), ("text", text), ("utt2spk", "s")):
            lines[table].append(f"{name} {value}\n")
    for table, rows in lines.items():
        (folder / table).write_text("".join(rows))
    return folder


def letter_data(folder: Path) -> AudioData:
    """Features and ids of a directory without a tokenizer: A is 3, B is 4, and so on."""
    data = read_data_dir(folder)
    tokens = {u.id: [3 + LETTERS.index(letter) for letter in u.text or ""] for u in data.utterances}
    seconds = {u.id: len(u.text or "") * 0.12 + 0.1 for u in data.utterances}
    return AudioData(FeatureStore(data, Fbank(FBANK)), tokens, seconds)


def small_encoder(seed: int = 0, **settings: object) -> Encoder:
    """An encoder for the letters."""
    import torch

    torch.manual_seed(seed)
    config = {name: getattr(ENCODER, name) for name in ENCODER.__dataclass_fields__} | settings
    return Encoder(EncoderConfig(**config), 3 + len(LETTERS))


def ctc_config(steps: int, **settings: object) -> CtcPhaseConfig:
    """A short phase; low learning rate, so that the encoder goes on hearing labels."""
    optim = {"lr": 3e-4, "warmup": 2} | settings
    return CtcPhaseConfig(steps=steps, optim=OptimConfig(**optim), batch=BATCH)  # type: ignore[arg-type]
