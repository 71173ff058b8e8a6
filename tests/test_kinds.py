"""No caller asks which kind a model is: no `isinstance` on one, and no kind's name, outside models/bases/."""

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from speechmtp.models.bases.table import KINDS, claimed, kind_in, titles

PACKAGE = Path(__file__).resolve().parents[1] / "speechmtp"
INSIDE = "models/bases/"
# Strings that are no kinds: a normaliser's name, and where transformers has its code.
OTHERS = ("whisper-en", "transformers.models.whisper")
# Identifiers of transformers and of ours that have a kind's name in them: classes that trunks of ours are built from.
BLOCKS = {"AutoModelForCausalLM", "LlamaForCausalLM", "Qwen3ForCausalLM", "_whisper_english"}


def plain(text: str) -> str:
    """Letters and digits alone, in lower case: `SpeechLM`, `speech_lm` and `speech-lm` are one."""
    return re.sub(r"[^a-z0-9]", "", text.lower())


NAMES = {plain(name) for name in KINDS} | {plain(kind.__name__) for kind in KINDS.values()}
CLASSES = {kind.__name__ for kind in KINDS.values()}


def violations(package: Path) -> list[str]:
    """`file:line: what` for every place outside models/bases/ that knows a kind."""
    found = []
    for path in sorted(package.rglob("*.py")):
        place = path.relative_to(package).as_posix()
        if not place.startswith(INSIDE):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            found += [f"{place}:{line}: {what}" for line, what in sorted(_named(tree))]
    return found


def _named(tree: ast.Module) -> Iterator[tuple[int, str]]:
    documentation = set(_docstrings(tree))
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
            text = node.value
            for other in OTHERS:
                text = text.replace(other, "")
            if any(name in plain(text) for name in NAMES):
                yield line, f"string {node.value!r}"
        for name in _identifiers(node):
            if name not in BLOCKS and any(kind in plain(name) for kind in NAMES):
                yield line, f"name {name}"
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("isinstance", "issubclass"):
            asked = {sub.id for sub in ast.walk(node.args[1]) if isinstance(sub, ast.Name)}
            asked |= {sub.attr for sub in ast.walk(node.args[1]) if isinstance(sub, ast.Attribute)}
            for name in sorted(asked & CLASSES):
                yield line, f"isinstance of {name}"


def _docstrings(tree: ast.Module) -> Iterator[int]:
    """Identities of the constants that are strings on a line of their own: documentation."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            yield id(node.value)


def _identifiers(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Name):
        yield node.id
    elif isinstance(node, ast.Attribute):
        yield node.attr
    elif isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef)):
        yield node.name
    elif isinstance(node, (ast.arg, ast.keyword)) and node.arg:
        yield node.arg
    elif isinstance(node, ast.alias):
        yield from (node.name.rpartition(".")[2], node.asname or "")
    elif isinstance(node, ast.ImportFrom) and node.module and not node.module.startswith("transformers."):
        yield from node.module.split(".")


def test_no_place_outside_the_bases_knows_a_kind() -> None:
    found = violations(PACKAGE)
    assert not found, "kinds are known outside models/bases/:\n" + "\n".join(found)


PLANTED: Mapping[str, str] = {
    "isinstance": "def f(model):\n    return isinstance(model, (int, bases.Whisper))\n",
    "name": "from speechmtp.models.bases.moonshine import Settings\n",
    "import": "from speechmtp.models.bases.table import CausalLM as Text\n",
    "string": 'def f(model):\n    return model.kind == "speech_lm"\n',
    "part of a string": 'def f(model):\n    raise ValueError(f"{model}: expected Moonshine")\n',
    "argument": "def f(is_whisper):\n    return is_whisper\n",
    "attribute": "def f(bundle):\n    return bundle.speech_lm\n",
}


@pytest.mark.parametrize("planted", list(PLANTED))
def test_what_is_planted_is_found(planted: str, tmp_path: Path) -> None:
    room = tmp_path / "speechmtp" / "cli"
    room.mkdir(parents=True)
    (room / "good.py").write_text('"""Whisper and Moonshine."""\n\nNAME = "whisper-en"\n')
    assert violations(tmp_path / "speechmtp") == []
    (room / "bad.py").write_text(PLANTED[planted])
    found = violations(tmp_path / "speechmtp")
    assert found and all(line.startswith("cli/bad.py:") for line in found)
    inside = tmp_path / "speechmtp" / "models" / "bases"
    inside.mkdir(parents=True)
    (room / "bad.py").rename(inside / "bad.py")
    assert violations(tmp_path / "speechmtp") == [], "where kinds live they have names"


def test_the_table_names_each_kind_as_its_class_does() -> None:
    assert all(name == kind.kind for name, kind in KINDS.items())
    assert all(kind.settings().kind == name for name, kind in KINDS.items())  # type: ignore[attr-defined]
    claims = [name for kind in KINDS.values() for name in kind.model_types]
    assert len(claims) == len(set(claims)), "no folder is claimed twice"


def test_folders_are_claimed_by_their_model_type(tmp_path: Path) -> None:
    assert claimed(tmp_path) is None
    for name, kind in KINDS.items():
        for model_type in kind.model_types:
            (tmp_path / "config.json").write_text(f'{{"model_type": "{model_type}"}}')
            assert claimed(tmp_path) is kind, name
    (tmp_path / "config.json").write_text('{"model_type": "some-new-llm"}')
    found = claimed(tmp_path)
    assert found is not None and found.input_kind == "texts"


def test_kinds_are_named_in_errors_by_what_they_read() -> None:
    assert titles("encoder_outputs").startswith("Moonshine or Whisper")
    assert kind_in({}, "config.yaml").input_kind == "features"
