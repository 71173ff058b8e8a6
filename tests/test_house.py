"""The house stays plain: no file or function grows long, and no module imports itself by a detour, lazily or not."""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = [path for room in ("speechmtp", "tests", "benchmarks", "tools") for path in sorted((ROOT / room).rglob("*.py"))]
MAX_FILE, MAX_FUNCTION = 400, 80


def functions(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Name and number of lines of every function."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, (node.end_lineno or node.lineno) - node.lineno + 1


def imported(node: ast.AST, known: set[str]) -> Iterator[str]:
    """The modules in `known` that a syntax tree imports, inside functions too; not those for type checkers alone."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING":
            continue
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names if alias.name in known)
        elif isinstance(child, ast.ImportFrom) and child.module:
            names = [child.module, *(f"{child.module}.{alias.name}" for alias in child.names)]
            yield from (name for name in names if name in known)
        yield from imported(child, known)


def cycle(package: Path) -> list[str]:
    """Modules of a package that import each other in a circle; empty if there are none."""
    modules = {".".join(p.relative_to(package.parent).with_suffix("").parts): p for p in package.rglob("*.py")}
    known = {name for name in modules if not name.endswith("__init__")}
    graph = {name: set(imported(ast.parse(modules[name].read_text(encoding="utf-8")), known)) for name in known}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_no_file_and_no_function_is_long() -> None:
    long = [f"{path.relative_to(ROOT)}" for path in FILES if len(path.read_text().splitlines()) > MAX_FILE]
    for path in FILES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        long += [f"{path.relative_to(ROOT)}: {name}" for name, lines in functions(tree) if lines > MAX_FUNCTION]
    assert not long


def test_no_module_imports_itself_by_a_detour() -> None:
    assert not cycle(ROOT / "speechmtp")


@pytest.mark.parametrize("lazy", ["import speechmtp.b", "def f():\n    from speechmtp import b"])
def test_a_planted_circle_is_found(tmp_path: Path, lazy: str) -> None:
    package = tmp_path / "speechmtp"
    package.mkdir()
    (package / "a.py").write_text(lazy + "\n")
    (package / "b.py").write_text("from speechmtp.a import f\n")
    assert set(cycle(package)) == {"speechmtp.a", "speechmtp.b"}
    (package / "a.py").write_text("if TYPE_CHECKING:\n    import speechmtp.b\n")
    assert not cycle(package)
