"""The utterances of one voice of tts/kokoro as a data directory with audio paths that hold from anywhere.

    select.py CORPORA SET VOICE OUT

Left out are those whose recording lost words: their phones begin with a blank, or have two in a row. The tables phones
and frames are copied as they are, blanks included.
"""

import sys
from pathlib import Path

TABLES = ("wav.scp", "text", "phones", "frames", "utt2spk", "utt2speed", "utt2dur")


def rows_of(path: Path) -> dict[str, str]:
    """A table whose values keep all their blanks."""
    lines = path.read_text(encoding="utf-8").split("\n")
    return {key: value for key, _, value in (line.partition(" ") for line in lines if line)}


def main() -> int:
    """The command line."""
    corpora, name, voice, out = sys.argv[1:]
    root, folder = Path(corpora).resolve(), Path(out)
    tables = {table: rows_of(root / name / table) for table in TABLES}
    own = [key for key, speaker in tables["utt2spk"].items() if speaker.strip() == voice]
    kept = [key for key in own if not tables["phones"][key].startswith(" ") and "  " not in tables["phones"][key]]
    if not kept:
        print(f"select: {root / name}: no utterance of {voice!r}, expected one of "
              f"{', '.join(sorted(set(tables['utt2spk'].values())))}", file=sys.stderr)  # fmt: skip
        return 2
    folder.mkdir(parents=True, exist_ok=True)
    tables["wav.scp"] = {key: str(root / tables["wav.scp"][key]) for key in kept}
    for table, rows in tables.items():
        text = "".join(f"{key} {rows[key]}\n" for key in kept)
        (folder / table).write_text(text, encoding="utf-8")
    print(f"{out}: {len(kept)} utterances of {voice}, {len(own) - len(kept)} left out that lost words")
    return 0


if __name__ == "__main__":
    sys.exit(main())
