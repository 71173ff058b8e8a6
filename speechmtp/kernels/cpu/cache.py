"""Where libraries that were compiled on this machine are kept."""

import os
import stat
import sys
from pathlib import Path

SETTING = "SPEECHMTP_CACHE"


def cache_folder() -> Path:
    """The user's folder of compiled kernels: `kernels` below `SPEECHMTP_CACHE`, else below the system's place for
    caches. RuntimeError where the user has no home folder. It need not exist."""
    if named := os.environ.get(SETTING):
        return Path(named).expanduser().absolute() / "kernels"
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        named = os.environ.get("XDG_CACHE_HOME", "")
        base = Path(named) if os.path.isabs(named) else Path.home() / ".cache"
    return base / "speechmtp" / "kernels"


def open_cache() -> tuple[Path | None, str]:
    """The cache's folder, made if need be, and why it is not used; one of the two is empty. A folder in which others
    may write is not used, since code is loaded from it."""
    try:
        folder = cache_folder()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        problem = trust_problem(folder)
    except RuntimeError as error:
        return None, f"no folder for a cache ({error})"
    except OSError as error:
        return None, f"the cache {folder} cannot be made ({error.strerror or error})"
    return (None, problem) if problem else (folder, "")


def trust_problem(path: Path) -> str:
    """Why code of a folder or file is not loaded: another user owns it or may write into it. Empty if it may be."""
    if os.name != "posix":
        return ""
    found = path.stat()
    if found.st_uid not in (os.geteuid(), 0):
        return f"{path} belongs to another user"
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"other users may write into {path}"
    return ""
