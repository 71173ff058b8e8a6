"""Make tests/golden/*.json from reference implementations (needs the `torchaudio` extra).

The files hold inputs and expected outputs, so that the tests need no reference.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from speechmtp.audio.torchaudio_compat import import_torchaudio

FBANK_SETTINGS: tuple[dict[str, float], ...] = (
    {"sample_rate": 16000, "num_mels": 80, "low_hz": 20.0, "high_hz": 0.0},
    {"sample_rate": 16000, "num_mels": 23, "low_hz": 60.0, "high_hz": -400.0},
    {"sample_rate": 8000, "num_mels": 40, "low_hz": 20.0, "high_hz": 3800.0},
)


def fbank_golden() -> dict[str, object]:
    """16-bit samples and what torchaudio's Kaldi-compliant fbank makes of them in several settings."""
    if import_torchaudio() is None:
        raise SystemExit("make_golden: torchaudio does not import; install the torchaudio extra")
    from torchaudio.compliance import kaldi

    generator = np.random.default_rng(1)
    seconds = np.arange(1800) / 16000
    sweep = np.sin(2 * np.pi * (300 + 8000 * seconds) * seconds) * np.exp(-20 * seconds)
    samples = np.round(6000 * sweep + 400 * generator.standard_normal(len(seconds)) + 50).astype(int)
    cases = []
    for settings in FBANK_SETTINGS:
        frames = kaldi.fbank(
            torch.from_numpy(samples).float()[None],
            dither=0.0,
            sample_frequency=settings["sample_rate"],
            num_mel_bins=int(settings["num_mels"]),
            low_freq=settings["low_hz"],
            high_freq=settings["high_hz"],
        )
        values = [[round(value, 5) for value in frame] for frame in frames.tolist()]
        cases.append({"settings": settings, "frames": values})
    return {"samples": samples.tolist(), "cases": cases}


def main() -> None:
    """Write the golden files into a folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    default = Path(__file__).parent.parent / "tests" / "golden"
    parser.add_argument("--out", type=Path, default=default, help="folder to write to (default: tests/golden)")
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    (out / "fbank.json").write_text(json.dumps(fbank_golden(), separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
