"""Split a data directory into parts of similar size, keeping speakers whole."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from speechmtp.data.table_set import load_tables, write_tables
from speechmtp.errors import DataError


def split(
    source: str | Path,
    parts: int,
    out: str | Path | None = None,
    per_utterance: bool = False,
    root: str | Path | None = None,
) -> list[Path]:
    """Split into `parts` directories `<out>/1` to `<out>/N` and return them; `out` defaults to `<source>/splitN[utt]`.

    Speakers stay whole unless `per_utterance`; parts are as even as runs of speakers in byte order allow. DataError for
    more parts than speakers (or utterances), or less than 1.
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
    """`parts` non-empty runs of whole groups in order, each ending as near as possible to its even share."""
    total = sum(len(group) for group in groups)
    runs: list[list[str]] = [[]]
    done = 0
    for index, group in enumerate(groups):
        left = len(groups) - index  # groups still to place, including this one
        share = total * len(runs) / parts
        must_open = left <= parts - len(runs)
        past = done + len(group) / 2 > share
        if runs[-1] and len(runs) < parts and (must_open or past):
            runs.append([])
        runs[-1] += group
        done += len(group)
    return runs
