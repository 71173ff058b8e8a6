"""CMU AN4: close-talking English, spelled letters, digits and short commands; 948 + 130 utterances.

Read from a folder of Kaldi data directories (`an4/train`, `an4/test`) or from CMU's own archive
(`etc/an4_train.transcription`, `wav/an4_clstk/...` as NIST sphere or raw big-endian 16-bit samples). Utterance ids are
`<speaker>-<item>-b`; the archive names its files `<item>-<speaker>-b`.
"""

from __future__ import annotations

import os
import re
import wave
from pathlib import Path

from speechmtp.data.corpora.archives import archive_in, fetch, unpack
from speechmtp.data.corpora.contract import Corpus
from speechmtp.data.table_set import TableSet, load_tables, write_tables
from speechmtp.data.tables import read_table
from speechmtp.errors import DataError

ARCHIVE = "an4_sphere.tar.gz"
RATE = 16000
SETS = {"train": "train_all", "test": "test"}  # part of the corpus -> data directory

_LINE = re.compile(r"^(?:<s>)?(?P<words>.*?)(?:</s>)?\s*\((?P<file>[^()\s]+)\)\s*$")
_FILE = re.compile(r"^(?P<item>[^-]+)-(?P<speaker>[^-]+)-b$")


class An4(Corpus):
    """CMU AN4: `train_all` and `test`, from existing data directories or from CMU's archive."""

    name = "an4"
    title = "CMU AN4 (1991): spelled letters, digits and short commands in English, 948 + 130 utterances, 0.8 h"
    language = "en"
    licence = "BSD-like (Carnegie Mellon University)"
    needs = f"an4/train/wav.scp, an4/etc/an4_train.transcription or {ARCHIVE}"
    url = "http://www.speech.cs.cmu.edu/databases/an4/an4_sphere.tar.gz"

    def is_there(self, source: Path) -> bool:
        bases = (source, source / "an4")
        ready = any((base / "train" / "wav.scp").is_file() or _transcription(base, "train").is_file() for base in bases)
        return ready or archive_in(source, ARCHIVE) is not None

    def download(self, folder: Path) -> Path:
        return fetch(self.url, folder / ARCHIVE)

    def prepare(self, source: Path, out: Path) -> dict[str, int]:
        counts = {}
        for part, name in SETS.items():
            tables = _from_kaldi(source, part) or _from_archive(source, part, out)
            if tables is None:
                raise DataError(
                    f"{source}: no AN4 here, expected {self.needs}; give its folder as the source, or download it"
                )
            tables.info = {**self.info(), **tables.info}
            write_tables(out / name, tables)
            counts[name] = len(tables.utterances)
        return counts

    def info(self) -> dict[str, object]:
        return super().info() | {"fs": RATE, "channels": 1, "source": "CMU AN4 (census) database, 1991"}


def _from_kaldi(source: Path, part: str) -> TableSet | None:
    """The tables of an existing data directory, None without one; its paths start at the folder of `an4`."""
    for base in (source / "an4", source):
        if (base / part / "wav.scp").is_file():
            return load_tables(base / part, _root_of(base, part))
    return None


def _root_of(base: Path, part: str) -> Path | None:
    """The base folder of the relative paths in wav.scp; None if the default rule applies."""
    first = next(iter(read_table(base / part / "wav.scp").values()), "").strip()
    return next((p for p in (base.resolve().parent, base.resolve(), base / part) if (p / first).is_file()), None)


def _transcription(base: Path, part: str) -> Path:
    """The transcript file of a part in the archive."""
    return base / "etc" / f"an4_{part}.transcription"


def _from_archive(source: Path, part: str, out: Path) -> TableSet | None:
    """The tables made from CMU's files, unpacked into `out/source` if needed; None if there are none."""
    archive = archive_in(source, ARCHIVE)
    bases = [source, source / "an4"]
    if archive is not None:
        bases += [unpack(archive, out / "source") / "an4"]
    for base in bases:
        if _transcription(base, part).is_file():
            return _read_part(base, part, out)
    return None


def _read_part(base: Path, part: str, out: Path) -> TableSet:
    """One part of the unpacked archive as tables."""
    from speechmtp.audio.io import audio_info

    tables: dict[str, dict[str, str]] = {name: {} for name in ("wav.scp", "text", "utt2spk", "spk2gender", "utt2dur")}
    path = _transcription(base, part)
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        match = _LINE.match(line)
        name = _FILE.match(match["file"]) if match else None
        if match is None or name is None:
            raise DataError(f"{path}:{number}: {line.strip()!r}, `words (item-speaker-b)` is expected")
        speaker = name["speaker"]
        key = f"{speaker}-{name['item']}-b"
        audio = _audio_file(base, part, speaker, match["file"], out, f"{path}:{number}")
        tables["wav.scp"][key] = str(audio.resolve())
        tables["text"][key] = " ".join(match["words"].replace("<s>", " ").split())
        tables["utt2spk"][key] = speaker
        tables["utt2dur"][key] = f"{audio_info(audio).duration:.3f}"
        tables["spk2gender"][speaker] = speaker[0] if speaker[0] in "fm" else "u"
    if not tables["wav.scp"]:
        raise DataError(f"{path}: no transcripts, one line an utterance is expected")
    return TableSet(base, tables, _rooted(tables["wav.scp"]))


def _rooted(paths: dict[str, str]) -> dict[str, object]:
    """Make absolute paths relative to their common folder, which is returned as the root of info.json."""
    root = os.path.commonpath([os.path.dirname(path) for path in paths.values()])
    for key, path in paths.items():
        paths[key] = os.path.relpath(path, root)
    return {"root": root}


def _audio_file(base: Path, part: str, speaker: str, name: str, out: Path, where: str) -> Path:
    """The readable audio file of an utterance; raw samples are first written as WAV below `out`."""
    folder = base / "wav" / ("an4_clstk" if part == "train" else "an4test_clstk") / speaker
    for suffix in (".sph", ".wav", ".flac"):
        if (folder / f"{name}{suffix}").is_file():
            return folder / f"{name}{suffix}"
    raw = folder / f"{name}.raw"
    if not raw.is_file():
        raise DataError(f"{where}: no audio {folder / name}.sph or .raw, the archive has one of them; unpack it anew")
    target = out / "audio" / part / speaker / f"{name}.wav"
    _raw_to_wav(raw, target)
    return target


def _raw_to_wav(raw: Path, target: Path) -> None:
    """Write headerless big-endian 16-bit samples at 16 kHz as a WAV file with the same samples."""
    import numpy as np

    content = raw.read_bytes()
    if not content or len(content) % 2:
        raise DataError(f"{raw}: {len(content)} bytes, 16-bit samples are expected; fetch it again")
    target.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(target), "wb") as stream:
        stream.setnchannels(1)
        stream.setsampwidth(2)
        stream.setframerate(RATE)
        stream.writeframes(np.frombuffer(content, dtype=">i2").astype("<i2").tobytes())
