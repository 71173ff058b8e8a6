"""The data room reads in one direction: every module imports only those that stand before it."""

import ast
from pathlib import Path

import pytest

import speechmtp.data

ROOM = Path(speechmtp.data.__file__).parent
ORDER = (
    "layout", "tables", "segments", "audio_paths", "kaldi", "feature_store", "batch", "stats", "table_set", "subset",
    "split", "combine", "validation", "corpora",
)  # fmt: skip
VALIDATION = ("defects", "audio_probe", "lines", "ids", "text", "segments", "audio", "leakage", "validate", "fix")
_OWN = {"contract", "archives", "table", "__init__"}  # all other files of the folder are corpora
CORPORA = ("contract", "archives", *sorted({p.stem for p in (ROOM / "corpora").glob("*.py")} - _OWN), "table")


def _imported(path: Path, package: str) -> set[str]:
    """Names below `package` that a file imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith(f"{package}."):
            found.add(node.module.removeprefix(f"{package}.").split(".")[0])
        elif isinstance(node, ast.ImportFrom) and node.module == package:
            found |= {alias.name for alias in node.names}
    return found


def _violations(folder: Path, package: str, order: tuple[str, ...]) -> list[str]:
    """`module imports other` for every import of a module that does not stand before it."""
    found = []
    for place, name in enumerate(order):
        files = sorted((folder / name).rglob("*.py")) if (folder / name).is_dir() else [folder / f"{name}.py"]
        for path in files:
            wrong = _imported(path, package) - set(order[:place]) - {name}
            found += [f"{name} imports {other}" for other in sorted(wrong)]
    return found


@pytest.mark.parametrize(("folder", "order"), [("", ORDER), ("validation", VALIDATION), ("corpora", CORPORA)])
def test_modules_import_only_those_before_them(folder: str, order: tuple[str, ...]) -> None:
    package = ".".join(filter(None, ["speechmtp.data", folder]))
    assert _violations(ROOM / folder, package, order) == []
    there = {path.stem for path in (ROOM / folder).glob("*.py")}
    there |= {path.parent.name for path in (ROOM / folder).glob("*/__init__.py")}
    assert there - {"__init__"} == set(order)


def test_a_wrong_import_is_found(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("def f():\n    from room.b import x\n")
    (tmp_path / "b.py").write_text("from room import a\nfrom room.c.d import y\nimport os\n")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "d.py").write_text("from room.a import x\nfrom room.c.e import z\n")
    assert _violations(tmp_path, "room", ("a", "b", "c")) == ["a imports b", "b imports c"]
