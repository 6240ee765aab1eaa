"""From what users hand in to the uint8 RGB array that the network reads.

The rules, in order:

1. A path or bytes must hold a picture in PNG, JPEG, WebP, TIFF, JPEG 2000, AVIF, GIF, BMP, PPM, QOI or SGI, as its
   content says (the suffix does not count). The first frame of an animation or page of a document is taken; of a PIL
   image, its current frame.
2. Grey is copied to the three channels, palettes are looked up, 1-bit pictures are black and white. CMYK, YCbCr, HSV
   and Lab go through Pillow's conversion to RGB. Embedded ICC profiles are ignored: the numbers are read as they stand.
3. Anything transparent (an alpha channel, a transparent palette entry or colour) is composited over white.
4. 16-bit grey is divided by 257 and rounded. Of 16-bit colour Pillow keeps the upper 8 bits, at most one level off
   that. 32-bit integer and floating-point pictures have no fixed white and are refused.
5. EXIF orientation is applied. Metadata that cannot be read count as none.
6. Arrays are uint8 (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), the channels in the order R, G, B, A; torch tensors
   (H, W) or (C, H, W). uint16 and floating-point samples need ``data_range``, the value of white; they are scaled to
   0..255 and rounded to nearest, and must not round to anything outside it.
7. A shorter side under 32 pixels is refused; a side under 256 is continued to 256 by mirroring at its right or bottom
   border (the border pixel itself is not repeated), as often as it takes.

Limits: 512 megapixels, checked before decoding (``max_pixels`` or the environment variable MEON_MAX_PIXELS sets
another), and 1 GiB of file. Only regular files are read, so that a FIFO or device cannot hang a run. Whatever goes
wrong is an ImageError that names the file and the remedy.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, TypeAlias, TypeGuard

import numpy as np

from meon_ext.errors import ImageError

if TYPE_CHECKING:
    import PIL.Image
    import torch
    from numpy.typing import NDArray

__all__ = ["ImageLike", "LoadedImage", "PendingImage", "load_image", "open_image"]

ImageLike: TypeAlias = "str | os.PathLike[str] | bytes | PIL.Image.Image | NDArray[Any]"

MIN_SIDE = 32
CROP_SIDE = 256
MAX_FILE_BYTES = 1 << 30
DEFAULT_MAX_PIXELS = 512_000_000
MAX_PIXELS_VARIABLE = "MEON_MAX_PIXELS"


@dataclass(frozen=True, eq=False)
class LoadedImage:
    """A picture ready for the network.

    pixels: uint8 (H, W, 3), RGB, C-contiguous, H and W at least 256. It is the caller's own array where that already
        was one, so it must not be written to.
    width, height: of the picture, upright and before padding.
    padded: whether a side was continued to 256.
    name: what messages call it.
    """

    pixels: NDArray[np.uint8]
    width: int
    height: int
    padded: bool
    name: str


@dataclass(frozen=True, eq=False)
class PendingImage:
    """A picture whose size is known and whose pixels are still to be decoded.

    pixels: how many pixels it takes in memory.
    decode: returns the LoadedImage or raises ImageError; may run in another thread, once. It closes the file.
    close: closes the file of a picture that is not going to be decoded.
    """

    pixels: int
    decode: Callable[[], LoadedImage]
    close: Callable[[], None] = lambda: None


def load_image(
    image: ImageLike | torch.Tensor,
    *,
    data_range: float | None = None,
    name: str | None = None,
    max_pixels: int | None = None,
) -> LoadedImage:
    """Read one picture by the rules of this module.

    image: path, the bytes of a file, PIL image, array, or torch tensor (C, H, W).
    data_range: the value of white, for uint16 and floating-point arrays and tensors; required there.
    name: what messages call the picture; by default its path, or what kind of object it is.
    max_pixels: the limit on width times height of this picture.

    Raises ImageError when it cannot be read or is too small or too large, TypeError for another kind of object,
    ValueError for a limit that is no positive number.
    """
    return open_image(image, data_range=data_range, name=name, max_pixels=max_pixels).decode()


def open_image(
    image: ImageLike | torch.Tensor,
    *,
    data_range: float | None = None,
    name: str | None = None,
    max_pixels: int | None = None,
) -> PendingImage:
    """The first, cheap half of ``load_image``: only headers are read. Takes and raises the same."""
    limit = pixel_limit(max_pixels)
    if isinstance(image, (str, os.PathLike)):
        path = os.fsdecode(os.fspath(image))
        return _pending_file(lambda: _open_regular(path, name or path), name or path, limit)
    if isinstance(image, (bytes, bytearray, memoryview)):
        data = bytes(image)
        name = name or "<bytes>"
        _check_file_size(len(data), name)
        return _pending_file(lambda: io.BytesIO(data), name, limit)

    if isinstance(image, np.ndarray):
        array, name = image, name or "<array>"
    else:
        from meon_ext import _arrays

        if _arrays.is_tensor(image):
            name = name or "<tensor>"
            array = _arrays.tensor_to_array(image, name)
        else:
            return _pending_pil(image, name or "<PIL image>", limit)
    return _pending_array(array, data_range, name, limit)


def is_batch(image: object) -> TypeGuard[torch.Tensor]:
    """Whether this is a torch tensor (N, C, H, W)."""
    from meon_ext import _arrays

    return _arrays.is_tensor(image) and image.ndim == 4


def _pending_file(opener: Callable[[], IO[bytes]], name: str, limit: int) -> PendingImage:
    from meon_ext import _pillow

    file = opener()
    try:
        image = _pillow.open_file(file, name, limit)
        _check_sides(image.width, image.height, name, limit)
    except BaseException:
        file.close()
        raise

    def decode() -> LoadedImage:
        # Closed, not just left behind: Pillow's pixels, 4 bytes each, must be gone before the picture is scored.
        with file, contextlib.closing(image):
            pixels = _pillow.decode(image, name, limit)
        return _finish(pixels, name)

    return PendingImage(_in_memory(image), decode, file.close)


def _pending_pil(image: Any, name: str, limit: int) -> PendingImage:
    import PIL.Image

    from meon_ext import _pillow

    if not isinstance(image, PIL.Image.Image):
        raise TypeError(
            f"an image is a path, bytes, PIL image, NumPy array or torch tensor, not {type(image).__name__}"
        )
    name = os.fsdecode(getattr(image, "filename", "") or name)
    _pillow.check_pixels(image.width, image.height, name, limit)
    _check_sides(image.width, image.height, name, limit)
    return PendingImage(_in_memory(image), lambda: _finish(_pillow.decode(image, name, limit), name))


def _pending_array(array: NDArray[Any], data_range: float | None, name: str, limit: int) -> PendingImage:
    from meon_ext import _arrays, _pillow

    if array.ndim >= 2:
        _pillow.check_pixels(array.shape[1], array.shape[0], name, limit)
    if array.ndim >= 2 and min(array.shape[:2]) >= MIN_SIDE:  # others are refused below, for what they are
        _check_sides(array.shape[1], array.shape[0], name, limit)
    return PendingImage(array.size, lambda: _finish(_arrays.array_to_rgb(array, data_range, name), name))


def _finish(pixels: NDArray[np.uint8], name: str) -> LoadedImage:
    height, width = pixels.shape[:2]
    _check_min_side(width, height, name)
    padded = min(width, height) < CROP_SIDE
    if padded:
        rows, columns = _mirrored(height), _mirrored(width)
        try:
            pixels = np.ascontiguousarray(pixels[rows[:, None], columns])
        except MemoryError as error:
            raise ImageError(
                f"{name}: not enough memory to continue it to {CROP_SIDE} pixels; cut it shorter"
            ) from error
    return LoadedImage(pixels, width, height, padded, name)


def _mirrored(length: int) -> NDArray[np.intp]:
    """Which of ``length`` samples stands at each place of the side continued to 256, as np.pad(mode="reflect")."""
    period = 2 * (length - 1)
    place = np.arange(max(length, CROP_SIDE)) % period
    return np.minimum(place, period - place)


def _continued(width: int, height: int) -> int:
    """How many pixels there are once both sides are at least 256."""
    return max(width, CROP_SIDE) * max(height, CROP_SIDE)


def _in_memory(image: Any) -> int:
    """About how many pixels of an open PIL image are held at once."""
    from meon_ext import _pillow

    return max(_continued(image.width, image.height), _pillow.tile_pixels(image))


def _check_sides(width: int, height: int, name: str, limit: int) -> None:
    """Before anything is decoded: the least side, and how large the picture is once it is continued to 256."""
    _check_min_side(width, height, name)
    whole = _continued(width, height)
    if whole > max(limit, CROP_SIDE * CROP_SIDE) and whole > width * height:
        raise ImageError(
            f"{name}: {width} x {height}, continued to {CROP_SIDE} pixels on the shorter side, is more than the limit "
            f"of {limit} pixels; cut it shorter, or raise MEON_MAX_PIXELS if the picture is to be trusted"
        )


def _check_min_side(width: int, height: int, name: str) -> None:
    if min(width, height) < MIN_SIDE:
        raise ImageError(
            f"{name}: {width} x {height} is too small to judge; the shorter side must be at least {MIN_SIDE} pixels"
        )


def _check_file_size(size: int, name: str) -> None:
    if size == 0:
        raise ImageError(f"{name}: the file is empty; fetch or export it again")
    if size > MAX_FILE_BYTES:
        raise ImageError(f"{name}: {size} bytes, the limit is {MAX_FILE_BYTES}; convert it to a smaller file")


def _open_regular(path: str, name: str) -> IO[bytes]:
    """Open a regular file; O_NONBLOCK keeps a FIFO put there between the two checks from hanging the open."""
    if "\0" in path:
        raise ImageError(f"{name!r}: no such file, since a path cannot hold a NUL; check the path")
    try:
        _check_regular(os.stat(path).st_mode, name)  # noqa: PTH116  Path("") would be the current folder
        flags = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
        file = os.fdopen(os.open(path, flags), "rb")
    except OSError as error:
        raise ImageError(f"{name}: {_open_failure(error)}") from error
    try:
        status = os.fstat(file.fileno())
        _check_regular(status.st_mode, name)
        _check_file_size(status.st_size, name)
    except BaseException:
        file.close()
        raise
    return file


def _check_regular(mode: int, name: str) -> None:
    if stat.S_ISDIR(mode):
        raise ImageError(f"{name}: a folder, not a picture; name the pictures in it")
    if not stat.S_ISREG(mode):
        raise ImageError(f"{name}: not a regular file; copy the picture to a file first")


def _open_failure(error: OSError) -> str:
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return "no such file; check the path"
    if error.errno in (errno.EACCES, errno.EPERM):
        return "no permission to read it; check the file's mode and owner"
    return f"cannot be opened ({error.strerror or error}); check the path"


def pixel_limit(given: int | None = None) -> int:
    """The limit on an image's pixels: as given, else from MEON_MAX_PIXELS, else 512 million."""
    text = os.environ.get(MAX_PIXELS_VARIABLE, "")
    if given is None and not text:
        return DEFAULT_MAX_PIXELS
    try:
        limit = int(text if given is None else given)
    except ValueError:
        limit = 0
    if limit <= 0:
        where = MAX_PIXELS_VARIABLE if given is None else "max_pixels"
        raise ValueError(f"{where} must be a positive whole number of pixels")
    return limit
