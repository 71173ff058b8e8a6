"""What the measures of a voice share: a folder of WAV files a row, and texts by id.

A row is a folder with `<id>.wav` files, spoken by one system, and beside it whatever was measured of it as JSON. What
the measures need besides this project's environment is looked for in the folder PEERS, which
`pip install --target` fills, or in the `site-packages` of another environment of the same Python.
"""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from speechmtp.audio.io import audio_info, read_audio
from speechmtp.data.tables import read_table
from speechmtp.errors import ConfigError, DataError


def with_peers() -> None:
    """Have imports look in the folder PEERS last."""
    folder = os.environ.get("PEERS", "")
    if folder and folder not in sys.path:
        sys.path.append(folder)


def texts_of(path: str | Path, first: int = 0) -> dict[str, str]:
    """Sentences by id from a file of lines `id text`, the first so many of them (0: all)."""
    texts = read_table(path)
    return dict(list(texts.items())[: first or None])


def wav_files(folder: str | Path, names: Sequence[str] = ()) -> dict[str, Path]:
    """The WAV files of a row by id, in the order of `names` if any are given; DataError where one is missing."""
    found = {path.stem: path for path in sorted(Path(folder).glob("*.wav"))}
    if not found:
        raise DataError(f"{folder}: no .wav file in it, expected one a sentence; synthesise into that folder first")
    missing = [name for name in names if name not in found]
    if missing:
        raise DataError(f"{folder}: no {missing[0]}.wav ({len(missing)} are missing), expected one a sentence")
    return {name: found[name] for name in names} if names else found


def samples_of(path: Path, rate: int = 16000) -> np.ndarray:
    """A file's samples, float32 [N] at `rate` Hz in [-1, 1]."""
    return np.clip(read_audio(path, rate)[0], -1.0, 1.0)


def seconds_of(path: Path) -> float:
    """A file's duration."""
    return audio_info(path).duration


def write_json(path: str | Path, content: Mapping[str, Any]) -> None:
    """Write `content` as one JSON file, its folder too."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: str | Path) -> dict[str, Any]:
    """What `write_json` wrote; ConfigError where it is missing or damaged."""
    try:
        content: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: {error}, expected a measure; measure that row first") from error
    return content
