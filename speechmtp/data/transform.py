"""Parts of data directories and unions of them: subset, split, combine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from speechmtp.data.kaldi import read_data_dir
from speechmtp.data.subset import choose
from speechmtp.data.table_set import TableSet, load_tables, write_tables
from speechmtp.data.tables import byte_order
from speechmtp.errors import ConfigError, DataError

__all__ = ["combine", "split", "subset"]


def subset(
    source: str | Path,
    out: str | Path,
    mode: str,
    value: int | str,
    seed: int = 0,
    rest: str | Path | None = None,
    root: str | Path | None = None,
) -> tuple[int, int]:
    """Write the utterances that `mode` takes (see `choose`) to `out`, the others to `rest` if it is given.

    Returns how many went to each part.
    """
    tables = load_tables(source, root)
    durations = None
    if mode == "shortest":
        from speechmtp.data.stats import utterance_durations

        data = read_data_dir(source, root, need_text=False, allow_pipes=True, check_audio=False)
        durations = utterance_durations(data)
    chosen = choose(tables, mode, value, seed, durations)
    taken = set(chosen)
    others = [key for key in tables.utterances if key not in taken]
    if rest is not None and not others:
        raise DataError(f"{source}: the subset is the whole set, nothing is left for {rest}")
    if rest is not None and Path(rest).resolve() == Path(out).resolve():
        raise ConfigError(f"{rest}: both parts would go to one folder, two are expected")
    write_tables(out, tables.select(chosen))
    if rest is not None:
        write_tables(rest, tables.select(others))
    return len(chosen), len(others)


def split(
    source: str | Path,
    parts: int,
    out: str | Path | None = None,
    per_utterance: bool = False,
    root: str | Path | None = None,
) -> list[Path]:
    """Split into `parts` directories `<out>/1` to `<out>/N` and return them; `out` is `<source>/splitN[utt]`.

    Speakers stay whole unless `per_utterance`; parts are as even as runs of speakers in byte order allow.
    """
    tables = load_tables(source, root)
    base = Path(out) if out is not None else Path(source) / f"split{parts}{'utt' if per_utterance else ''}"
    if per_utterance:
        groups = [[key] for key in tables.utterances]
    else:
        groups = list(tables.by_speaker().values())
    if not 1 <= parts <= len(groups):
        unit = "utterances" if per_utterance else "speakers"
        raise DataError(f"{source}: {parts} parts of {len(groups)} {unit}, 1 to {len(groups)} are possible")
    paths = []
    for number, keys in enumerate(even_runs(groups, parts), 1):
        write_tables(base / str(number), tables.select(keys))
        paths.append(base / str(number))
    return paths


def even_runs(groups: Sequence[Sequence[str]], parts: int) -> list[list[str]]:
    """`parts` runs of whole groups in order, none empty, each closed nearest to its even share."""
    total = sum(len(group) for group in groups)
    runs: list[list[str]] = [[]]
    done = 0
    for index, group in enumerate(groups):
        left = len(groups) - index  # groups still to place, this one too
        share = total * len(runs) / parts
        must_open = left <= parts - len(runs)
        past = done + len(group) / 2 > share
        if runs[-1] and len(runs) < parts and (must_open or past):
            runs.append([])
        runs[-1] += group
        done += len(group)
    return runs


def combine(sources: Sequence[str | Path], out: str | Path, root: str | Path | None = None) -> int:
    """Write the union of the sources to `out` and return its number of utterances.

    An id of two sources is an error. A table comes along only when every source has it; where only some have
    segments, the others' recordings become segments of their own.
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
    """Add a table; the same utterance twice, or one key with two values, is an error."""
    unique = name in ("segments", "utt2spk", "text") or (name == "wav.scp" and not tables.segmented)
    for key in sorted(tables.tables[name], key=byte_order):
        value = tables.tables[name][key]
        if key in target and (unique or target[key] != value):
            raise DataError(f"{tables.directory / name}: id {key!r} is in another of the directories too; rename one")
        target[key] = value


def _unsplit_roots(loaded: Sequence[TableSet]) -> None:
    """Make paths absolute where the sources have different roots."""
    if len({str(tables.info.get("root")) for tables in loaded}) == 1:
        return
    for tables in loaded:
        root = tables.info.pop("root", None)
        for key, value in tables.tables["wav.scp"].items():
            if root is not None and not value.rstrip().endswith("|"):
                tables.tables["wav.scp"][key] = str(Path(str(root)) / value.strip(" \t"))
