"""The table of corpora in small: a line each says how the corpus lies on disk, for tests that every corpus passes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
from small_sets import lines


def write_archive(base: Path, raw: bool = False) -> np.ndarray:
    """Three utterances as CMU lays them out; returns the samples of each."""
    samples = (3000 * np.sin(np.arange(8000) / 9)).astype(np.int16)
    lines_of = {
        "train": ("an4_clstk", ["<s> GO </s> (an253-fash-b)", "<s> C M U </s> (cen1-mcel-b)"]),
        "test": ("an4test_clstk", ["ERASE C Q (an407-fcaw-b)"]),
    }
    (base / "etc").mkdir(parents=True)
    for part, (folder, transcripts) in lines_of.items():
        lines(base / "etc" / f"an4_{part}.transcription", *transcripts)
        for line in transcripts:
            name = line.split("(")[1].rstrip(")")
            target = base / "wav" / folder / name.split("-")[1]
            target.mkdir(parents=True)
            if raw:
                (target / f"{name}.raw").write_bytes(samples.astype(">i2").tobytes())
            else:
                with soundfile.SoundFile(
                    target / f"{name}.sph", "w", 16000, 1, "PCM_16", endian="BIG", format="NIST"
                ) as file:
                    file.write(samples)
    return samples


def an4(source: Path) -> dict[str, int]:
    """CMU's archive, unpacked."""
    write_archive(source / "an4")
    return {"train_all": 2, "test": 1}


# Corpus -> a function that writes a small one into a folder and returns the utterances of each data directory.
LAYOUTS: dict[str, Callable[[Path], dict[str, int]]] = {
    "an4": an4,
}
