"""Loading the native libraries, and saying plainly what is wrong when one will not load."""

from __future__ import annotations

import functools
import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meon_ext._version import __version__
from meon_ext.errors import NativeError

if TYPE_CHECKING:
    from types import ModuleType

_PACKAGE = Path(__file__).parent
OPS_LIBRARY = _PACKAGE / "libmeon_torch.so"
CUDA_LIBRARY = _PACKAGE / "libmeon_torch_cuda.so"
_REINSTALL = "pip install --force-reinstall --no-deps ."


@functools.cache
def core() -> ModuleType:
    """The module ``meon_ext._core``.

    Raises:
        NativeError: the module is missing (never built, or built for another Python) or does not load.
    """
    try:
        from meon_ext import _core
    except ImportError as error:
        built = sorted(path.name for path in _PACKAGE.glob("_core*.so"))
        have = f"found {', '.join(built)}" if built else "none was built"
        raise NativeError(
            f"meon_ext's core library does not load in Python {platform.python_version()} ({have}): {error}. "
            f"From a checkout of meon_ext run: {_REINSTALL} (for development: pip install -e .)"
        ) from error
    return _core


@functools.cache
def load_ops() -> str:
    """Registers the torch ops, on CUDA too where torch has CUDA.

    Returns:
        "loaded" when the CUDA kernels are registered, otherwise the reason why they are not.

    Raises:
        NativeError: torch is missing or too old, or the op library is missing or does not load.
    """
    try:
        import torch
    except (ImportError, OSError) as error:  # the latter where a library that torch loads is missing
        raise NativeError(
            f"this feature of meon_ext needs torch >= 2.10, which does not import: {error}. Run: pip install torch"
        ) from error
    version = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    if version < (2, 10):
        raise NativeError(
            f"meon_ext needs torch >= 2.10, but {torch.__version__} is installed. Run: pip install -U torch"
        )
    if not OPS_LIBRARY.is_file():
        raise NativeError(
            f"meon_ext was built without its torch ops ({OPS_LIBRARY.name} is missing), because no torch was found "
            f"then. With torch {torch.__version__} installed, from a checkout of meon_ext run: {_REINSTALL}"
        )
    _load(OPS_LIBRARY, torch.__version__)
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is a build without CUDA; install a CUDA build of torch to use a GPU"
    if not CUDA_LIBRARY.is_file():
        return (
            f"meon_ext was built without CUDA ({CUDA_LIBRARY.name} is missing); install the CUDA toolkit (nvcc) and, "
            f"from a checkout of meon_ext, run: MEON_CUDA=on {_REINSTALL}"
        )
    try:
        _load(CUDA_LIBRARY, torch.__version__)
    except NativeError as error:
        return str(error)  # The CPU ops are good: a broken CUDA library must not take them away.
    return "loaded"


def _load(library: Path, torch_version: str) -> None:
    import torch

    try:
        torch.ops.load_library(str(library))  # type: ignore[no-untyped-call]
    except (OSError, RuntimeError) as error:
        raise NativeError(
            f"{library.name} does not load beside torch {torch_version} (CUDA {torch.version.cuda or 'none'}): "
            f"{error}. From a checkout of meon_ext run: {_REINSTALL}"
        ) from error


def build_info(load_torch: bool = False) -> dict[str, Any]:
    """What is installed and how it was built, as plain values.

    Args:
        load_torch: Import torch and load the op libraries, to tell whether they work. Takes a second or more.

    Returns:
        ``meon_ext`` and ``python`` versions, ``packages`` (name to version or None), ``core`` (compiler, instruction
        sets) or ``core_error``, ``torch_ops`` and ``cuda`` (whether the libraries are there, and with ``load_torch``
        whether they load and if not why).
    """
    info: dict[str, Any] = {
        "meon_ext": __version__,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "packages": {name: _version(name) for name in ("torch", "numpy", "scipy", "pillow", "safetensors")},
    }
    try:
        info["core"] = dict(core().build_info())
    except (NativeError, ValueError) as error:  # the latter: MEON_ISA names nothing that this processor can run
        info["core_error"] = str(error)
    info["torch_ops"] = {"built": OPS_LIBRARY.is_file()}
    info["cuda"] = {"built": CUDA_LIBRARY.is_file(), "architectures": _cuda_architectures()}
    if load_torch:
        try:
            cuda = load_ops()
            info["torch_ops"]["status"] = "loaded"
            info["cuda"]["status"] = cuda
            info["cuda"]["torch_cuda"] = sys.modules["torch"].version.cuda
            info["cuda"]["devices"] = sys.modules["torch"].cuda.device_count()
        except NativeError as error:
            info["torch_ops"]["status"] = str(error)
            info["cuda"]["status"] = "not tried: the torch ops do not load"
    return info


def _version(package: str) -> str | None:
    import importlib.metadata  # 20 ms that scoring has no use for

    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cuda_architectures() -> list[str]:
    # Written by the build beside the library, so that it can be told without a GPU and without loading it.
    listing = CUDA_LIBRARY.with_suffix(".archs")
    return listing.read_text(encoding="utf-8").split() if listing.is_file() else []
