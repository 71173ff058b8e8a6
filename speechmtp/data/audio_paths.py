"""Locate the audio of a wav.scp line: the root rule for relative paths, entries of Kaldi archives, and commands that
only decode a file."""

from __future__ import annotations

import json
import os
import re
import shlex
from pathlib import Path

from speechmtp.audio.archives import entry_of, is_range
from speechmtp.errors import DataError

CORPORA_VARIABLE = "SPEECHMTP_CORPORA"

_URL = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]+://")
_SHELL_SYNTAX = frozenset("$`;|&<>*?~(){}[]!#\n")


def decodable_file(command: str) -> str | None:
    """The file of a command that only decodes it (`cat F`, `flac -dcs F`, `sox F -t wav -`); None for other commands.

    Such commands need no shell: the file is decoded in process.
    """
    if _SHELL_SYNTAX & set(command):
        return None
    try:
        words = shlex.split(command)
    except ValueError:
        return None
    match words:
        case ["cat", file] if not file.startswith("-"):
            return file
        case ["flac", "-dcs" | "-cds" | "-dsc" | "-scd" | "-csd" | "-sdc", file] if not file.startswith("-"):
            return file
        case ["flac", "-d", "-c", "-s", file] | ["flac", "-c", "-d", "-s", file] if not file.startswith("-"):
            return file
        case ["sox", file, "-t", "wav", "-"] if not file.startswith("-"):
            return file
    return None


def is_url(value: str) -> bool:
    """Whether `value` is a URL, `scheme://...`."""
    return _URL.match(value) is not None


class AudioResolver:
    """Resolves the second column of wav.scp to (path or command, whether it is a command)."""

    def __init__(self, directory: Path, root: str | Path | None = None) -> None:
        """A given `root` is the only base folder; otherwise info.json's root comes first, see `bases`."""
        self.directory = directory
        self.root = Path(root) if root is not None else None
        self.info_root = None if root is not None else info_root(directory)

    def resolve(self, value: str, where: str, must_exist: bool = True) -> tuple[str, bool]:
        """The path or command of a wav.scp value, and whether it is a command. The path of an entry of a Kaldi archive
        is `path:offset`, unless a file has that whole name.

        DataError for an empty value, a home folder or URL, a part of an archive entry, and a file that is in none of
        the folders. Without `must_exist`, a file that is found nowhere is resolved to the first candidate.
        """
        value = value.strip(" \t")
        if value.endswith("|"):
            file = decodable_file(value[:-1].strip())
            if file is None:
                return value[:-1].strip(), True
            value = file
        if not value:
            raise DataError(f"{where}: no path, a path or a command is expected")
        if value.startswith("~") or is_url(value):
            raise DataError(f"{where}: {value!r} is a home folder or URL, a path is expected")
        places = self.places(value)
        for place in places:
            if place.is_file():
                return str(place), False
        entry = entry_of(value)
        for place in [] if entry is None else self.places(entry[0]):
            if place.is_file():
                return f"{place}:{value.rpartition(':')[2]}", False
        if is_range(value):
            raise DataError(
                f"{where}: {value!r} is a part of an archive entry, the whole entry is expected; cut it with segments"
            )
        if not must_exist:
            return str(places[0]), False
        tried = ", ".join(str(place) for place in places)
        what = "audio file" if entry is None else "archive for the entry"
        raise DataError(f"{where}: no {what} {value!r}, tried {tried}; give root= or set {CORPORA_VARIABLE}")

    def places(self, value: str) -> list[Path]:
        """The candidate paths of a value, in order of preference."""
        if os.path.isabs(value):
            return [Path(value)]
        return [base / value for base in self.bases()]

    def bases(self) -> list[Path]:
        """The base folders of relative paths, in order of preference.

        Only the given root; else info.json's root, then the corpora folder (which may have moved since info.json was
        written); else the corpora folder, the data directory and the working directory.
        """
        if self.root is not None:
            return [self.root]
        corpora = os.environ.get(CORPORA_VARIABLE)
        bases = [Path(corpora)] if corpora else []
        if self.info_root is not None:
            return [self.info_root, *bases]
        return [*bases, self.directory, Path.cwd()]


def info_root(directory: Path) -> Path | None:
    """The root in info.json, relative to the data directory; None without one. DataError for a damaged info.json."""
    path = directory / "info.json"
    if not path.is_file():
        return None
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path}: not JSON ({error}); mend or remove it") from error
    root = info.get("root") if isinstance(info, dict) else None
    if root is not None and not isinstance(root, str):
        raise DataError(f"{path}: root is {root!r}, a path is expected")
    return directory / root if root else None
