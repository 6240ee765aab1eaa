"""The torch-free C++ core, bound with pybind11: NumPy arrays in, NumPy arrays out."""

import numpy as np
from numpy.typing import NDArray

def build_info() -> dict[str, object]:
    """Compiler, its version, C++ standard and instruction sets this module was built with."""

def crop_grid(height: int, width: int, size: int = 256, stride: int = 128) -> NDArray[np.int64]:
    """Boxes (K, 4) as rows (x0, y0, x1, y1), row-major; the last row and column are flush with the border.

    Raises ValueError when a side is shorter than ``size`` or over 2^31 - 1, when ``size`` or ``stride`` is not
    positive, and when there would be more than 2^32 boxes.
    """

def crop_tables(offsets: NDArray[np.int64]) -> list[NDArray[np.int32]]:
    """What crops share along one axis, as tables for kernels that compute whole planes (csrc/core/crop_tables.h).

    offsets: (K,), the crops' first pixels, ascending. Returns the inputs of the three shared stages, (4 places + 3,)
    each, and the crops' places in the last of them, (K, 4). Raises ValueError for offsets that do not ascend or lie
    outside of 0..2^31 - 257, TypeError for a wrong dtype.
    """

def multiply_adds(rounds: int, threads: int = 0) -> float:
    """Keep every thread busy with float32 multiply-adds in registers, on the instruction set in use: no faster code is
    possible. Returns how many FLOP that were; time the call to have the processor's peak. Raises ValueError for rounds
    outside 1..2^40 or a negative ``threads``.
    """

class Network:
    """MEON (GDN, fusion) over float32 weights named as in ``meon_ext.weights_io``."""

    def __init__(self, tensors: dict[str, NDArray[np.float32]]) -> None:
        """Copies the tensors. Raises ValueError naming the first missing, unexpected or misshapen one."""

    @property
    def num_classes(self) -> int: ...
    def forward_crops(
        self, image: NDArray[np.uint8], boxes: NDArray[np.int64], threads: int = 0
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Score crops of one image: uint8 (H, W, 3) C-contiguous, boxes (K, 4) each of 256 x 256.

        Returns raw (K,) on the network's own scale and probabilities (K, C). threads = 0 means all the
        processors this process may use. The GIL is released.
        Raises ValueError for a wrong shape or a box outside the image, TypeError for a wrong dtype.
        """
