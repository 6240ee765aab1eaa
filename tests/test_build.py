"""Which torch the build takes its headers from, which tools it asks pip for, and what its variables may be;
and what a source distribution holds."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import site
import sys
import sysconfig
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]


def loaded(name: str, monkeypatch: pytest.MonkeyPatch, folder: Path = ROOT / "_build") -> ModuleType:
    """A module of the build, which is in no package."""
    spec = importlib.util.spec_from_file_location(f"{name}_under_test", folder / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def finder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module that looks, in a world without any torch."""
    module = loaded("find_torch", monkeypatch)
    monkeypatch.setattr(module, "_ROOT", tmp_path / "work" / "meon_ext")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(site, "getusersitepackages", lambda: str(tmp_path / "user"))
    monkeypatch.setattr(sys, "base_prefix", str(tmp_path / "usr"))
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path / "isolated" / name))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    for name in ("MEON_TORCH_DIR", "VIRTUAL_ENV", "CONDA_PREFIX"):
        monkeypatch.delenv(name, raising=False)
    return module


def make_torch(package: Path, version: str = "2.13.0+cpu") -> Path:
    for file in ("include/torch/csrc/stable/library.h", "lib/libtorch.so"):
        (package / file).parent.mkdir(parents=True, exist_ok=True)
        (package / file).touch()
    (package / "version.py").write_text(f"__all__ = []\n__version__ = '{version}'\n", encoding="utf-8")
    return package


def in_environment(prefix: Path) -> Path:
    return prefix / "lib" / "python3.11" / "site-packages" / "torch"


def test_none(finder: ModuleType) -> None:
    assert finder.find_torch() is None


