"""Check that two sets share no audio (E41), with warnings for shared ids, speakers or texts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from speechmtp.data.audio_paths import AudioResolver
from speechmtp.data.tables import read_table
from speechmtp.data.validation.audio_probe import AudioProbe
from speechmtp.data.validation.defects import NONE, WARN, CheckOptions, Defect, Table, Tables, speakers_of


def check_leakage(
    tables: Tables, audio: Mapping[str, tuple[str, bool]], options: CheckOptions, probe: AudioProbe
) -> list[Defect]:
    """E41 against every directory of `options.against`; audio is compared by the bytes of the files."""
    defects = []
    for other in options.against:
        directory = Path(other)
        for name, kind in (("wav.scp", "id"), ("segments", "id"), ("text", "text")):
            if name in tables and (directory / name).is_file():
                defects += _shared(tables[name], read_table(directory / name), directory / name, kind)
        if "utt2spk" in tables and (directory / "utt2spk").is_file():
            defects += _shared_speakers(tables, directory)
        if options.audio != "none" and "wav.scp" in tables and (directory / "wav.scp").is_file():
            theirs = _files(directory, options.root)
            defects += _shared_audio(tables["wav.scp"], audio, theirs, directory, probe)
    return defects


def _shared(table: Table, theirs: Mapping[str, str], path: Path, kind: str) -> list[Defect]:
    """Warnings for ids or texts of `table` that are also in `theirs`."""
    values = set(theirs.values()) if kind == "text" else set(theirs)
    defects = []
    for key, row in table.first.items():
        if (row.value if kind == "text" else key) in values:
            what = f"text of {key!r}" if kind == "text" else f"id {key!r}"
            defects.append(Defect("E41", table.path, row.line, f"{what} is also in {path}", WARN, key))
    return defects


def _shared_speakers(tables: Tables, directory: Path) -> list[Defect]:
    """Warnings for speakers that are in both sets."""
    theirs = {value.strip() for value in read_table(directory / "utt2spk").values()}
    table = tables["utt2spk"]
    defects, seen = [], set()
    for key, speaker in speakers_of(tables).items():
        if speaker in theirs and speaker not in seen:
            seen.add(speaker)
            text = f"speaker {speaker!r} is also in {directory / 'utt2spk'}"
            defects.append(Defect("E41", table.path, table.at(key), text, WARN, key))
    return defects


def _files(directory: Path, root: str | None) -> dict[str, str]:
    """Recording -> file or archive entry of another directory (no commands); not all need exist."""
    resolver = AudioResolver(directory, root)
    files = {}
    for key, value in read_table(directory / "wav.scp").items():
        location, pipe = resolver.resolve(value, f"{directory / 'wav.scp'}", must_exist=False)
        if not pipe:
            files[key] = location
    return files


def _shared_audio(
    table: Table,
    ours: Mapping[str, tuple[str, bool]],
    theirs: Mapping[str, str],
    directory: Path,
    probe: AudioProbe,
) -> list[Defect]:
    """Errors for files with equal bytes; only files of equal size are hashed."""
    sizes: dict[int | None, list[tuple[str, str]]] = {}
    for other, candidate in theirs.items():
        sizes.setdefault(probe.size(candidate), []).append((other, candidate))
    sizes.pop(None, None)  # cannot be read
    defects = []
    for key, (path, pipe) in ours.items():
        if pipe:
            continue
        for other, candidate in sizes.get(probe.size(path), ()):
            if probe.digest(path) == probe.digest(candidate):
                text = f"same audio as {other!r} of {directory / 'wav.scp'}"
                defects.append(Defect("E41", table.path, table.at(key), text, NONE, key))
    return defects
