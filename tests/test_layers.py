"""Rooms are layers: every import of the package, inside functions too, against the one table of who may see whom."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "speechmtp"

# Every room may import these, and itself.
COMMON = {"errors", "ancestors", "outputs", "types", "config", "clock", "batching", "collector"}

_ALL = {
    "audio", "text", "g2p", "kernels", "data", "scoring", "codec", "models", "heads", "bundle", "decoding",
    "loaded_model", "recognition", "synthesis", "words", "streaming", "server", "transcripts", "listening", "progress",
    "crew", "heap", "cores",
    "devices", "evaluation", "training",
}  # fmt: skip
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "ancestors": set(),
    "outputs": set(),
    "types": set(),
    "config": set(),
    "clock": set(),
    "batching": set(),
    "collector": set(),
    "audio": set(),
    "text": set(),
    "kernels": set(),
    "data": {"audio", "text"},
    "scoring": {"audio", "text"},
    "codec": {"audio", "kernels", "models"},
    "models": {"audio", "kernels", "text"},
    "heads": {"models", "kernels"},
    "bundle": {"audio", "text", "models", "heads", "codec", "decoding"},
    "decoding": {"heads", "models", "kernels"},
    "words": {"models", "text", "kernels"},
    "training": {
        "audio", "text", "data", "scoring", "bundle", "models", "heads", "codec", "kernels", "decoding", "evaluation",
        "g2p",
    },
    "evaluation": {
        "audio", "text", "data", "scoring", "bundle", "models", "heads", "kernels", "decoding", "words", "listening",
        "progress", "api", "devices", "recognition", "streaming",
    },
    "loaded_model": {"bundle", "models", "heads", "heap", "kernels", "decoding", "devices"},
    "recognition": {"loaded_model", "audio", "models", "words"},
    "synthesis": {"loaded_model", "audio", "g2p", "bundle", "models", "codec", "decoding"},
    "g2p": set(),
    "streaming": {
        "audio", "text", "bundle", "models", "decoding", "codec", "recognition", "words", "transcripts", "heap",
    },
    "server": {"streaming", "audio", "text", "words", "models", "examples", "api", "transcripts", "heap"},
    "progress": set(),
    "cores": set(),
    "crew": set(),
    "examples": set(),
    "devices": {"kernels"},
    "heap": set(),
    "transcripts": {"crew", "heap", "words"},
    "listening": {"audio", "progress", "crew"},
    "api": _ALL - {"evaluation", "training", "server"},
    "shared": _ALL - {"evaluation", "training", "server"} | {"api"},
    "__init__": {"api", "synthesis", "shared", "transcripts", "words", "examples"},
    "cli": _ALL | {"api", "shared", "__init__"},
}  # fmt: skip

# Rooms that only these files of another may import: what they have is not for the server's front, which has no PyTorch.
ONLY_FROM = {
    ("server", "streaming"): ("server/engine.py", "server/live.py", "server/messages.py"),
    ("server", "api"): ("server/engine.py", "server/transcriber.py"),
    ("server", "heap"): ("server/engine.py", "server/live.py", "server/transcriber.py"),
    ("server", "transcripts"): ("server/transcriber.py",),
}


def room_of(parts: tuple[str, ...]) -> str:
    """Room of a dotted path below the package; the package itself is `__init__`."""
    return parts[0] if parts else "__init__"


def imports_of(tree: ast.Module, module: tuple[str, ...], package: Path) -> Iterator[tuple[int, str]]:
    """Line and room of every import of the package in a parsed file; `module` is its path below the package."""
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(["speechmtp", *module][: len(module) + 1 - node.level]) if node.level else ""
            source = ".".join(filter(None, [base, node.module or ""]))
            # `from speechmtp import heads` names rooms, `from speechmtp import load` what the package hands on.
            names = [f"{source}.{alias.name}" if source == "speechmtp" else source for alias in node.names]
        elif isinstance(node, ast.Call) and _name(node.func) in ("import_module", "__import__") and node.args:
            first = node.args[0]
            names = [first.value] if isinstance(first, ast.Constant) and isinstance(first.value, str) else []
        for name in names:
            top, *rest = name.split(".")
            if top != "speechmtp":
                continue
            room = rest[0] if rest else "__init__"
            known = (package / room).is_dir() or (package / f"{room}.py").is_file()
            yield getattr(node, "lineno", 0), room if known else "__init__"


def _name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def violations(package: Path) -> list[str]:
    """`file:line: room imports other` for every import that the table forbids."""
    found = []
    for path in sorted(package.rglob("*.py")):
        place = path.relative_to(package)
        module = place.with_suffix("").parts if place.name != "__init__.py" else (*place.parts[:-1], "__init__")
        room = room_of(module)
        for line, other in imports_of(ast.parse(path.read_text(encoding="utf-8")), module, package):
            allowed = other in COMMON or other == room or other in MAY_IMPORT.get(room, set())
            only = ONLY_FROM.get((room, other))
            if not allowed or (only is not None and place.as_posix() not in only):
                found.append(f"{package.name}/{place.as_posix()}:{line}: {room} imports {other}")
    return found


def test_every_import_keeps_to_the_table() -> None:
    found = violations(PACKAGE)
    assert not found, "forbidden imports:\n" + "\n".join(found)


def test_every_room_is_in_the_table() -> None:
    rooms = {path.name for path in PACKAGE.iterdir() if path.is_dir() and list(path.rglob("*.py"))}
    rooms |= {path.stem for path in PACKAGE.glob("*.py")}
    assert rooms <= set(MAY_IMPORT), f"rooms without a row: {sorted(rooms - set(MAY_IMPORT))}"


def test_the_table_is_acyclic() -> None:
    graph = {room: others - COMMON for room, others in MAY_IMPORT.items()}
    order = list(TopologicalSorter(graph).static_order())  # raises CycleError otherwise
    assert order.index("models") < order.index("heads") < order.index("decoding") < order.index("training")
    assert order[-1] == "cli"


def test_common_modules_import_no_room() -> None:
    for name in sorted(COMMON):
        tree = ast.parse((PACKAGE / f"{name}.py").read_text(encoding="utf-8"))
        assert {other for _, other in imports_of(tree, (name,), PACKAGE)} <= {"errors", "ancestors", "outputs"}


@pytest.mark.parametrize(
    ("place", "text", "expected"),
    [
        (
            "decoding/loop.py",
            "from speechmtp.text.tokenizer import Tokenizer",
            "decoding/loop.py:1: decoding imports text",
        ),
        (
            "decoding/loop.py",
            "import os\nimport speechmtp.audio.io as io",
            "decoding/loop.py:2: decoding imports audio",
        ),
        (
            "models/trunk.py",
            "def f():\n    from speechmtp.heads import table",
            "models/trunk.py:2: models imports heads",
        ),
        ("audio/io.py", "if True:\n\n    from speechmtp import data", "audio/io.py:3: audio imports data"),
        ("audio/io.py", "from speechmtp import load", "audio/io.py:1: audio imports __init__"),
        ("heads/deep/a.py", "from ...decoding import loop", "heads/deep/a.py:1: heads imports decoding"),
        ("heads/a.py", "from .. import decoding", "heads/a.py:1: heads imports decoding"),
        (
            "kernels/a.py",
            "import importlib\nimportlib.import_module('speechmtp.models.x')",
            "kernels/a.py:2: kernels imports models",
        ),
        ("server/app.py", "import speechmtp.streaming", "server/app.py:1: server imports streaming"),
        ("api.py", "import speechmtp.cli.main", "api.py:1: api imports cli"),
        ("unknown/a.py", "import speechmtp.models", "unknown/a.py:1: unknown imports models"),
    ],
)
def test_a_planted_import_is_found(tmp_path: Path, place: str, text: str, expected: str) -> None:
    package = tmp_path / "speechmtp"
    for room in MAY_IMPORT.keys() - {"__init__"}:
        (package / room).mkdir(parents=True)
    path = package / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    assert violations(package) == [f"speechmtp/{expected}"]


@pytest.mark.parametrize(
    ("place", "text"),
    [
        ("decoding/loop.py", "from speechmtp.errors import X\nfrom .state import S\nfrom ..models import trunk"),
        ("server/engine.py", "from speechmtp.streaming import recogniser"),
        ("cli/main.py", "import speechmtp.api, speechmtp.server.app\nfrom speechmtp import load"),
        ("__init__.py", "from speechmtp.api import load\nfrom .config import C"),
        ("audio/io.py", "import torch, os.path\nfrom . import features\nfrom speechmtpx import y"),
    ],
)
def test_allowed_imports_pass(tmp_path: Path, place: str, text: str) -> None:
    package = tmp_path / "speechmtp"
    for room in MAY_IMPORT.keys() - {"__init__"}:
        (package / room).mkdir(parents=True)
    path = package / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    assert violations(package) == []
