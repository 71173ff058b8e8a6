"""Statistics of a data directory: hours, speakers, characters, durations, as numbers and as text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from speechmtp.data.kaldi import DataDir, read_data_dir

PERCENTILES = (0, 5, 25, 50, 75, 95, 100)
EDGES = (0.0, 1.0, 2.0, 3.0, 5.0, 7.5, 10.0, 15.0, 20.0, 30.0)  # seconds; the last bin is open-ended
BAR = 40  # characters of the longest bar


def utterance_durations(data: DataDir) -> dict[str, float]:
    """Id -> seconds, from utt2dur or segments, else counted in the audio. DataError for a command without a
    duration, since commands are never run."""
    from speechmtp.audio.io import audio_info
    from speechmtp.errors import DataError

    durations = {}
    for utterance in data.utterances:
        seconds = utterance.duration
        if seconds is None and utterance.pipe:
            raise DataError(f"{data.path}/{utterance.origin}: the duration of a command is unknown; add utt2dur")
        if seconds is None:
            seconds = audio_info(utterance.audio).duration - utterance.start
        durations[utterance.id] = seconds
    return durations


def percentile(values: Sequence[float], percent: float) -> float:
    """The percentile of sorted values, with linear interpolation."""
    position = (len(values) - 1) * percent / 100
    low = int(position)
    high = min(low + 1, len(values) - 1)
    return values[low] + (values[high] - values[low]) * (position - low)


def data_stats(path: str | Path, root: str | Path | None = None) -> dict[str, Any]:
    """The statistics of a directory; text is optional. Durations are in seconds unless a key names hours."""
    has_text = (Path(path) / "text").is_file()
    data = read_data_dir(path, root, need_text=has_text, allow_pipes=True, check_audio=False)
    durations = sorted(utterance_durations(data).values())
    speakers = Counter(u.speaker for u in data.utterances if u.speaker is not None)
    texts = list(data.transcripts().values())
    characters = Counter(c for text in texts for c in text)
    bins = Counter(max(i for i, edge in enumerate(EDGES) if edge <= seconds) for seconds in durations)
    total = sum(durations)
    return {
        "path": str(path),
        "utterances": len(data),
        "hours": total / 3600,
        "speakers": len(speakers),
        "utterances_per_speaker": _spread(sorted(speakers.values())),
        "words": sum(len(text.split()) for text in texts),
        "distinct_words": len({word for text in texts for word in text.split()}),
        "distinct_texts": len(set(texts)),
        "characters": dict(sorted(characters.items(), key=lambda item: (-item[1], item[0]))),
        "duration_mean": total / len(durations),
        "duration_percentiles": {str(p): percentile(durations, p) for p in PERCENTILES},
        "duration_histogram": [
            {"from": edge, "to": EDGES[i + 1] if i + 1 < len(EDGES) else None, "count": bins.get(i, 0)}
            for i, edge in enumerate(EDGES)
        ],
    }


def _spread(values: Sequence[int]) -> dict[str, float] | None:
    """Minimum, mean and maximum of sorted values; None without values."""
    if not values:
        return None
    return {"min": values[0], "mean": sum(values) / len(values), "max": values[-1]}


def render_stats(stats: Mapping[str, Any]) -> str:
    """The statistics as plain text."""
    lines = [
        f"{stats['path']}",
        f"  utterances {stats['utterances']}, {stats['hours']:.3f} h, speakers {stats['speakers']}",
    ]
    spread = stats["utterances_per_speaker"]
    if spread:
        lines.append(f"  per speaker {spread['min']} to {spread['max']}, mean {spread['mean']:.1f}")
    if stats["words"]:
        lines.append(
            f"  words {stats['words']} ({stats['distinct_words']} distinct), texts {stats['distinct_texts']} distinct"
        )
    points = "  ".join(f"p{p} {v:.2f}" for p, v in stats["duration_percentiles"].items())
    lines += [f"  seconds: mean {stats['duration_mean']:.2f}  {points}", "  durations:"]
    highest = max(cell["count"] for cell in stats["duration_histogram"])
    for cell in stats["duration_histogram"]:
        end = "     " if cell["to"] is None else f"{cell['to']:5.1f}"
        bar = "#" * round(BAR * cell["count"] / highest)
        lines.append(f"    {cell['from']:5.1f} to {end} s {cell['count']:7d} {bar}".rstrip())
    if stats["characters"]:
        shown = [f"{_visible(c)} {n}" for c, n in list(stats["characters"].items())[:60]]
        lines.append(f"  characters ({len(stats['characters'])} distinct): " + ", ".join(shown))
    return "\n".join(lines)


def _visible(character: str) -> str:
    """The character, or its code point if it is not printable."""
    return character if character.isprintable() and character != " " else f"U+{ord(character):04X}"