def test_named(finder: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_torch(tmp_path / "isolated" / "purelib" / "torch", "2.14.0")
    monkeypatch.setenv("MEON_TORCH_DIR", str(make_torch(tmp_path / "mine")))
    assert finder.find_torch() == finder.Torch("2.13.0+cpu", tmp_path / "mine" / "include", tmp_path / "mine" / "lib")
    monkeypatch.setenv("MEON_TORCH_DIR", str(tmp_path))
    with pytest.raises(SystemExit, match=r"MEON_TORCH_DIR is .* no torch >= 2\.10 .*site-packages/torch"):
        finder.find_torch()


def test_beside_the_python_that_builds(finder: ModuleType, tmp_path: Path) -> None:
    package = make_torch(tmp_path / "isolated" / "platlib" / "torch")
    assert finder.find_torch().include == package / "include"


@pytest.mark.parametrize(
    "folder",
    [
        "user",
        "usr/lib/python3.11/site-packages",
        "usr/lib/python3/dist-packages",
        "usr/local/lib/python3.11/dist-packages",
    ],
)
def test_where_an_environment_may_take_packages_from(folder: str, finder: ModuleType, tmp_path: Path) -> None:
    """A virtual environment may have the packages of the system; pip that may not write there installs for the user."""
    package = make_torch(tmp_path / folder / "torch")
    assert finder.find_torch().include == package / "include"


@pytest.mark.parametrize("variable", ["VIRTUAL_ENV", "CONDA_PREFIX"])
def test_in_the_active_environment(
    variable: str, finder: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = make_torch(in_environment(tmp_path / "env"))
    monkeypatch.setenv(variable, str(tmp_path / "env"))
    assert finder.find_torch().include == package / "include"


def test_as_uv_builds(finder: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """uv sets VIRTUAL_ENV to an environment of its own, and puts it first on PATH."""
    package = make_torch(in_environment(tmp_path / "env"))
    own = tmp_path / "uv"
    monkeypatch.setenv("VIRTUAL_ENV", str(own))
    monkeypatch.setenv("PATH", f"{own / 'bin'}:{tmp_path / 'env' / 'bin'}:/usr/bin")
    assert finder.find_torch().include == package / "include"


@pytest.mark.parametrize("folder", ["work/meon_ext", "work"])
def test_in_the_environment_that_uv_finds_by_itself(folder: str, finder: ModuleType, tmp_path: Path) -> None:
    package = make_torch(in_environment(tmp_path / folder / ".venv"))
    assert finder.find_torch().include == package / "include"


@pytest.mark.parametrize("version", ["2.9.1", "1.13.0", "nonsense"])
def test_too_old_ones_are_passed_over(version: str, finder: ModuleType, tmp_path: Path) -> None:
    make_torch(in_environment(tmp_path / "work" / "meon_ext" / ".venv"), version)
    assert finder.find_torch() is None
    package = make_torch(in_environment(tmp_path / "work" / ".venv"), "2.10.0")
    assert finder.find_torch().include == package / "include"


@pytest.mark.parametrize("missing", ["include/torch/csrc/stable/library.h", "lib/libtorch.so", "version.py"])
def test_incomplete_ones_are_passed_over(missing: str, finder: ModuleType, tmp_path: Path) -> None:
    package = make_torch(in_environment(tmp_path / "work" / ".venv"))
    (package / missing).unlink()
    assert finder.find_torch() is None


def make_tool(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)


@pytest.mark.parametrize(
    ("cmake", "asked_for"),
    [
        ("#!/bin/sh\necho cmake version 3.24.0", []),
        ("#!/bin/sh\necho cmake version 4.1.2-rc1", []),
        ("#!/bin/sh\necho cmake version 3.22.1", ["cmake>=3.24"]),  # Ubuntu 22.04's
        (f"#!{sys.executable}\nfrom no_such_module import cmake", ["cmake>=3.24"]),  # pip's, in an isolated build
        (None, ["cmake>=3.24"]),
    ],
)
def test_tools_that_do_not_do_are_asked_for(
    cmake: str | None, asked_for: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools = loaded("tools", monkeypatch)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    make_tool(tmp_path / "bin" / "ninja", "#!/bin/sh\necho 1.10.1")
    if cmake is not None:
        make_tool(tmp_path / "bin" / "cmake", cmake)
    assert tools.missing() == asked_for


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("MEON_CUDA", "yes", "MEON_CUDA is 'yes'; it must be auto, on or off"),
        ("MEON_TORCH", "OFF", "MEON_TORCH is 'OFF'; it must be auto or off"),
        ("MAX_JOBS", "all", "MAX_JOBS is 'all'; it must be a whole number from 1 on"),
        ("MAX_JOBS", "0", "MAX_JOBS is '0'"),
        ("MAX_JOBS", "-2", "MAX_JOBS is '-2'"),
        ("MAX_JOBS", "²", "MAX_JOBS is '²'"),
    ],
)
def test_variables_that_mean_nothing_are_refused(
    name: str, value: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = loaded("settings", monkeypatch)
    for variable in ("MEON_CUDA", "MEON_TORCH", "MAX_JOBS"):
        monkeypatch.setenv(variable, "")  # as if it were not set
    settings.check()
    assert settings.cuda() == "auto" and settings.torch_wanted() and settings.jobs() == []
    monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit, match=re.escape(says)):
        settings.check()


def test_variables_are_what_they_say(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = loaded("settings", monkeypatch)
    monkeypatch.setenv("MEON_CUDA", "on")
    monkeypatch.setenv("MEON_TORCH", "off")
    monkeypatch.setenv("MAX_JOBS", "3")
    assert settings.cuda() == "on" and not settings.torch_wanted() and settings.jobs() == ["-j", "3"]
    with pytest.raises(SystemExit, match=r"MEON_CUDA=on .* MEON_TORCH=off leaves out"):
        settings.check()


def test_a_build_folder_is_for_one_checkout_and_its_compilers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tools = loaded("tools", monkeypatch)
    for name in ("CXX", "CXXFLAGS", "LDFLAGS", "CUDACXX", "CUDAFLAGS", "CUDAHOSTCXX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "toolkit"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    seen = [tools.remembered(tmp_path), tools.remembered(tmp_path / "moved")]
    for compiler in ("g++-11", "g++-12"):
        make_tool(tmp_path / "bin" / compiler, "")
        (tmp_path / "bin" / "g++").unlink(missing_ok=True)
        (tmp_path / "bin" / "g++").symlink_to(compiler)
        seen.append(tools.remembered(tmp_path))
    (tmp_path / "toolkit").mkdir()
    make_tool(tmp_path / "toolkit" / "bin" / "nvcc", "")
    seen.append(tools.remembered(tmp_path))
    monkeypatch.setenv("CXXFLAGS", "-g")
    seen.append(tools.remembered(tmp_path))
    assert len(set(seen)) == len(seen)
    monkeypatch.setenv("MEON_CUDA", "off")  # CMake is told this each time
    assert tools.remembered(tmp_path) == seen[-1]


def test_a_source_distribution_holds_what_its_pages_speak_of(monkeypatch: pytest.MonkeyPatch) -> None:
    egg_info = pytest.importorskip("setuptools.command.egg_info")
    monkeypatch.chdir(ROOT)
    files = egg_info.FileList()
    files.findall()
    for line in Path("MANIFEST.in").read_text(encoding="utf-8").splitlines():
        files.process_template_line(line)
    held = {Path(name) for name in files.files}
    pages = [ROOT / name for name in held if name.suffix == ".md" and "weights" not in name.parts]
    assert ROOT / "docs" / "results.md" in pages
    spoken_of = {ROOT / found for found in ("benchmarks/gpu.sh", "benchmarks/compare.py", ".clang-format")}
    for page in pages:
        links = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8"))
        spoken_of |= {(page.parent / link).resolve() for link in links}
    missing = {path for path in spoken_of if path.relative_to(ROOT) not in held}
    assert not missing


@pytest.fixture
def setup_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """setup.py, which sets nothing up, over a folder of its own."""
    setuptools = pytest.importorskip("setuptools")
    monkeypatch.setattr(setuptools, "setup", lambda **_: None)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    module = loaded("setup", monkeypatch, ROOT)
    monkeypatch.setattr(module, "ROOT", tmp_path / "checkout")
    (tmp_path / "include" / "some").mkdir(parents=True)
    (tmp_path / "include" / "some" / "header.h").write_text("new", encoding="utf-8")
    return module


def test_headers_are_copied_anew_after_a_build_that_was_killed(setup_script: ModuleType, tmp_path: Path) -> None:
    half = tmp_path / "checkout" / "build" / "deps" / f"torch-2.13.0.{os.getpid()}.partial"  # the same number again
    (half / "some").mkdir(parents=True)
    (half / "some" / "header.h").write_text("half of it", encoding="utf-8")
    kept = setup_script.kept_headers("torch", "2.13.0", tmp_path / "include", ("some",))
    assert (kept / "some" / "header.h").read_text(encoding="utf-8") == "new"
    assert [path.name for path in kept.parent.iterdir()] == ["torch-2.13.0"]


def test_headers_that_another_build_has_copied_meanwhile_are_taken(
    setup_script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copytree

    def slow(source: Path, target: Path) -> None:
        copy(source, target)
        copy(source, tmp_path / "checkout" / "build" / "deps" / "torch-2.13.0" / "some")  # the other is done

    monkeypatch.setattr(shutil, "copytree", slow)
    kept = setup_script.kept_headers("torch", "2.13.0", tmp_path / "include", ("some",))
    assert (kept / "some" / "header.h").is_file()
    assert [path.name for path in kept.parent.iterdir()] == ["torch-2.13.0"]
