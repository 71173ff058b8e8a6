"""The record of a step: what went in, with which options, and whether that is still so.

A record is JSON: stage, version, the command, and each input file's size, mtime and (below 1 MB) SHA-256.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
from importlib import metadata
from pathlib import Path
from typing import Any

SMALL_BYTES = 1_000_000
# Options that change how fast a command runs, not what it writes; the number is that of their values.
VOLATILE = {"--nj": 1, "--threads": 1, "--jobs": 1, "--max-jobs-run": 1, "--num-workers": 1, "--resume": 0}
_OWN = (".done.json", ".begun.json")


class StepError(Exception):
    """A step that cannot be run or did not make what it promised; the message is one line."""


def hashed(path: Path, known: dict[str, Any] | None) -> dict[str, Any]:
    """Return size, mtime_ns and, below 1 MB, sha256 of a file; the hash of an unmoved file is reused."""
    stat = path.stat()
    entry: dict[str, Any] = {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns}
    if known and known["size"] == entry["size"] and known["mtime_ns"] == entry["mtime_ns"]:
        return known
    if stat.st_size < SMALL_BYTES:
        entry["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    return entry


def files_of(path: Path) -> list[Path]:
    """Return the files of an input in byte order, records and temporary files left out."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise StepError(f"{path}: no such input")
    found = []
    for folder, folders, names in os.walk(path):
        folders[:] = [f for f in folders if not f.startswith(".") and ".tmp-" not in f]
        found += [Path(folder, n) for n in names if not n.endswith(_OWN) and ".tmp-" not in n]
    return sorted(found, key=os.fsencode)


def fingerprint(paths: list[Path], known: dict[str, Any]) -> dict[str, Any]:
    """Return path -> entry for all files of all inputs. Raises StepError for one that is missing."""
    return {str(f): hashed(f, known.get(str(f))) for path in paths for f in files_of(path)}


def lasting(command: list[str]) -> list[str]:
    """Return the command without the options that cannot change its output."""
    kept, skip = [], 0
    for word in command:
        if skip:
            skip -= 1
        elif word in VOLATILE:
            skip = VOLATILE[word]
        else:
            kept.append(word)
    return kept


def version() -> str:
    """Return the version of the installed package."""
    try:
        return metadata.version("speechmtp")
    except metadata.PackageNotFoundError:
        return "unknown"


def difference(old: dict[str, Any] | None, new: dict[str, Any]) -> str:
    """Return why a step must run again, '' when the record is the same."""
    if not old:
        return "not done yet"
    if old.get("version") != new["version"]:
        return f"version {old.get('version')} became {new['version']}"
    if old.get("command") != new["command"]:
        return "options changed: " + _changed_words(old.get("command", []), new["command"])
    before, after = old.get("inputs", {}), new["inputs"]
    for name in sorted({*before, *after}):
        if name not in before or name not in after:
            return f"input {name} {'appeared' if name in after else 'is gone'}"
        if not _same_file(before[name], after[name]):
            return f"input {name} changed"
    return ""


def _changed_words(old: list[str], new: list[str]) -> str:
    start = 0
    while start < min(len(old), len(new)) and old[start] == new[start]:
        start += 1
    begin = max(0, start - 1)
    return f"{shlex.join(old[begin : start + 2])!r} became {shlex.join(new[begin : start + 2])!r}"


def _same_file(a: dict[str, Any], b: dict[str, Any]) -> bool:
    if a["size"] != b["size"]:
        return False
    if "sha256" in a and "sha256" in b:
        return bool(a["sha256"] == b["sha256"])
    return bool(a["mtime_ns"] == b["mtime_ns"])


def read_record(path: Path) -> dict[str, Any] | None:
    """Return a record; None when there is none or it is damaged (then the step runs again)."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Write a record aside and rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + f".tmp-{os.getpid()}")
    part.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    part.replace(path)
