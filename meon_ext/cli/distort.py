"""``meon distort``: a damaged copy of a picture, or a sheet of all kinds of damage."""

from __future__ import annotations

import argparse
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meon_ext.errors import MeonError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

# Formats that keep every pixel: what is saved is what was made.
_LOSSLESS: dict[str, dict[str, Any]] = {
    ".png": {},
    ".bmp": {},
    ".tif": {},
    ".tiff": {},
    ".ppm": {},
    ".webp": {"lossless": True},
}
_CELL = 160  # pixels a side of a picture on the sheet
_GAP = 4
_LABELS, _LABEL_LETTERS = 170, 26  # pixels and letters a line for the names of the types


def add_parser(commands: Any) -> None:
    """Add the command to those of ``meon``."""
    parser = commands.add_parser(
        "distort",
        help="damage a picture in a known way",
        description="Make a damaged copy of a picture, or a contact sheet of types and levels. --list tells the types; "
        "docs/distortions.md has more of them.",
    )
    parser.add_argument("image", nargs="?", metavar="IMAGE", help="the picture")
    parser.add_argument("--type", action="append", metavar="T", help="type of distortion; repeat it with --sheet")
    parser.add_argument("--level", type=int, metavar="L", help="1 (slight) to 5 (severe)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of what is random (default: 0)")
    parser.add_argument("-o", "--output", metavar="FILE", help=f"the file to write: {', '.join(_LOSSLESS)}")
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--sheet",
        action="store_true",
        help="draw the middle of the picture with every level of the types (all of them)",
    )
    what.add_argument("--list", action="store_true", help="list the types and their levels, and do nothing else")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Make or list; returns 0, or raises MeonError saying what is wrong."""
    if arguments.list:
        print(_list())
        return 0
    if arguments.image is None:
        raise MeonError("name a picture, or --list")
    output = _output(arguments.output, arguments.image)
    types = arguments.type or []
    if not arguments.sheet and (len(types) != 1 or arguments.level is None):
        raise MeonError("--type and --level are needed, once each; or --sheet")
    if arguments.sheet and arguments.level is not None:
        raise MeonError("--sheet draws all levels; leave out --level")
    from meon_ext.distortions import distort
    from meon_ext.images import load_image

    try:
        loaded = load_image(arguments.image)
    except ValueError as error:  # of the limit in the environment; a picture's own errors are both
        raise MeonError(str(error)) from error
    pixels = loaded.pixels[: loaded.height, : loaded.width]  # without what scoring adds to a small picture
    if arguments.sheet:
        _save(contact_sheet(pixels, types, arguments.seed), output)
    else:
        from PIL import Image

        _save(Image.fromarray(distort(pixels, types[0], arguments.level, seed=arguments.seed)), output)
    return 0


def _list() -> str:
    from meon_ext.distortions import TYPES, available

    rows = [("type", "", "parameter", "levels 1 to 5")]
    for name, described in TYPES.items():
        title = described.title if available(name) else f"{described.title} (not with this Pillow)"
        rows.append((name, title, described.parameter, "  ".join(f"{level:g}" for level in described.levels)))
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    return "\n".join(
        "  ".join((*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[3])) for row in rows
    )


def _output(name: str | None, image: str) -> Path:
    if name is None:
        raise MeonError("-o FILE is needed: the file to write")
    path = Path(name)
    if path.suffix.lower() not in _LOSSLESS:
        raise MeonError(f"{name}: name a file that keeps every pixel: {', '.join(_LOSSLESS)}")
    if path.exists() and Path(image).exists() and path.samefile(image):
        raise MeonError(f"{name}: is the picture itself; choose another file")
    return path


def _save(image: Image, path: Path) -> None:
    try:
        image.save(path, **_LOSSLESS[path.suffix.lower()])
    except OSError as error:
        raise MeonError(f"{path}: cannot be written ({error.strerror or error}); choose another place") from error
    except ValueError as error:  # more pixels than the format can hold
        raise MeonError(f"{path}: cannot be written ({error}); choose another format") from error


def contact_sheet(pixels: NDArray[np.uint8], types: list[str], seed: int) -> Image:
    """The middle of a picture, uint8 (H, W, 3), with a row for each type (all that can be made, where none is named).

    Where damage is scattered and has left the middle out, the part that has most of it is drawn instead.

    Raises DistortionError for a type that is unknown or that this Pillow cannot make.
    """
    from PIL import Image, ImageDraw

    from meon_ext.distortions import LEVELS, TYPES, available, distort

    names = types or [name for name in TYPES if available(name)]
    high, wide = (min(side, _CELL) for side in pixels.shape[:2])
    sheet = Image.new("RGB", (_LABELS + len(LEVELS) * (wide + _GAP) + _GAP, len(names) * (high + _GAP) + _GAP), "white")
    draw = ImageDraw.Draw(sheet)
    for row, name in enumerate(names):
        y = _GAP + row * (high + _GAP)
        parameter = textwrap.fill(TYPES[name].parameter if name in TYPES else "", _LABEL_LETTERS)
        draw.multiline_text((_GAP, y + high // 2 - 24), f"{name}\n{parameter}", "black")
        for column, level in enumerate(LEVELS):
            # The whole picture is damaged and cut afterwards: where damage lies, and how much, depends on its size.
            made = distort(pixels, name, level, seed=seed)
            top, left = _shown(pixels, made, high, wide)
            made = made[top : top + high, left : left + wide]
            x = _LABELS + column * (wide + _GAP)
            sheet.paste(Image.fromarray(made), (x, y))
            draw.text((x + 3, y + 3), f"{TYPES[name].levels[column]:g}", "black", stroke_width=2, stroke_fill="white")
    return sheet


def _shown(pixels: NDArray[np.uint8], made: NDArray[np.uint8], high: int, wide: int) -> tuple[int, int]:
    """Top and left of the part that the sheet draws: the middle, or where it has not half of its share of the squared
    error, the part that has most."""
    import numpy as np

    difference = made.astype(np.int32) - pixels
    error = np.einsum("hwc,hwc->hw", difference, difference)
    sums = np.pad(error.cumsum(axis=0, dtype=np.int64).cumsum(axis=1), ((1, 0), (1, 0)))
    parts = sums[high:, wide:] - sums[:-high, wide:] - sums[high:, :-wide] + sums[:-high, :-wide]
    middle = ((parts.shape[0] - 1) // 2, (parts.shape[1] - 1) // 2)
    if parts[middle] >= error.mean() * high * wide / 2:
        return middle
    top, left = np.unravel_index(parts.argmax(), parts.shape)
    return int(top), int(left)
