"""Calls the CMake build and puts its libraries beside the Python files; everything else is in pyproject.toml."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "_build"))

import settings  # noqa: E402
import tools  # noqa: E402
from find_torch import find_torch  # noqa: E402

LIBRARIES = ("_core*.so", "libmeon_torch.so", "libmeon_torch_cuda.so", "libmeon_torch_cuda.archs")


def kept_headers(name: str, version: str, include: Path, parts: tuple[str, ...]) -> Path:
    """Copies headers into build/deps once per version and returns that folder.

    An isolated build environment is a new temporary folder each time: compiling straight from it would change every
    command and time stamp, and so recompile everything on each `pip install .`.
    """
    kept = ROOT / "build" / "deps" / f"{name}-{version}"
    if not kept.is_dir():
        partial = kept.with_name(f"{kept.name}.{os.getpid()}.partial")
        # Of a build that was killed: in containers process numbers come again.
        shutil.rmtree(partial, ignore_errors=True)
        for part in parts:
            shutil.copytree(include / part, partial / part)
        try:
            partial.rename(kept)
        except OSError:  # another build, for another Python, was sooner
            if not kept.is_dir():
                raise
            shutil.rmtree(partial)
    return kept


def cmake_arguments(source: Path) -> list[str]:
    import pybind11

    pybind = kept_headers("pybind11", pybind11.__version__, Path(pybind11.get_include()), ("pybind11",))
    arguments = {
        "MEON_PYBIND11_INCLUDE": pybind,
        "MEON_PYTHON_INCLUDE": sysconfig.get_path("include"),
        "MEON_PYTHON_SUFFIX": sysconfig.get_config_var("EXT_SUFFIX"),
        "MEON_CUDA": settings.cuda(),
        "MEON_TORCH_INCLUDE": "",
        "MEON_TORCH_LIB_DIR": "",
    }
    torch = find_torch() if settings.torch_wanted() else None
    if torch is not None:
        parts = ("torch/csrc/stable", "torch/csrc/inductor/aoti_torch", "torch/headeronly")
        arguments["MEON_TORCH_INCLUDE"] = kept_headers("torch", torch.version, torch.include, parts)
        arguments["MEON_TORCH_LIB_DIR"] = torch.lib
    else:
        why = "no torch >= 2.10 found" if settings.torch_wanted() else "MEON_TORCH=off"
        print(f"meon_ext: {why}, so the torch ops are left out; scoring on the CPU works without them")
    if ninja := shutil.which("ninja"):
        arguments["CMAKE_MAKE_PROGRAM"] = ninja
    return [str(source), "-G", "Ninja", *(f"-D{key}={value}" for key, value in arguments.items())]


def run(*command: str | Path) -> None:
    try:
        subprocess.run([str(part) for part in command], check=True)
    except FileNotFoundError as error:
        raise SystemExit(f"meon_ext needs {command[0]} to build; install it with: pip install cmake ninja") from error
    except subprocess.CalledProcessError as error:
        raise SystemExit(
            f"meon_ext: the native build failed ({command[0]} exited {error.returncode}), see above"
        ) from None


class CMakeBuild(build_ext):
    """Builds all native libraries with one CMake run, whatever the number of extensions setuptools knows of."""

    def run(self) -> None:
        settings.check()
        build = ROOT / "build" / f"cmake-{sysconfig.get_platform()}-{sys.implementation.cache_tag}"
        staged = build / "staged"
        stamp, remembered = build / "remembered.txt", tools.remembered(ROOT)
        known = stamp.is_file() and stamp.read_text(encoding="utf-8") == remembered
        run("cmake", *([] if known else ["--fresh"]), "-S", *cmake_arguments(ROOT), "-B", build)
        stamp.write_text(remembered, encoding="utf-8")
        run("cmake", "--build", build, *settings.jobs())
        shutil.rmtree(staged, ignore_errors=True)
        run("cmake", "--install", build, "--prefix", staged)
        editable = self.inplace or getattr(self, "editable_mode", False)
        package = (ROOT if editable else Path(self.build_lib)) / "meon_ext"
        package.mkdir(parents=True, exist_ok=True)
        for pattern in LIBRARIES:  # a library that is no longer built must not linger beside the new ones
            for old in package.glob(pattern):
                if self._ours(old):
                    old.unlink()
        for library in sorted(staged.iterdir()):
            shutil.copy2(library, package / library.name)

    @staticmethod
    def _ours(library: Path) -> bool:
        # Extension modules of other Python versions may stand beside this one's in an editable install.
        return not library.name.startswith("_core") or library.name == f"_core{sysconfig.get_config_var('EXT_SUFFIX')}"


setup(ext_modules=[Extension("meon_ext._core", sources=[])], cmdclass={"build_ext": CMakeBuild})
