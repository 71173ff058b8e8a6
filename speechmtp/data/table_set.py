"""A data directory as plain tables, for selecting and joining parts."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from speechmtp.data.audio_paths import AudioResolver
from speechmtp.data.layout import TABLES, is_of_utterances, read_contents
from speechmtp.data.segments import parse_segment
from speechmtp.data.tables import byte_order, read_table, write_bytes, write_table
from speechmtp.errors import DataError


@dataclass
class TableSet:
    """Tables by name (each key -> value) and the fields of info.json."""

    directory: Path
    tables: dict[str, dict[str, str]]
    info: dict[str, object] = field(default_factory=dict)

    @property
    def segmented(self) -> bool:
        """Whether utterances are parts of recordings."""
        return "segments" in self.tables

    @property
    def utterances(self) -> list[str]:
        """The ids that have audio, in byte order."""
        return sorted(self.tables["segments" if self.segmented else "wav.scp"], key=byte_order)

    @property
    def speakers(self) -> dict[str, str]:
        """Utterance -> speaker; DataError without utt2spk."""
        if "utt2spk" not in self.tables:
            raise DataError(f"{self.directory}: no utt2spk, speakers are needed here")
        return {key: value.strip() for key, value in self.tables["utt2spk"].items()}

    def by_speaker(self) -> dict[str, list[str]]:
        """Speaker -> utterances, both in byte order; DataError for an utterance without a speaker."""
        speakers = self.speakers
        groups: dict[str, list[str]] = {}
        for key in self.utterances:
            if key not in speakers:
                raise DataError(f"{self.directory / 'utt2spk'}: {key!r} is missing; validate the set")
            groups.setdefault(speakers[key], []).append(key)
        return {speaker: groups[speaker] for speaker in sorted(groups, key=byte_order)}

    def of_utterances(self, name: str) -> bool:
        """Whether a table has one line per utterance."""
        return is_of_utterances(name, self.tables[name].keys(), set(self.utterances), self.segmented)

    def recording_of(self, key: str) -> str:
        """The recording of an utterance."""
        if not self.segmented:
            return key
        return parse_segment(self.tables["segments"][key], f"{self.directory / 'segments'}").recording

    def select(self, keys: Collection[str]) -> TableSet:
        """The tables of these utterances: their lines, and those of their recordings and speakers."""
        recordings = {self.recording_of(key) for key in keys}
        wanted = set(keys)
        pairs = self.tables.get("utt2spk", {})
        speakers = {pairs[key].strip() for key in wanted if key in pairs}
        chosen: dict[str, dict[str, str]] = {}
        for name, table in self.tables.items():
            if name == "spk2utt":
                continue
            if self.of_utterances(name):
                kept = wanted
            elif name == "wav.scp" or name.startswith("reco2"):
                kept = recordings
            elif name.startswith("spk2"):
                kept = speakers
            else:
                continue  # its kind of key is unknown
            chosen[name] = {key: value for key, value in table.items() if key in kept}
        return TableSet(self.directory, chosen, dict(self.info))


def load_tables(directory: str | Path, root: str | Path | None = None) -> TableSet:
    """Load the tables of a directory, with audio paths that hold from anywhere (`info["root"]` or absolute).

    Files besides the known tables are included if they can be read as tables.
    """
    directory = Path(directory)
    if not (directory / "wav.scp").is_file():
        raise DataError(f"{directory}: no wav.scp, a Kaldi data directory is expected")
    tables = {}
    for name in read_contents(directory):
        try:
            tables[name] = read_table(directory / name)
        except DataError:
            if name in TABLES:
                raise
    info: dict[str, object] = {}
    if (directory / "info.json").is_file():
        AudioResolver(directory)  # raises a DataError for a damaged info.json
        info = dict(json.loads((directory / "info.json").read_text(encoding="utf-8")))
    found = TableSet(directory, tables, info)
    _anchor(found, root)
    return found


def _anchor(tables: TableSet, root: str | Path | None) -> None:
    """Set `info["root"]` if all relative paths start from one folder; else make them absolute."""
    resolver = AudioResolver(tables.directory, root)
    table = tables.tables["wav.scp"]
    places: dict[str, str] = {}
    bases: set[str] = set()
    for key, value in table.items():
        path = value.strip(" \t")
        if path.endswith("|") or os.path.isabs(path):
            continue
        places[key] = os.path.abspath(resolver.resolve(path, f"{tables.directory / 'wav.scp'}", must_exist=False)[0])
        for base in resolver.bases():
            if os.path.abspath(base / path) == places[key]:
                bases.add(os.path.abspath(base))
                break
    tables.info.pop("root", None)
    if len(bases) == 1:
        tables.info["root"] = bases.pop()
    else:
        table.update(places)


def write_tables(out: str | Path, tables: TableSet) -> None:
    """Write the directory to a temporary folder and rename it into place; an older data directory is replaced.
    DataError for an `out` that is the source, or exists and is not a data directory."""
    out = Path(out)
    if out.resolve() == tables.directory.resolve():
        raise DataError(f"{out}: the output is the input, another folder is expected")
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / "wav.scp").is_file())):
        raise DataError(f"{out}: exists and is no data directory, a new folder is expected")
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        fresh = aside / "new"
        fresh.mkdir()
        for name, table in tables.tables.items():
            write_table(fresh / name, table)
        if "utt2spk" in tables.tables:
            write_table(fresh / "spk2utt", {s: " ".join(keys) for s, keys in tables.by_speaker().items()})
        if tables.info:
            write_info(fresh, tables.info)
        if out.exists():
            os.replace(out, aside / "old")
        os.replace(fresh, out)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def write_info(directory: Path, info: Mapping[str, object]) -> None:
    """Write info.json with sorted keys."""
    text = json.dumps(dict(info), ensure_ascii=False, indent=1, sort_keys=True)
    write_bytes(directory / "info.json", (text + "\n").encode("utf-8"))
