"""The optional torchaudio: absent, whole, without its compiled part, broken, and never imported unasked."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from speechmtp.audio.torchaudio_compat import import_torchaudio

USER = """
from torchaudio._extension import fail_if_no_align

@fail_if_no_align
def forced_align():
    return 1
"""


@pytest.fixture(autouse=True)
def _fresh_modules() -> Iterator[None]:
    """Take torchaudio out of the loaded modules for one test."""
    kept = {name: module for name, module in sys.modules.items() if name.split(".")[0] == "torchaudio"}
    for name in kept:
        del sys.modules[name]
    yield
    for name in [name for name in sys.modules if name.split(".")[0] == "torchaudio"]:
        del sys.modules[name]
    sys.modules.update(kept)


def fake_torchaudio(folder: Path, extension: str, start: str = "from . import _extension, user\n") -> None:
    """A package shaped as torchaudio, with the given source as its loader of compiled parts."""
    package = folder / "torchaudio"
    (package / "_extension").mkdir(parents=True)
    (package / "__init__.py").write_text(start)
    (package / "user.py").write_text(USER)
    (package / "_extension" / "__init__.py").write_text(extension)


def loaded() -> list[str]:
    """Modules of torchaudio in `sys.modules`."""
    return [name for name in sys.modules if name.split(".")[0] == "torchaudio"]


def test_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(sys, "path_importer_cache", {})
    assert import_torchaudio() is None
    assert loaded() == []


def test_blocked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchaudio", None)
    assert import_torchaudio() is None
    assert loaded() == ["torchaudio"]


def test_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_torchaudio(tmp_path, "def fail_if_no_align(function):\n    return function\n")
    monkeypatch.syspath_prepend(tmp_path)
    module = import_torchaudio()
    assert module is not None
    assert module.user.forced_align() == 1
    assert import_torchaudio() is module


def test_compiled_part_does_not_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_torchaudio(tmp_path, "raise OSError('libc10_cuda.so: cannot open shared object file')\n")
    monkeypatch.syspath_prepend(tmp_path)
    module = import_torchaudio()
    assert module is not None
    assert module._extension._IS_TORCHAUDIO_EXT_AVAILABLE is False
    assert module._extension._IS_ALIGN_AVAILABLE is False
    assert module._extension._check_cuda_version() is None
    with pytest.raises(RuntimeError, match="forced_align needs its compiled part"):
        module.user.forced_align()


@pytest.mark.parametrize("error", ["OSError('gone')", "ImportError('gone')", "RuntimeError('gone')"])
def test_fails_in_both_ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: str) -> None:
    fake_torchaudio(tmp_path, "", start=f"from . import _extension\nraise {error}\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert import_torchaudio() is None
    assert loaded() == []


def test_never_imported_unasked() -> None:
    code = (
        "import sys, speechmtp, speechmtp.audio.io, speechmtp.audio.torchaudio_compat\n"
        "heavy = {'torch', 'torchaudio', 'librosa', 'soxr', 'soundfile'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "import speechmtp.audio.features, speechmtp.audio.augment\n"
        "assert 'torchaudio' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
