"""Decoding picture files and PIL images to uint8 RGB through Pillow; the rules stand in ``meon_ext.images``."""

from __future__ import annotations

import contextlib
import importlib
import struct
import threading
from collections.abc import Callable, Iterator
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from meon_ext.errors import ImageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Only formats that a magic number identifies. Pillow also opens EPS (by running Ghostscript) and TGA (by guessing),
# neither of which a file from a stranger should reach.
_PLAIN_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "PPM")
# By how a file starts.
_COMMON_PLUGINS = {
    b"\x89PNG\r\n\x1a\n": ("PNG", "PngImagePlugin"),
    b"\xff\xd8\xff": ("JPEG", "JpegImagePlugin"),
}
_PLUGIN_FORMATS = {
    "WEBP": "WebPImagePlugin",
    "TIFF": "TiffImagePlugin",
    "JPEG2000": "Jpeg2KImagePlugin",
    "AVIF": "AvifImagePlugin",
    "QOI": "QoiImagePlugin",
    "SGI": "SgiImagePlugin",
}
# Known to Pillow only after the caller registered a plugin for them (pillow-heif, pillow-jxl-plugin).
_FOREIGN_FORMATS = ("HEIF", "JXL")

# A strip's bytes stay below glibc's default mmap threshold (128 KiB): larger ones are mapped and faulted in anew for
# every strip, which made the copy out of Pillow 2.5 times slower.
_STRIP_BYTES = 96 * 1024
# A strip that is turned by 90 degrees becomes a block of columns, which wants more rows to write long runs.
_TURNED_STRIP_ROWS = 128

_ORIENTATIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ALPHA_MODES = frozenset({"LA", "PA", "RGBA", "RGBa"})
_KEYED_MODES = frozenset({"1", "L", "P", "RGB"})  # modes in which one colour (or palette entry) may be transparent
_SIXTEEN_BIT_MODES = frozenset({"I;16", "I;16L", "I;16B", "I;16N"})
# A PNG gives its transparent grey in the file's own depth, Pillow the pixels in 0..255.
_PNG_GREY_SCALE = {"1": 255, "L;2": 85, "L;4": 17}
_TIFF_TILE_WIDTH, _TIFF_TILE_LENGTH = 322, 323
_SCALED_KEY = "_meon_ext_transparent_key"

_bomb_lock = threading.Lock()
_bomb_depth = 0
_bomb_before: int | None = None


@contextlib.contextmanager
def pillow_limit(max_pixels: int) -> Iterator[None]:
    """Lift Pillow's process-wide pixel limit to ours while any thread decodes, and put it back after the last one."""
    global _bomb_depth, _bomb_before
    with _bomb_lock:
        if _bomb_depth == 0:
            _bomb_before = Image.MAX_IMAGE_PIXELS
        _bomb_depth += 1
        if Image.MAX_IMAGE_PIXELS is not None:
            Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, max_pixels)
    try:
        yield
    finally:
        with _bomb_lock:
            _bomb_depth -= 1
            if _bomb_depth == 0:
                Image.MAX_IMAGE_PIXELS = _bomb_before


@contextlib.contextmanager
def _guarded(name: str, max_pixels: int) -> Iterator[None]:
    """Under our own pixel limit, turn whatever Pillow raises on a bad file into an ImageError that names it."""
    try:
        with pillow_limit(max_pixels):
            yield
    except ImageError:
        raise
    except MemoryError as error:
        raise ImageError(f"{name}: not enough memory to decode it; scale the picture down first") from error
    except Image.DecompressionBombError as error:
        raise _too_many_pixels(name, "the picture or a part of it", max_pixels) from error
    except UnidentifiedImageError as error:
        raise ImageError(f"{name}: not a picture in a known format; {_known_formats()}") from error
    except Exception as error:  # decoders raise OSError, SyntaxError, struct.error, ValueError, KeyError, ...
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"{name}: damaged or cut short ({reason}); fetch or export the file again") from error


def _known_formats() -> str:
    return "save it as PNG, JPEG, WebP, TIFF, JPEG 2000, AVIF, GIF, BMP, PPM, QOI or SGI"


