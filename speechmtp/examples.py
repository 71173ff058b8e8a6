"""Speech examples inside the package."""

from pathlib import Path

from speechmtp.errors import DataError


def example(name: str) -> Path:
    """The path of an example recording inside the package: `reading` is a real recording, the others are synthetic.

    DataError for an unknown name; the message lists the known ones.
    """
    folder = Path(__file__).parent / "assets" / "examples"
    paths = {path.stem: path for path in sorted(folder.rglob("*.flac"))}
    if name not in paths:
        raise DataError(f"example {name!r}: not there; one of {', '.join(paths)}")
    return paths[name]
