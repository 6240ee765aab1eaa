"""What is said when a native library is missing or will not load, and what importing the package costs."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

import meon_ext
from meon_ext import NativeError, _native


@pytest.fixture(autouse=True)
def nothing_cached() -> Iterator[None]:
    """Each test loads anew, and leaves nothing of its failure behind."""
    _native.core.cache_clear()
    _native.load_ops.cache_clear()
    yield
    _native.core.cache_clear()
    _native.load_ops.cache_clear()


def printed_by(code: str) -> str:
    """What a fresh Python prints; not run from the checkout, whose folder meon_ext would hide the installed package."""
    here = Path(__file__).parent
    return subprocess.run([sys.executable, "-c", code], cwd=here, capture_output=True, text=True, check=True).stdout


def test_importing_the_package_imports_neither_torch_nor_numpy() -> None:
    code = "import sys, meon_ext; meon_ext.__version__; print(sorted({'torch', 'numpy', 'scipy'} & set(sys.modules)))"
    assert printed_by(code) == "[]\n"


def test_every_public_name_is_there() -> None:
    for name in meon_ext.__all__:
        assert getattr(meon_ext, name) is not None
    assert set(dir(meon_ext)) == set(meon_ext.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = meon_ext.nonsense


def test_modules_that_the_pages_name_are_there_from_the_start() -> None:
    """Not only after something else has imported them."""
    root = Path(__file__).resolve().parents[1]
    pages = "".join(page.read_text(encoding="utf-8") for page in (root / "README.md", *(root / "docs").glob("*.md")))
    named = {name for name in re.findall(r"`meon_ext\.([a-z]\w*)", pages) if name not in ("cli", "weights")}
    assert {"ops", "images", "distortions", "training"} <= named
    assert printed_by(f"import meon_ext\nfor name in {sorted(named)}: getattr(meon_ext, name)") == ""


def test_missing_op_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(_native, "OPS_LIBRARY", tmp_path / "libmeon_torch.so")
    with pytest.raises(NativeError, match=r"built without its torch ops.*libmeon_torch\.so is missing.*pip install"):
        _native.load_ops()
    status = _native.build_info(load_torch=True)
    assert status["torch_ops"]["built"] is False
    assert "built without its torch ops" in status["torch_ops"]["status"]


def test_broken_op_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "libmeon_torch.so"
    broken.write_bytes(b"\x7fELF, but no more")
    monkeypatch.setattr(_native, "OPS_LIBRARY", broken)
    with pytest.raises(NativeError, match=r"does not load beside torch .*pip install --force-reinstall"):
        _native.load_ops()


def test_torch_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(NativeError, match=r"needs torch >= 2\.10.*pip install torch"):
        _native.load_ops()


def test_every_name_that_needs_torch_says_so_where_there_is_none() -> None:
    code = """
import sys
sys.modules["torch"] = None  # as if it were not installed
import meon_ext
for name in meon_ext.__all__:
    try:
        getattr(meon_ext, name)
    except meon_ext.NativeError as error:
        print(name, "|", error)
"""
    message = "needs torch >= 2.10, which is not installed. Run: pip install torch"
    names = ("GDN", "MEON", "ConvGDNPool", "modules", "ops", "reference")
    assert printed_by(code).splitlines() == [f"{name} | meon_ext.{name} {message}" for name in names]


def test_torch_that_misses_a_library_of_its_own(tmp_path: Path) -> None:
    """As a CUDA build does where packages of the toolkit were removed: the report must be possible all the same."""
    package = tmp_path / "torch"
    package.mkdir()
    (package / "__init__.py").write_text("raise OSError('libcudart.so.12: cannot open shared object file')")
    code = f"""
import contextlib, io, sys
sys.path.insert(0, {str(tmp_path)!r})
from meon_ext import build_info
from meon_ext.cli import main
print(build_info(load_torch=True)["torch_ops"]["status"])
for command in (["score", "x.png", "--backend", "fused"], ["train", "--out", {str(tmp_path / "run")!r}]):
    with contextlib.redirect_stderr(sys.stdout):
        print(main(command))
"""
    status, *rest = printed_by(code).splitlines()
    assert "which does not import: libcudart.so.12: cannot open shared object file" in status
    assert [line for line in rest if "libcudart" not in line] == ["2", "2"]
    assert all("error: " in line and "standard output" not in line for line in rest if "libcudart" in line)


def test_torch_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    old = types.ModuleType("torch")
    old.__version__ = "2.9.1+cpu"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch", old)
    with pytest.raises(NativeError, match=r"needs torch >= 2\.10, but 2\.9\.1\+cpu is installed.*pip install -U"):
        _native.load_ops()


def test_a_broken_cuda_library_leaves_the_cpu_ops(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import torch

    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(_native, "CUDA_LIBRARY", tmp_path / "libmeon_torch_cuda.so")
    assert "MEON_CUDA=on pip install" in _native.load_ops()
    _native.load_ops.cache_clear()
    (tmp_path / "libmeon_torch_cuda.so").write_bytes(b"not a library")
    status = _native.load_ops()
    assert "libmeon_torch_cuda.so does not load beside torch" in status
    assert torch.ops.meon_ext.gdn(torch.ones(1, 1), torch.ones(1), torch.zeros(1, 1)).item() == 1


def test_core_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "meon_ext._core", None)
    monkeypatch.delattr(meon_ext, "_core", raising=False)
    with pytest.raises(NativeError, match=r"core library does not load in Python .*pip install"):
        _native.core()
    assert "core library does not load" in _native.build_info()["core_error"]


def test_wrong_instruction_set_is_told_with_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEON_ISA", "sse9")
    info = _native.build_info(load_torch=True)
    assert info["core_error"].startswith("MEON_ISA is 'sse9'; this build on this processor has portable")
    assert "core" not in info and info["torch_ops"]["status"] == "loaded"


def test_build_info_without_torch() -> None:
    code = "import sys, meon_ext; meon_ext.build_info(); print('torch' in sys.modules)"
    assert printed_by(code) == "False\n"
    info = meon_ext.build_info()
    assert info["core"]["instruction_set"] in info["core"]["instruction_sets_usable"]
    assert set(info["core"]["instruction_sets_usable"]) <= set(info["core"]["instruction_sets"])


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="AVX is x86-64's")
@pytest.mark.skipif(shutil.which("objdump") is None, reason="needs objdump")
@pytest.mark.parametrize("library", ["core", "ops"])
def test_only_kernels_of_an_instruction_set_hold_its_instructions(library: str) -> None:
    """Anything else, such as filling in a table of kernels, runs before the processor was asked, and on one without AVX
    would end the process."""
    path = _native.OPS_LIBRARY if library == "ops" else Path(str(_native.core().__file__))
    listing = subprocess.run(
        ["objdump", "-d", "--no-show-raw-insn", str(path)], capture_output=True, text=True, check=True
    ).stdout
    with_avx = set()
    name = ""
    for line in listing.splitlines():
        if function := re.fullmatch(r"[0-9a-f]+ <(.*)>:", line):
            name = function[1]
        elif re.match(r"\s+[0-9a-f]+:\t(\{evex\} )?v(?!er[rw])", line):
            with_avx.add(name)
    assert any("Avx512" in name for name in with_avx)  # else the symbols are gone, and nothing was looked at
    assert [name for name in sorted(with_avx) if "Avx2" not in name and "Avx512" not in name] == []
