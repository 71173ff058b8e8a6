"""How lively is a row's melody? F0 by librosa's pyin: median in Hz, spread and range in semitones, voiced share.

With several rows, spoken from the same texts with different seeds, the spread of a sentence's mean F0 over the rows is
told too: nothing where every seed gives the same melody.

    python tools/voice_eval/pitch.py ROW [ROW ...] --out pitch.json
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rows import samples_of, texts_of, wav_files, with_peers, write_json

from speechmtp.errors import SpeechMTPError
from speechmtp.progress import track

RATE, HOP = 12000, 300
LOW, HIGH = 60.0, 600.0  # Hz
QUIET = 0.05  # of the loudest frame's level: pyin hears voices in the silence below it


def f0_of(samples: np.ndarray) -> np.ndarray:
    """F0 in Hz of samples [N] at 12 kHz, one value in 25 ms, NaN where unvoiced or quiet."""
    import librosa

    f0, _, _ = librosa.pyin(samples, fmin=LOW, fmax=HIGH, sr=RATE, frame_length=1024, hop_length=HOP)
    level = librosa.feature.rms(y=samples, frame_length=1024, hop_length=HOP)[0, : len(f0)]
    return np.where(level > QUIET * level.max(), f0, np.nan).astype(np.float64)


def semitones(f0: np.ndarray) -> np.ndarray:
    """Voiced F0 in semitones over 100 Hz."""
    return 12.0 * np.log2(f0[np.isfinite(f0)] / 100.0)


def figures(tracks: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Figures of a row from its F0 tracks: of all voiced frames, and by sentence."""
    tones = {name: semitones(f0) for name, f0 in tracks.items()}
    voiced = np.concatenate(list(tones.values()))
    if not len(voiced):
        return {"median_hz": None, "sd_st": None, "range_st": None, "voiced": 0.0, "mean_st": {}, "sd_by_sentence": {}}
    low, high = np.percentile(voiced, [5, 95])
    return {
        "median_hz": float(100.0 * 2.0 ** (np.median(voiced) / 12.0)),
        "sd_st": float(np.std(voiced)),
        "range_st": float(high - low),  # of the middle nine tenths
        "voiced": len(voiced) / sum(map(len, tracks.values())),
        "mean_st": {name: float(np.mean(one)) for name, one in tones.items() if len(one)},
        "sd_by_sentence": {name: float(np.std(one)) for name, one in tones.items() if len(one)},
    }


def over_rows(rows: Sequence[Mapping[str, np.ndarray]]) -> dict[str, float | None]:
    """How far rows of the same texts and lengths are apart, in semitones, means over sentences: the standard deviation
    of a sentence's mean F0, and of F0 frame by frame where all rows are voiced."""
    shared = [name for name in rows[0] if all(name in row for row in rows)]
    means, frames = [], []
    for name in shared:
        tracks = [row[name] for row in rows]
        if not all(np.isfinite(one).any() for one in tracks):
            continue
        means.append(float(np.std([np.mean(semitones(one)) for one in tracks])))
        if len({len(one) for one in tracks}) == 1:
            stacked = np.stack(tracks)
            both = np.isfinite(stacked).all(axis=0)
            if both.any():
                frames.append(float(np.std(12.0 * np.log2(stacked[:, both]), axis=0).mean()))
    return {"sentence_st": float(np.mean(means)) if means else None,
            "frame_st": float(np.mean(frames)) if frames else None}  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="+", metavar="ROW", help="folder with <id>.wav; several are seeds of one voice")
    parser.add_argument("--texts", default="", help="file of lines `id text` that names the files (default: all)")
    parser.add_argument("--first", type=int, default=0, metavar="N", help="the first N of the texts (default: all)")
    parser.add_argument("--out", default="", metavar="JSON")
    args = parser.parse_args(argv)
    with_peers()
    try:
        names = list(texts_of(args.texts, args.first)) if args.texts else []
        tracks = []
        for row in args.rows:
            files = wav_files(row, names)
            tracks.append({one: f0_of(samples_of(path, RATE)) for one, path in track(list(files.items()), row)})
    except ImportError as error:
        print(f"pitch: error: {error}; expected it in the folder PEERS or here", file=sys.stderr)
        return 2
    except SpeechMTPError as error:
        print(f"pitch: error: {error}", file=sys.stderr)
        return 2
    found: dict[str, Any] = {"rows": {row: figures(one) for row, one in zip(args.rows, tracks)}}
    if len(tracks) > 1:
        found["over_rows"] = over_rows(tracks)
    if args.out:
        write_json(args.out, found)
    for row, told in found["rows"].items():
        if told["median_hz"] is None:
            print(f"{row}: no voiced frame")
        else:
            print(f"{row}: F0 median {told['median_hz']:.0f} Hz, sd {told['sd_st']:.2f} st, "
                  f"range {told['range_st']:.1f} st, voiced {100 * told['voiced']:.0f} %")  # fmt: skip
    if "over_rows" in found:
        print(f"over rows: {found['over_rows']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
