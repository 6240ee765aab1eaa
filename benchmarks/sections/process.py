"""What only a fresh process shows: peak memory, and the time from the shell to the answer."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from PIL import Image

import others
from cases import Unavailable, weights
from meon_ext.weights_io import write_weights
from pictures import HUGE, LARGE, SMALL, photograph
from rows import Make, Row, Settings, milliseconds, progress, race
from timing import Effort, Run

_MEMORY = Path(__file__).resolve().parents[1] / "memory.py"


def memory(settings: Settings) -> list[Row]:
    """Peak above the decoded image; the processes run one after the other, so no rounds."""
    sizes = (SMALL,) if settings.quick else (LARGE, HUGE)
    rows = []
    for size in sizes:
        section = f"memory over the image, {size[0] * size[1] / 1e6:.3g} megapixels"
        first = None
        for backend in ("core", "fused", "reference"):
            progress(f"{section}: {backend}")
            command = [sys.executable, str(_MEMORY), backend, *map(str, (*size, settings.threads))]
            mebibytes = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
            first = first or mebibytes
            rows.append(Row(section, f"Scorer, {backend}", "MiB", mebibytes, ratio=mebibytes / first))
    return rows


_BRISQUE = """
import sys, numpy
from PIL import Image
from brisque import BRISQUE
print(BRISQUE().score(numpy.asarray(Image.open(sys.argv[1]))))
"""
_PIQ = """
import sys, numpy, piq, torch
from PIL import Image
x = torch.from_numpy(numpy.array(Image.open(sys.argv[1])))
print(piq.brisque(x.permute(2, 0, 1)[None].float(), data_range=255.0))
"""
_ONNX = """
import sys, numpy, onnxruntime
from PIL import Image
x = numpy.asarray(Image.open(sys.argv[1]))
high, wide = x.shape[:2]
crops = [x[y:y + 256, i:i + 256] for y in range(0, high - 255, 128) for i in range(0, wide - 255, 128)]
crops = numpy.stack(crops).transpose(0, 3, 1, 2).astype(numpy.float32)
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = int(sys.argv[3])
session = onnxruntime.InferenceSession(sys.argv[2], options, providers=["CPUExecutionProvider"])
print(session.run(None, {"crops": crops})[0].mean())
"""


def startup(settings: Settings) -> list[Row]:
    """From the start of the process to its end, over one small picture."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        picture, model = folder / "photo.png", folder / "weights.safetensors"
        Image.fromarray(photograph(*SMALL)).save(picture)
        write_weights(model, weights())
        meon = Path(sysconfig.get_path("scripts")) / "meon"
        python, threads = sys.executable, settings.threads
        score = (meon, "score", picture, "--model", model, "--quiet", "--threads", threads)

        def onnx() -> Run:
            graph = folder / "meon.onnx"
            graph.write_bytes(others.onnx_file())
            return _script("onnxruntime", _ONNX, picture, graph, threads)

        contenders: dict[str, Make] = {
            "meon score photo.png": lambda: _process(*score),
            "python -c 'import numpy, PIL.Image'": lambda: _process(python, "-c", "import numpy, PIL.Image"),
            "python -c pass": lambda: _process(python, "-c", "pass"),
            "python -c 'import torch'": lambda: _process(python, "-c", "import torch"),
            "the same network in onnxruntime": onnx,
            "brisque (PyPI)": lambda: _script("brisque", _BRISQUE, picture),
            "piq.brisque": lambda: _script("piq", _PIQ, picture),
        }
        effort = Effort(rounds=2 if settings.quick else 11, least=0.0)
        notes = {"meon score photo.png": f"{SMALL[0]} x {SMALL[1]}; imports no torch"}
        return race("start-up, process from start to end", "ms", milliseconds, contenders, effort, notes=notes)


def _script(package: str, code: str, *arguments: object) -> Run:
    """Python code that needs a package. Raises Unavailable where it is not installed or the code fails."""
    if importlib.util.find_spec(package) is None:
        raise Unavailable("not installed")
    return _process(sys.executable, "-c", code, *arguments)


def _process(*command: object) -> Run:
    """A process that must succeed. Raises Unavailable where it does not, with the last line of what it said."""
    line = [os.fspath(part) if isinstance(part, Path) else str(part) for part in command]

    def run() -> None:
        subprocess.run(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=True)

    try:
        run()
    except FileNotFoundError as error:
        raise Unavailable(f"no {line[0]}") from error
    except subprocess.CalledProcessError as error:
        said = error.stderr.strip().splitlines() or [f"exit code {error.returncode}"]
        raise Unavailable(f"does not run: {said[-1]}") from error
    return run
