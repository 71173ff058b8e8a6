"""Checks of wav.scp and its audio (E28 to E36, E39, E40)."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from speechmtp.audio.archives import entry_of, is_range
from speechmtp.data.audio_paths import AudioResolver, decodable_file, is_url
from speechmtp.data.segments import Segment
from speechmtp.data.validation.audio_probe import AudioFacts, AudioProbe
from speechmtp.data.validation.defects import DROP, FIX, NONE, WARN, CheckOptions, Defect, Table, Tables
from speechmtp.errors import DataError

DURATION_TOLERANCE = 0.02  # seconds
RATE_RANGE = (1.0, 40.0)  # characters per second of plausible speech


def locate_audio(
    directory: Path, table: Table, options: CheckOptions
) -> tuple[dict[str, tuple[str, bool]], list[Defect]]:
    """Recording -> (path or command, whether it is a command) of all that can be located, and the defects of the
    paths."""
    resolver = AudioResolver(directory, options.root)
    found: dict[str, tuple[str, bool]] = {}
    defects = []
    absolute = []
    for key, row in table.first.items():
        value = row.value.strip(" \t")
        if not row.sound:
            continue
        if value.endswith("|") and decodable_file(value[:-1].strip()) is None:
            if options.allow_pipes:
                found[key] = (value[:-1].strip(), True)
            else:
                text = f"pipe {value!r} while pipes are off (allow_pipes=True)"
                defects.append(Defect("E35", table.path, row.line, text, NONE, key))
        elif value.startswith("~") or is_url(value):
            text = f"`~` or URL in path {value!r}"
            defects.append(Defect("E36", table.path, row.line, text, NONE, key))
        else:
            absolute += [row.line] if value.startswith("/") else []
            if options.audio != "none":
                _locate(resolver, table, key, value, found, defects)
    if absolute:
        text = f"absolute path, and {len(absolute) - 1} more: the set cannot be moved"
        defects.append(Defect("E36", table.path, absolute[0], text, WARN))
    return found, defects


def _locate(
    resolver: AudioResolver,
    table: Table,
    key: str,
    value: str,
    found: dict[str, tuple[str, bool]],
    defects: list[Defect],
) -> None:
    """Add the file of one line to `found`, or E28 to `defects`."""
    where = f"{table.path}:{table.at(key)}"
    try:
        found[key] = resolver.resolve(value, where)
    except DataError as error:
        text = f"audio missing: {str(error).removeprefix(where + ': ')}"
        defects.append(Defect("E28", table.path, table.at(key), text, _fix_without(value), key))


def _fix_without(value: str) -> str:
    """The kind of fix for a recording that is missing or unreadable. Entries of an archive are never dropped: with an
    archive that moved, or that holds something else, they would all be."""
    return DROP if entry_of(value) is None and not is_range(value) else NONE


def check_recordings(
    directory: Path,
    table: Table,
    found: Mapping[str, tuple[str, bool]],
    segments: Mapping[str, Segment],
    options: CheckOptions,
    probe: AudioProbe,
) -> tuple[dict[str, AudioFacts], list[Defect]]:
    """Recording -> facts of all that can be read, and the defects of the audio itself."""
    facts: dict[str, AudioFacts] = {}
    defects = []
    for key, (location, pipe) in found.items():
        if pipe and options.audio != "decode":
            continue
        fact = probe.facts(location, pipe, decode=options.audio == "decode")
        line = table.at(key)
        if fact.error is not None or fact.samples == 0:
            text = f"audio unreadable: {fact.error}" if fact.error else f"0 samples: {location}"
            fix = _fix_without(location)
            text += "" if fix == DROP else "; an archive entry, not dropped by --fix-drop"
            defects.append(Defect("E29", table.path, line, text, fix, key))
            continue
        facts[key] = fact
        defects += _check_quality(table.path, line, key, fact)
    chosen = {segment.recording for segment in segments.values() if segment.channel is not None}
    open_choice = {segment.recording for segment in segments.values() if segment.channel is None}
    for key, fact in facts.items():
        if fact.channels > 1 and (key not in chosen or key in open_choice):
            text = f"{fact.channels} channels, none chosen (segments can name one)"
            defects.append(Defect("E31", table.path, table.at(key), text, NONE, key))
    return facts, defects + _check_rates(directory, table, facts)


def _check_rates(directory: Path, table: Table, facts: Mapping[str, AudioFacts]) -> list[Defect]:
    """E30 for sample rates other than info.json's or, without one, other than the most frequent rate."""
    if not facts:
        return []
    wanted = info_rate(directory)
    source = "info.json has"
    if wanted is None:
        wanted = Counter(fact.rate for fact in facts.values()).most_common(1)[0][0]
        source = "most files have"
    return [
        Defect("E30", table.path, table.at(key), f"sample rate {fact.rate}, {source} {wanted}", NONE, key)
        for key, fact in facts.items()
        if fact.rate != wanted
    ]


