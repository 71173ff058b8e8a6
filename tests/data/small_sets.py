"""A small data directory without a defect, and ways to shape and break it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile

from speechmtp.data.kaldi import read_data_dir

SPEAKERS = {"a-1": "a", "a-2": "a", "b-1": "b", "b-2": "b"}


def write_tone(
    path: Path,
    seconds: float = 0.5,
    rate: int = 16000,
    channels: int = 1,
    level: float = 0.3,
    pitch: float = 200.0,
) -> None:
    """A tone as a 16-bit file of the extension's kind."""
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = level * np.sin(2 * np.pi * pitch * np.arange(round(seconds * rate)) / rate)
    soundfile.write(path, np.repeat(samples[:, None], channels, axis=1), rate)


def write_set(directory: Path) -> Path:
    """Four utterances of two speakers, half a second each, without a defect."""
    directory.mkdir(parents=True)
    for number, key in enumerate(SPEAKERS):
        write_tone(directory / "wav" / f"{key}.wav", pitch=200.0 + 10 * number)
    tables = {
        "wav.scp": {key: f"wav/{key}.wav" for key in SPEAKERS},
        "text": {key: f"HELLO {word}" for key, word in zip(SPEAKERS, ("ONE", "TWO", "SIX", "TEN"))},
        "utt2spk": SPEAKERS,
        "utt2dur": dict.fromkeys(SPEAKERS, "0.500"),
        "spk2utt": {"a": "a-1 a-2", "b": "b-1 b-2"},
        "spk2gender": {"a": "f", "b": "m"},
    }
    for name, table in tables.items():
        (directory / name).write_text("".join(f"{k} {v}\n" for k, v in table.items()), encoding="utf-8")
    return directory


def replace_line(path: Path, number: int, line: str | bytes | None) -> None:
    """Put `line` (without its end) in place of line `number` from 1; None takes it out."""
    lines = path.read_bytes().split(b"\n")
    if line is None:
        del lines[number - 1]
    else:
        lines[number - 1] = line if isinstance(line, bytes) else line.encode()
    path.write_bytes(b"\n".join(lines))


def lines(path: Path, *content: str) -> None:
    """Write lines."""
    path.write_text("".join(line + "\n" for line in content), encoding="utf-8")


def swap(path: Path) -> None:
    """Exchange the first two lines."""
    first, second, *others = path.read_text().splitlines()
    lines(path, second, first, *others)


def no_prefix(d: Path) -> None:
    """Ids x1 to x4 whose speakers alternate."""
    speakers = {"x1": "b", "x2": "a", "x3": "b", "x4": "a"}
    lines(d / "wav.scp", *(f"{new} wav/{old}.wav" for new, old in zip(speakers, ("a-1", "a-2", "b-1", "b-2"))))
    lines(d / "text", *(f"{k} HELLO THERE" for k in speakers))
    lines(d / "utt2spk", *(f"{k} {s}" for k, s in speakers.items()))
    lines(d / "utt2dur", *(f"{k} 0.500" for k in speakers))
    lines(d / "spk2utt", "a x2 x4", "b x1 x3")
    lines(d / "notes", *(f"{k} note" for k in speakers))


def segments(d: Path, *last: str, first: str = "a-1 rec 0 0.4") -> None:
    """One recording of 2 s in four segments; `last` are the fields of the third and fourth."""
    write_tone(d / "wav" / "rec.wav", seconds=2.0)
    lines(d / "wav.scp", "rec wav/rec.wav")
    third, fourth = last if len(last) == 2 else ("b-1 rec 0.8 1.2", last[0])
    lines(d / "segments", first, "a-2 rec 0.4 0.8", third, fourth)
    (d / "utt2dur").unlink()


def snapshot(directory: Path) -> dict[str, bytes]:
    """Every file of a directory, its backups too."""
    return {str(p.relative_to(directory)): p.read_bytes() for p in sorted(directory.rglob("*")) if p.is_file()}


def keys(directory: Path) -> list[str]:
    """Ids of a written set, which must be without defects and complete."""
    data = read_data_dir(directory)
    assert data["".join(list(data)[:1])].load().size > 0
    return list(data)
