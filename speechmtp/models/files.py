"""What is wrong with files of a folder before they are parsed: missing, empty, or a pointer of Git LFS."""

from pathlib import Path

from speechmtp.errors import CheckpointError

_POINTER = b"version https://git-lfs.github.com/spec/"
_LONGEST_POINTER = 1024  # bytes, by the specification of Git LFS
_NEVER_EMPTY = (".safetensors", ".bin", ".json", ".model", ".xz")


def check_files(folder: Path) -> None:
    """Raise CheckpointError for the first file of a folder that is a pointer of Git LFS, or is empty and must not be;
    folders inside it are not entered."""
    for path in sorted(folder.iterdir()):
        if path.is_file():
            check_file(path)


def check_file(path: Path) -> None:
    """Raise CheckpointError for a file that is missing, a pointer of Git LFS, or empty and must not be."""
    try:
        size = path.stat().st_size
        if not size and path.suffix in _NEVER_EMPTY:
            raise CheckpointError(f"{path}: an empty file; copy it again whole")
        if size > _LONGEST_POINTER:
            return
        with path.open("rb") as file:
            pointer = file.read(len(_POINTER)) == _POINTER
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or error}; copy the folder again whole") from error
    if pointer:
        raise CheckpointError(
            f"{path}: a pointer of Git LFS, not the file itself; run git lfs pull where it was cloned and copy again"
        )
