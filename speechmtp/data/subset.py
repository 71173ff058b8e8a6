"""Select parts of a data directory: by order, length, speaker, list or at random, or held-out whole speakers."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path

from speechmtp.data.kaldi import read_data_dir
from speechmtp.data.stats import utterance_durations
from speechmtp.data.table_set import TableSet, load_tables, write_tables
from speechmtp.data.tables import byte_order, read_lines
from speechmtp.errors import ConfigError, DataError


def subset(
    source: str | Path,
    out: str | Path,
    mode: str,
    value: int | str,
    seed: int = 0,
    rest: str | Path | None = None,
    root: str | Path | None = None,
) -> tuple[int, int]:
    """Write the utterances that `mode` selects (see `select_utterances`) to `out`, the others to `rest` if given.

    Returns the numbers of both. DataError if nothing is left for `rest`, ConfigError if both are the same folder.
    """
    tables = load_tables(source, root)
    durations = None
    if mode == "shortest":
        data = read_data_dir(source, root, need_text=False, allow_pipes=True, check_audio=False)
        durations = utterance_durations(data)
    chosen = select_utterances(tables, mode, value, seed, durations)
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


def select_utterances(
    tables: TableSet,
    mode: str,
    value: int | str,
    seed: int = 0,
    durations: Mapping[str, float] | None = None,
) -> list[str]:
    """The ids that `mode` selects, in byte order; `value` is a number of utterances, or the file of a list mode.

    Modes: first, last, shortest (needs `durations`), per_spk (evenly spaced, at most `value` of each speaker), speakers
    (random whole speakers until there are at least `value`), random, hold_out (see `hold_out`), spk_list, utt_list.
    ConfigError for an unknown mode or a number below 1, DataError for more utterances than there are.
    """
    keys = tables.utterances
    if mode in ("spk_list", "utt_list"):
        return _listed(tables, Path(str(value)), mode == "spk_list")
    if not isinstance(value, int) or value < 1:
        raise ConfigError(f"subset: {mode} {value}, a number of utterances above 0 is expected")
    if mode == "per_spk":
        return _ordered([k for group in tables.by_speaker().values() for k in _spaced(group, value)])
    if value > len(keys):
        raise DataError(f"{tables.directory}: {value} utterances asked, it has {len(keys)}")
    if mode == "hold_out":
        return hold_out(tables.by_speaker(), value, seed)
    if mode == "speakers":
        return _whole_speakers(tables.by_speaker(), value, seed)
    if mode == "first":
        return keys[:value]
    if mode == "last":
        return keys[-value:]
    if mode == "random":
        return _ordered(random.Random(seed).sample(keys, value))
    if mode == "shortest":
        seconds = durations or {}
        return _ordered(sorted(keys, key=lambda k: (seconds[k], byte_order(k)))[:value])
    raise ConfigError(f"subset: unknown mode {mode!r}")


def _ordered(keys: Sequence[str]) -> list[str]:
    """The keys in byte order."""
    return sorted(keys, key=byte_order)


def _spaced(keys: Sequence[str], count: int) -> list[str]:
    """At most `count` of the keys, evenly spaced."""
    if count >= len(keys):
        return list(keys)
    return [keys[i * len(keys) // count] for i in range(count)]


def _whole_speakers(groups: Mapping[str, Sequence[str]], count: int, seed: int) -> list[str]:
    """All utterances of random speakers, added until there are at least `count`."""
    names = list(groups)
    random.Random(seed).shuffle(names)
    chosen: list[str] = []
    for name in names:
        if len(chosen) >= count:
            break
        chosen += groups[name]
    return _ordered(chosen)


def hold_out(groups: Mapping[str, Sequence[str]], count: int, seed: int) -> list[str]:
    """The utterances of random whole speakers, exactly `count` if some set of speakers adds up to it, else the nearest
    number above.

    Solves a subset sum over the speakers in a seeded order: `last[s]` is the speaker that first reached the sum s.
    DataError if only the whole set has enough.
    """
    names = list(groups)
    random.Random(seed).shuffle(names)
    last: dict[int, str | None] = {0: None}
    for name in names:
        size = len(groups[name])
        for total in list(last):
            last.setdefault(total + size, name)
        if count in last:
            break
    total = min(reached for reached in last if reached >= count)
    if total == sum(len(group) for group in groups.values()):
        raise DataError(f"hold-out: {count} utterances of whole speakers is the whole set; ask for fewer")
    chosen: list[str] = []
    while total:
        reacher = last[total]
        assert reacher is not None  # only the empty sum has no speaker
        chosen += groups[reacher]
        total -= len(groups[reacher])
    return _ordered(chosen)


def _listed(tables: TableSet, path: Path, of_speakers: bool) -> list[str]:
    """The utterances of a list of ids or speakers (first column of a file); DataError for unknown names."""
    wanted = {}
    groups = tables.by_speaker() if of_speakers else {key: [key] for key in tables.utterances}
    for number, key, _ in read_lines(path):
        if key not in groups:
            what = "speaker" if of_speakers else "utterance"
            raise DataError(f"{path}:{number}: {what} {key!r} is not in {tables.directory}")
        wanted[key] = groups[key]
    chosen = [key for group in wanted.values() for key in group]
    if not chosen:
        raise DataError(f"{path}: the list is empty, at least one name is expected")
    return _ordered(chosen)
