"""Archives of corpora: download them completely or not at all, and unpack them once."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from speechmtp.errors import DataError

TIMEOUT = 60.0  # seconds without a response


def fetch(url: str, target: Path) -> Path:
    """Download `url` to the file `target` and return its path.

    The file appears only when it is complete. DataError if the address cannot be reached, or the size differs from the
    announced one.
    """
    from urllib.error import URLError
    from urllib.request import urlopen

    target.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with os.fdopen(handle, "wb") as stream, urlopen(url, timeout=TIMEOUT) as answer:
            shutil.copyfileobj(answer, stream)
            expected = answer.headers.get("Content-Length")
        size = os.path.getsize(temporary)
        if expected is not None and size != int(expected):
            raise DataError(f"{url}: {size} bytes came, {expected} were announced; try again")
        os.replace(temporary, target)
    except (URLError, OSError) as error:
        reason = getattr(error, "reason", None) or error
        raise DataError(f"{url}: not reachable ({reason}), a file is expected there; try again") from error
    finally:
        Path(temporary).unlink(missing_ok=True)
    return target


def unpack(archive: Path, folder: Path) -> Path:
    """Unpack a tar archive into `folder`, unless the folder exists, and return the folder; DataError for a damaged
    archive."""
    import tarfile

    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        with tarfile.open(archive) as tar:
            tar.extractall(aside / "new", filter="data")
        os.replace(aside / "new", folder)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise DataError(f"{archive}: cannot be unpacked ({error}); fetch it again") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return folder


def archive_in(source: Path, name: str) -> Path | None:
    """`source` if it is a tar archive, else the archive `name` in the folder `source`; None without one."""
    for path in (source, source / name):
        if path.is_file() and path.name.endswith((".tar.gz", ".tgz", ".tar")):
            return path
    return None
