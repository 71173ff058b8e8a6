"""The union of several data directories."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from speechmtp.data.table_set import TableSet, load_tables, write_tables
from speechmtp.data.tables import byte_order
from speechmtp.errors import ConfigError, DataError


def combine(sources: Sequence[str | Path], out: str | Path, root: str | Path | None = None) -> int:
    """Write the union of the sources to `out` and return its number of utterances.

    A table is written only if every source has it. If only some sources have segments, each recording of the others
    becomes one segment. DataError for an id that is in two sources, ConfigError without sources.
    """
    if len(sources) < 1:
        raise ConfigError("combine: no directories, at least one is expected")
    loaded = [load_tables(source, root) for source in sources]
    _unsplit_roots(loaded)
    if any(tables.segmented for tables in loaded):
        for tables in loaded:
            if not tables.segmented:
                tables.tables["segments"] = {key: f"{key} 0 -1" for key in tables.utterances}
    names = set.intersection(*(set(tables.tables) for tables in loaded)) - {"spk2utt"}
    merged: dict[str, dict[str, str]] = {name: {} for name in sorted(names)}
    for tables in loaded:
        for name in sorted(names):
            _merge(merged[name], tables, name)
    shared = {k: v for k, v in loaded[0].info.items() if all(t.info.get(k) == v for t in loaded)}
    result = TableSet(loaded[0].directory, merged, shared)
    write_tables(out, result)
    return len(result.utterances)


def _merge(target: dict[str, str], tables: TableSet, name: str) -> None:
    """Add a table to `target`; DataError for an utterance in two sources, or a key with two values."""
    unique = name in ("segments", "utt2spk", "text") or (name == "wav.scp" and not tables.segmented)
    for key in sorted(tables.tables[name], key=byte_order):
        value = tables.tables[name][key]
        if key in target and (unique or target[key] != value):
            raise DataError(f"{tables.directory / name}: id {key!r} is in another of the directories too; rename one")
        target[key] = value


def _unsplit_roots(loaded: Sequence[TableSet]) -> None:
    """Make paths absolute if the sources have different roots."""
    if len({str(tables.info.get("root")) for tables in loaded}) == 1:
        return
    for tables in loaded:
        root = tables.info.pop("root", None)
        for key, value in tables.tables["wav.scp"].items():
            if root is not None and not value.rstrip().endswith("|"):
                tables.tables["wav.scp"][key] = str(Path(str(root)) / value.strip(" \t"))
