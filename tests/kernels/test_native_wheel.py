"""A wheel brings the native library where there is a compiler, and is pure where there is none."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from speechmtp.kernels.cpu import build
from tests.kernels.native_stubs import needs_compiler

pytest.importorskip("setuptools.command.bdist_wheel")

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ("__init__.py", "errors.py", "kernels/__init__.py", "kernels/cpu/__init__.py", "kernels/cpu/build.py")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A checkout with little more than the build of kernels, whose sources are small."""
    folder = tmp_path / "project"
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", *(f"speechmtp/{name}" for name in PACKAGE)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    (folder / "speechmtp/kernels/cpu/csrc").mkdir()
    (folder / "speechmtp/kernels/cpu/csrc/a.c").write_text('#include "a.h"\nint a(void) { return A; }\n')
    (folder / "speechmtp/kernels/cpu/csrc/a.h").write_text("#define A 1\n")
    return folder


def run(project: Path, hook: str, **environment: str) -> tuple[str, set[str]]:
    """Name of the archive that a hook of the build makes, and what is in it."""
    code = f"import sys; from setuptools import build_meta; print('made', build_meta.{hook}('dist'))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=project,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    name = next(line for line in done.stdout.splitlines() if line.startswith("made ")).removeprefix("made ")
    if name.endswith(".whl"):
        return name, set(zipfile.ZipFile(project / "dist" / name).namelist())
    shutil.unpack_archive(project / "dist" / name, project / "unpacked")
    top = project / "unpacked" / name.removesuffix(".tar.gz")
    return name, {path.relative_to(top).as_posix() for path in top.rglob("*")}


def libraries(names: set[str]) -> list[str]:
    return sorted(name for name in names if name.endswith(build.SUFFIX))


@needs_compiler
def test_a_wheel_has_a_library_for_every_processor_of_its_platform(project: Path) -> None:
    stale = project / "build/lib/speechmtp/kernels/cpu/prebuilt"
    stale.mkdir(parents=True)
    (stale / f"avx2-old{build.SUFFIX}").write_text("")
    name, files = run(project, "build_wheel")
    assert name.startswith("speechmtp-") and "-py3-none-" in name and not name.endswith("-any.whl")
    found = [Path(item) for item in libraries(files)]
    assert [item.name.split("-")[0] for item in found] == sorted(build.MACHINES[build.machine()])
    assert {item.parent.as_posix() for item in found} == {"speechmtp/kernels/cpu/prebuilt"}
    assert {"speechmtp/kernels/cpu/csrc/a.c", "speechmtp/kernels/cpu/csrc/a.h"} <= files
    assert not list((project / "speechmtp").rglob(f"*{build.SUFFIX}")), "nothing is compiled into the checkout"


@pytest.mark.parametrize("environment", [{"CC": "/nonexistent"}, {"SPEECHMTP_KERNELS": "ref"}, {"CC": "false"}])
def test_a_wheel_without_a_compiler_is_pure(project: Path, environment: dict[str, str]) -> None:
    name, files = run(project, "build_wheel", **environment)
    assert name.endswith("-py3-none-any.whl") and not libraries(files)
    assert "speechmtp/kernels/cpu/csrc/a.c" in files


def test_an_editable_install_compiles_nothing(project: Path) -> None:
    name, files = run(project, "build_editable")
    assert name.endswith("-py3-none-any.whl") and not libraries(files)
    assert not list(project.rglob(f"*{build.SUFFIX}"))


def test_the_source_archive_has_what_a_wheel_is_built_from(project: Path) -> None:
    _, files = run(project, "build_sdist")
    wanted = {"setup.py", "pyproject.toml", "speechmtp/kernels/cpu/build.py"}
    assert wanted | {"speechmtp/kernels/cpu/csrc/a.c", "speechmtp/kernels/cpu/csrc/a.h"} <= files