def open_file(file: IO[bytes], name: str, max_pixels: int) -> Image.Image:
    """Read the header only. Raises ImageError if it is no picture or has more than ``max_pixels`` pixels."""
    with _guarded(name, max_pixels):
        image = _open_common(file) or _open_any(file)
    check_pixels(image.width, image.height, name, max_pixels)
    if tile := _tiff_tile(image):
        # The decoder holds a tile whole, and a tile may be larger than the picture.
        check_pixels(*tile, f"{name}: a tile of it", max_pixels)
    return image


def tile_pixels(image: Image.Image) -> int:
    """How many pixels the decoder of an open image holds beside the picture; 0 for formats without tiles."""
    width, height = _tiff_tile(image) or (0, 0)
    return width * height


def _tiff_tile(image: Image.Image) -> tuple[int, int] | None:
    tags = getattr(image, "tag_v2", None)
    try:
        return int(tags[_TIFF_TILE_WIDTH]), int(tags[_TIFF_TILE_LENGTH])  # type: ignore[index]
    except (KeyError, TypeError, ValueError):  # no TIFF, or one of strips
        return None


def _open_common(file: IO[bytes]) -> Image.Image | None:
    """A PNG or JPEG through its own plugin: Image.open imports four others first, which takes milliseconds."""
    start = file.read(max(map(len, _COMMON_PLUGINS)))
    file.seek(0)
    for magic, (format, module) in _COMMON_PLUGINS.items():
        if start.startswith(magic):
            importlib.import_module(f"PIL.{module}")
            # What Image.open takes for "not this format" is left to it to report.
            with contextlib.suppress(SyntaxError, IndexError, TypeError, struct.error):
                image: Image.Image = Image.OPEN[format][0](file, "")
                return image
    return None


def _open_any(file: IO[bytes]) -> Image.Image:
    try:
        return Image.open(file, formats=_PLAIN_FORMATS)
    except UnidentifiedImageError:
        # Image.open would now import all of Pillow's plugins, which takes longer than scoring a photograph.
        return Image.open(file, formats=_further_formats())


def _further_formats() -> tuple[str, ...]:
    for module in _PLUGIN_FORMATS.values():
        with contextlib.suppress(ImportError):
            importlib.import_module(f"PIL.{module}")
    return tuple(name for name in (*_PLUGIN_FORMATS, *_FOREIGN_FORMATS) if name in Image.OPEN)


