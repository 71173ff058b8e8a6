"""What pyproject.toml declares is what the package imports, and what it imports is declared."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
DISTRIBUTIONS = {"yaml": "pyyaml"}  # imports whose distribution has another name
INDIRECT = {"torch.utils.tensorboard": "tensorboard"}  # modules that import another distribution
TOOLS = {"dev"}  # extras of programs and plugins, which nothing imports


def distribution(module: str) -> str:
    """The distribution that a dotted module comes from; empty for the standard library and for this package."""
    if module in INDIRECT:
        return INDIRECT[module]
    top = module.split(".")[0]
    if top in sys.stdlib_module_names or top == "speechmtp":
        return ""
    return DISTRIBUTIONS.get(top, top).lower().replace("_", "-")


def names_of(requirements: list[str]) -> set[str]:
    """Distribution names of requirements such as `torch>=2.9`."""
    return {re.split(r"[<>=!~;\[ ]", one)[0].lower().replace("_", "-") for one in requirements}


def imports_of(tree: ast.AST, late: bool = False) -> Iterator[tuple[str, bool]]:
    """Every imported module, and whether it is imported late: in a function or for type checks only."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, late) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            yield node.module, late
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "import_module":
            first = node.args[0]
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                yield first.value, late
        inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        checking = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        yield from imports_of(node, late or inside or checking)


def found_in(*roots: str) -> dict[str, set[tuple[str, bool]]]:
    """Where each distribution is imported: file and whether late."""
    found: dict[str, set[tuple[str, bool]]] = {}
    for root in roots:
        for path in sorted((ROOT / root).rglob("*.py")):
            for module, late in imports_of(ast.parse(path.read_text(encoding="utf-8"))):
                if name := distribution(module):
                    found.setdefault(name, set()).add((path.relative_to(ROOT).as_posix(), late))
    return found


REQUIRED = names_of(PROJECT["dependencies"])
EXTRAS = {name: names_of(listed) for name, listed in PROJECT["optional-dependencies"].items()}
OPTIONAL = set().union(*(names for extra, names in EXTRAS.items() if extra not in TOOLS))


def test_every_import_is_declared() -> None:
    undeclared = {name: places for name, places in found_in("speechmtp").items() if name not in REQUIRED | OPTIONAL}
    assert not undeclared


def test_every_dependency_is_imported() -> None:
    assert found_in("speechmtp").keys() >= REQUIRED


def test_every_extra_is_imported_somewhere() -> None:
    """By the package or, where the extra is for them alone, by tests and tools."""
    texts = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    found = found_in("speechmtp", "tests", "tools").keys()
    assert not {name for name in OPTIONAL if name not in found and name.replace("-", "_") not in texts}


def test_extras_are_imported_late() -> None:
    """Importing any module of the package needs none of them."""
    found = found_in("speechmtp")
    early = {place for name in OPTIONAL - REQUIRED for place, late in found.get(name, ()) if not late}
    assert not early


def test_extras_repeat_no_dependency() -> None:
    assert not OPTIONAL & REQUIRED
    listed = [name for names in EXTRAS.values() for name in names]
    assert len(listed) == len(set(listed))


def test_errors_name_extras_that_exist() -> None:
    """`pip install 'speechmtp[...]'` in messages and documents."""
    places = [*(ROOT / "speechmtp").rglob("*.py"), ROOT / "README.md", ROOT / "Makefile", *(ROOT / "docs").glob("*.md")]
    for path in places:
        for names in re.findall(r"(?:speechmtp|'?\.)\[([a-z,-]+)\]", path.read_text(encoding="utf-8")):
            assert set(names.split(",")) <= EXTRAS.keys(), path


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("import yaml, os.path\nfrom torch import nn", [("yaml", False), ("os.path", False), ("torch", False)]),
        ("def f():\n    import peft", [("peft", True)]),
        ("try:\n    import peft\nexcept ImportError:\n    pass", [("peft", False)]),
        ("if TYPE_CHECKING:\n    from matplotlib.axes import Axes", [("matplotlib.axes", True)]),
        ("def f():\n    return importlib.import_module('torchaudio')", [("torchaudio", True)]),
        ("from . import x\nfrom .y import z", []),
    ],
)  # fmt: skip
def test_imports_are_found_wherever_they_stand(text: str, expected: list[tuple[str, bool]]) -> None:
    assert list(imports_of(ast.parse(text))) == expected


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        ("huggingface_hub.errors", "huggingface-hub"), ("yaml", "pyyaml"), ("torch.utils.tensorboard", "tensorboard"),
        ("torch.utils", "torch"), ("json", ""), ("speechmtp.types", ""),
    ],
)  # fmt: skip
def test_modules_belong_to_distributions(module: str, expected: str) -> None:
    assert distribution(module) == expected


def test_names_are_read_from_requirements() -> None:
    assert names_of(["torch>=2.9", "transformers>=5.17,<6", "types-PyYAML", "a_b==1; python_version>'3'"]) == {
        "torch", "transformers", "types-pyyaml", "a-b",
    }  # fmt: skip