def info_rate(directory: Path) -> int | None:
    """The `fs` of info.json; None without one."""
    try:
        info = json.loads((directory / "info.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    rate = info.get("fs") if isinstance(info, dict) else None
    return rate if isinstance(rate, int) else None


def _check_quality(path: str, line: int, key: str, fact: AudioFacts) -> list[Defect]:
    """E32 and E40, warnings that need decoded samples."""
    if fact.decoded is None:
        return []
    found = []
    if abs(fact.decoded - fact.samples) > 0.01 * fact.samples:
        text = f"header has {fact.samples} samples, decoded are {fact.decoded}"
        found.append(Defect("E32", path, line, text, WARN, key))
    complaints = [
        *(["silent"] if fact.peak < 1e-4 else []),
        *([f"{100 * fact.clipped:.1f} % clipped"] if fact.clipped > 0.01 else []),
        *([f"DC {fact.offset:.2f}"] if abs(fact.offset) > 0.1 else []),
    ]
    if complaints:
        found.append(Defect("E40", path, line, f"audio is {', '.join(complaints)}", WARN, key))
    return found


def true_durations(
    keys: Mapping[str, object], segments: Mapping[str, Segment], segmented: bool, lengths: Mapping[str, float]
) -> dict[str, float]:
    """Utterance -> seconds, for those whose segment or recording length is known."""
    durations = {}
    for key in keys:
        length: float | None
        if segmented:
            segment = segments.get(key)
            if segment is None:
                continue
            whole = lengths.get(segment.recording)
            end = whole if segment.end is None else min(segment.end, whole) if whole is not None else segment.end
            length = None if end is None else end - segment.start
        else:
            length = lengths.get(key)
        if length is not None and length > 0:
            durations[key] = length
    return durations


def check_durations(tables: Tables, durations: Mapping[str, float], lengths: Mapping[str, float]) -> list[Defect]:
    """E33 and E34 of utt2dur and reco2dur, E34 of utt2num_samples."""
    defects = []
    for name, known in (("utt2dur", durations), ("reco2dur", lengths), ("utt2num_samples", {})):
        table = tables.get(name)
        for key, row in table.first.items() if table is not None else ():
            if not row.sound:
                continue
            assert table is not None
            value = parse_duration(row.value)
            true = known.get(key)
            mend = None if true is None else f"{true:.3f}"
            if value is None:
                text = f"duration {row.value.strip()!r} of {key!r} not a number > 0"
                defects.append(Defect("E34", table.path, row.line, text, FIX, key, mend))
            elif true is not None and abs(value - true) > DURATION_TOLERANCE + 1e-9:
                text = f"{name} of {key!r} is {value:g} s, the audio has {true:.3f} s"
                defects.append(Defect("E33", table.path, row.line, text, FIX, key, mend))
    return defects


def parse_duration(value: str) -> float | None:
    """A finite number above 0; None for any other value."""
    try:
        number = float(value)
    except ValueError:
        return None
    return number if 0 < number < float("inf") else None


def check_speed(tables: Tables, durations: Mapping[str, float]) -> list[Defect]:
    """E39 where the number of characters per second is implausible."""
    table = tables.get("text")
    written = tables.get("utt2dur")
    defects = []
    for key, row in table.first.items() if table is not None else ():
        assert table is not None
        seconds = durations.get(key)
        if seconds is None and written is not None and key in written.first:
            seconds = parse_duration(written.first[key].value)
        characters = sum(not c.isspace() for c in row.value)
        if seconds is None or not row.sound or characters == 0:
            continue
        speed = characters / seconds
        if not RATE_RANGE[0] <= speed <= RATE_RANGE[1]:
            text = f"{characters} characters in {seconds:.2f} s ({speed:.1f} a second) of {key!r}: shifted text?"
            defects.append(Defect("E39", table.path, row.line, text, WARN, key))
    return defects