def check_pixels(width: int, height: int, name: str, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise _too_many_pixels(name, f"{width} x {height}", max_pixels)


def _too_many_pixels(name: str, what: str, max_pixels: int) -> ImageError:
    return ImageError(
        f"{name}: {what} is more than the limit of {max_pixels} pixels; "
        "scale it down, or raise MEON_MAX_PIXELS if the picture is to be trusted"
    )


def decode(image: Image.Image, name: str, max_pixels: int) -> NDArray[np.uint8]:
    """All pixels of an opened image (its current frame), upright, as a new uint8 array (H, W, 3)."""
    with _guarded(name, max_pixels):
        key = _transparent_key(image)
        image.load()
        check_pixels(image.width, image.height, name, max_pixels)
        return _upright(image, _orientation(image), _converter(image, key, name))


def _transparent_key(image: Image.Image) -> Any:
    """The colour or palette entry that is transparent, in the scale of Pillow's pixels; None if there is none.

    To be asked before ``load``, which forgets the depth in a PNG file; a key that is scaled stays with the image, so
    that it may be asked again.
    """
    key = image.info.get("transparency")
    if image.format != "PNG" or key is None:
        return key
    if tile := getattr(image, "tile", None):
        raw_mode = tile[0][3]
        if isinstance(key, int) and raw_mode in _PNG_GREY_SCALE:
            key *= _PNG_GREY_SCALE[raw_mode]
        elif isinstance(key, tuple) and raw_mode == "RGB;16B":
            key = tuple(value >> 8 for value in key)
        setattr(image, _SCALED_KEY, key)
    return getattr(image, _SCALED_KEY, key)


def _orientation(image: Image.Image) -> int:
    """EXIF orientation 1 to 8. Metadata that cannot be read counts as none: the pixels are still good."""
    try:
        value = image.getexif().get(0x0112, 1)
    except Exception:  # any parser error
        return 1
    return value if isinstance(value, int) and value in _ORIENTATIONS else 1


def _upright(
    image: Image.Image, orientation: int, convert: Callable[[Image.Image], NDArray[np.uint8]]
) -> NDArray[np.uint8]:
    """Convert strip by strip, so that no second copy of the picture is needed."""
    width, height = image.size
    turned = orientation >= 5
    pixels = np.empty((width, height, 3) if turned else (height, width, 3), np.uint8)
    rows = _TURNED_STRIP_ROWS if turned else max(1, _STRIP_BYTES // (3 * width))
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        strip = image.crop((0, top, width, bottom))
        if orientation != 1:
            strip = strip.transpose(_ORIENTATIONS[orientation])
        first, last = (height - bottom, height - top) if orientation in (3, 4, 6, 7) else (top, bottom)
        target = pixels[:, first:last] if turned else pixels[first:last]
        target[...] = convert(strip)
    return pixels


def _converter(image: Image.Image, key: Any, name: str) -> Callable[[Image.Image], NDArray[np.uint8]]:
    """How a strip of this image becomes uint8 RGB, or something that broadcasts to it."""
    mode = image.mode
    if mode in _SIXTEEN_BIT_MODES:
        top, inverted = _sixteen_bit_range(image)
        return lambda strip: _from_sixteen_bit(np.asarray(strip), top, inverted, key)
    if mode == "I" and image.format in ("PNG", "PPM"):  # 16-bit files: PPM always, PNG before Pillow 10.4
        return lambda strip: _from_sixteen_bit(np.asarray(strip), 65535, False, key)
    if mode in ("I", "F"):
        kind = "32-bit integer" if mode == "I" else "floating-point"
        raise ImageError(f"{name}: {kind} pixels have no fixed white; save it with 8 or 16 bits a sample")
    if mode == "La":  # Pillow has no way from there to RGBA
        return lambda strip: over_white(np.asarray(strip.convert("LA").convert("RGBA")))
    if mode in _ALPHA_MODES or (mode == "P" and "A" in image.im.getpalettemode()):
        return lambda strip: over_white(np.asarray(strip.convert("RGBA")))
    if mode in _KEYED_MODES and key is not None:
        return lambda strip: over_white(_keyed(strip, key))
    if mode == "RGB":
        return lambda strip: np.asarray(strip)
    if mode == "L":
        return lambda strip: np.asarray(strip)[:, :, None]
    return lambda strip: np.asarray(strip.convert("RGB"))


def _keyed(strip: Image.Image, key: Any) -> NDArray[np.uint8]:
    strip.info["transparency"] = key
    return np.asarray(strip.convert("RGBA"))


def _sixteen_bit_range(image: Image.Image) -> tuple[int, bool]:
    """The value of white, and whether zero is white: Pillow leaves both as a TIFF file has them."""
    tags = getattr(image, "tag_v2", {}) if image.format == "TIFF" else {}
    bits = tags.get(258, (16,))
    inverted = tags.get(262, 1) == 0
    return (4095 if tuple(bits) == (12,) else 65535), inverted


def _from_sixteen_bit(values: NDArray[Any], top: int, inverted: bool, key: Any) -> NDArray[np.uint8]:
    wide = np.clip(values, 0, top).astype(np.uint32)
    grey = (wide * 255 + top // 2) // top
    if inverted:
        grey = 255 - grey
    if isinstance(key, int):
        grey = np.where(values == key, 255, grey)
    levels: NDArray[np.uint8] = grey.astype(np.uint8)
    return levels[:, :, None]


def over_white(rgba: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Straight alpha (..., 4) composited over white (..., 3), rounded to nearest."""
    alpha = rgba[..., 3:].astype(np.uint16)
    # At most 255 * 255 + 127, which still fits 16 bits.
    blended: NDArray[np.uint8] = ((rgba[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
    return blended
