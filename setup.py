"""What pyproject.toml cannot say: a wheel brings the native kernels compiled for its platform, if there is a compiler.

Without one, or with SPEECHMTP_KERNELS=ref, the wheel is pure and the first use compiles them. Editable installs compile
nothing."""

import importlib.util
import os
import shutil
import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

CPU = Path("speechmtp") / "kernels" / "cpu"


def prebuild(folder: Path) -> list[Path]:
    """Compile every variant that this kind of machine may run into a folder; none if that fails."""
    # By its path, since importing the package could need what is not installed here.
    spec = importlib.util.spec_from_file_location("speechmtp_build", Path(__file__).resolve().parent / CPU / "build.py")
    assert spec is not None and spec.loader is not None
    build = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)
    try:
        compiler = build.find_compiler()
        folder.mkdir(parents=True)
        return [build.compile_library(variant, compiler, folder) for variant in build.MACHINES.get(build.machine(), ())]
    except (build.BuildError, OSError) as error:
        print(f"no native kernels in the wheel: {error}", file=sys.stderr)
        shutil.rmtree(folder, ignore_errors=True)
        return []


class BuildWithKernels(build_py):
    """Packages and data, and then the kernels."""

    prebuilt: tuple[Path, ...] = ()

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        folder = Path(self.build_lib) / CPU / "prebuilt"
        shutil.rmtree(folder, ignore_errors=True)  # those of an earlier build
        if os.environ.get("SPEECHMTP_KERNELS") != "ref":
            self.prebuilt = tuple(prebuild(folder))

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        return super().get_outputs(include_bytecode) + [str(path) for path in self.prebuilt]


class WheelOfPlatform(bdist_wheel):
    """A wheel of any Python 3, and of one platform if compiled kernels are in it."""

    def get_tag(self) -> tuple[str, str, str]:
        if not self.get_finalized_command("build_py").prebuilt:
            return super().get_tag()
        self.root_is_pure = False
        return "py3", "none", super().get_tag()[2]


setup(cmdclass={"build_py": BuildWithKernels, "bdist_wheel": WheelOfPlatform})
