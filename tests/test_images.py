"""Every rule of meon_ext.images, with pictures made here."""

from __future__ import annotations

import errno
import io
import os
import struct
import subprocess
import sys
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageCms

from meon_ext.errors import ImageError
from meon_ext.images import MAX_FILE_BYTES, load_image, open_image

SIDE = 256


def rgb(height: int = SIDE, width: int = SIDE, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def encoded(image: Image.Image, format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def png(pixels: NDArray[np.uint8]) -> bytes:
    return encoded(Image.fromarray(pixels), "PNG")


def raw_png(width: int, height: int, depth: int, colour: int, rows: bytes, transparency: bytes = b"") -> bytes:
    """A PNG of a kind Pillow does not write; rows hold their filter bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"tRNS", transparency) if transparency else b""]
    return b"\x89PNG\r\n\x1a\n" + b"".join([*parts, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")])


def raw_rows(samples: NDArray[Any]) -> bytes:
    """Unfiltered PNG rows of samples (H, W) or (H, W, C) of 8 or 16 bits."""
    big_endian = samples.astype(samples.dtype.newbyteorder(">"))
    return b"".join(b"\0" + row.tobytes() for row in big_endian)


# What may be handed in


def test_path_bytes_pil_and_array_agree(tmp_path: Path) -> None:
    pixels = rgb(300, 400)
    path = tmp_path / "a.png"
    path.write_bytes(png(pixels))
    for image in (path, str(path), path.read_bytes(), Image.open(path), pixels):
        loaded = load_image(image)
        np.testing.assert_array_equal(loaded.pixels, pixels)
        assert loaded.pixels.dtype == np.uint8
        assert loaded.pixels.flags.c_contiguous
        assert (loaded.width, loaded.height, loaded.padded) == (400, 300, False)


def test_name_defaults_to_path_and_can_be_given(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png(rgb()))
    assert load_image(path).name == str(path)
    assert load_image(Image.open(path)).name == str(path)
    assert load_image(rgb()).name == "<array>"
    assert load_image(path, name="other").name == "other"


def test_array_is_not_copied_when_it_need_not_be() -> None:
    pixels = rgb()
    assert load_image(pixels).pixels is pixels
    flipped = pixels[:, ::-1]
    np.testing.assert_array_equal(load_image(flipped).pixels, flipped)


@pytest.mark.parametrize("shape", [(SIDE, SIDE), (SIDE, SIDE, 1)])
def test_grey_array_is_replicated(shape: tuple[int, ...]) -> None:
    grey = rgb()[..., 0]
    np.testing.assert_array_equal(load_image(grey.reshape(shape)).pixels, np.stack([grey] * 3, axis=-1))


def over_white(colour: NDArray[Any], alpha: NDArray[Any]) -> NDArray[np.uint8]:
    a = alpha.astype(np.float64)[..., None] / 255
    return np.floor(colour * a + 255 * (1 - a) + 0.5).astype(np.uint8)


def test_rgba_array_is_composited_over_white() -> None:
    colour, alpha = rgb(seed=1), rgb(seed=2)[..., 0]
    loaded = load_image(np.dstack([colour, alpha]))
    np.testing.assert_array_equal(loaded.pixels, over_white(colour, alpha))


@pytest.mark.parametrize("shape", [(3, SIDE, SIDE), (SIDE, SIDE, 2), (SIDE,), (1, SIDE, SIDE, 3)])
def test_array_of_wrong_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ImageError, match="shape"):
        load_image(np.zeros(shape, np.uint8))


def test_channels_first_array_is_named_as_such() -> None:
    with pytest.raises(ImageError, match=r"transpose\(1, 2, 0\)"):
        load_image(np.zeros((3, SIDE, SIDE), np.uint8))


def test_empty_array() -> None:
    with pytest.raises(ImageError, match="no pixels"):
        load_image(np.zeros((0, SIDE, 3), np.uint8))


@pytest.mark.parametrize("dtype", [np.int64, np.int8, np.bool_, np.uint32, np.complex64])
def test_array_of_other_type(dtype: Any) -> None:
    with pytest.raises(ImageError, match="uint8"):
        load_image(np.zeros((SIDE, SIDE, 3), dtype), data_range=255)


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_data_range_is_required(dtype: Any) -> None:
    with pytest.raises(ImageError, match="data_range"):
        load_image(np.zeros((SIDE, SIDE, 3), dtype))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("data_range", [1.0, 255])
def test_float_array(dtype: Any, data_range: float) -> None:
    pixels = rgb()
    floats = (pixels * (data_range / 255)).astype(dtype)
    np.testing.assert_array_equal(load_image(floats, data_range=data_range).pixels, pixels)


def test_float_array_rounds_to_nearest() -> None:
    levels = np.full((SIDE, SIDE), 0.5 + 7, np.float64)
    levels[0, :4] = [7.4, 7.6, -0.4, 255.4]
    assert load_image(levels, data_range=255).pixels[0, :4, 0].tolist() == [7, 8, 0, 255]


@pytest.mark.parametrize("value", [-0.01, 1.01, np.nan, np.inf])
def test_float_array_outside_its_range(value: float) -> None:
    floats = np.zeros((SIDE, SIDE, 3), np.float32)
    floats[3, 4, 1] = value
    with pytest.raises(ImageError, match=r"outside 0\.\.1"):
        load_image(floats, data_range=1)


@pytest.mark.parametrize("data_range", [0, -1, float("nan"), float("inf")])
def test_senseless_data_range(data_range: float) -> None:
    with pytest.raises(ImageError, match="positive number"):
        load_image(np.zeros((SIDE, SIDE, 3), np.float32), data_range=data_range)


def test_sixteen_bit_array() -> None:
    values = np.arange(SIDE * SIDE, dtype=np.uint16).reshape(SIDE, SIDE)
    expected = np.floor(np.arange(SIDE * SIDE) / 257 + 0.5).reshape(SIDE, SIDE)
    np.testing.assert_array_equal(load_image(values, data_range=65535).pixels[..., 2], expected)


def test_data_range_that_contradicts_uint8() -> None:
    np.testing.assert_array_equal(load_image(rgb(), data_range=255).pixels, rgb())
    with pytest.raises(ImageError, match="leave data_range out"):
        load_image(rgb(), data_range=1.0)


def test_other_object() -> None:
    with pytest.raises(TypeError, match="not list"):
        load_image([1, 2, 3])  # type: ignore[arg-type]


def test_tensors() -> None:
    torch = pytest.importorskip("torch")
    pixels = rgb(256, 300)
    tensor = torch.from_numpy(pixels.transpose(2, 0, 1).copy())
    for image, data_range in (
        (tensor, None),
        (tensor.contiguous(memory_format=torch.contiguous_format).permute(0, 1, 2), None),
        (tensor.float() / 255, 1.0),
        (tensor.double(), 255),
        (tensor.to(torch.bfloat16), 255),
        ((tensor.float() / 255).requires_grad_(), 1.0),
    ):
        loaded = load_image(image, data_range=data_range)
        np.testing.assert_array_equal(loaded.pixels, pixels)
        assert loaded.pixels.flags.c_contiguous
    np.testing.assert_array_equal(load_image(tensor[:1]).pixels, pixels[..., :1].repeat(3, axis=2))
    np.testing.assert_array_equal(load_image(tensor[0]).pixels, pixels[..., :1].repeat(3, axis=2))
    with pytest.raises(ImageError, match=r"permute\(2, 0, 1\)"):
        load_image(torch.from_numpy(pixels))
    with pytest.raises(ImageError, match="data_range"):
        load_image(tensor.float())
    with pytest.raises(ImageError, match="one image"):
        load_image(tensor[None, None])


# Modes of files


@pytest.mark.parametrize(
    ("format", "options"),
    [
        ("PNG", {}),
        ("BMP", {}),
        ("PPM", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("WEBP", {"lossless": True}),
        ("JPEG2000", {}),
        ("SGI", {}),
    ],
)
def test_lossless_formats(format: str, options: dict[str, Any]) -> None:
    pixels = rgb(260, 300)
    np.testing.assert_array_equal(load_image(encoded(Image.fromarray(pixels), format, **options)).pixels, pixels)


def test_qoi() -> None:
    pixels = rgb(260, 300)
    literal = np.dstack([np.full((260, 300), 0xFE, np.uint8), pixels])  # every pixel as QOI_OP_RGB
    data = b"qoif" + struct.pack(">IIBB", 300, 260, 3, 0) + literal.tobytes() + bytes(7) + b"\1"
    np.testing.assert_array_equal(load_image(data).pixels, pixels)


def test_jpeg_and_the_first_frame_of_animations() -> None:
    ramp = np.linspace(0, 255, 300).astype(np.uint8)
    smooth = np.ascontiguousarray(np.broadcast_to(ramp[None, :, None], (260, 300, 3)))
    jpeg = load_image(encoded(Image.fromarray(smooth), "JPEG", quality=95)).pixels
    assert np.abs(jpeg.astype(int) - smooth).max() <= 4
    first, second = Image.new("RGB", (SIDE, SIDE), (255, 0, 0)), Image.new("RGB", (SIDE, SIDE), (0, 0, 255))
    for format in ("GIF", "PNG", "WEBP", "TIFF", "MPO"):
        options = {"lossless": True} if format == "WEBP" else {}
        data = encoded(first, format, save_all=True, append_images=[second], **options)
        frame = load_image(data).pixels.astype(int)
        assert np.abs(frame - [255, 0, 0]).max() <= 2, format


def test_pil_image_gives_its_current_frame() -> None:
    first, second = Image.new("RGB", (SIDE, SIDE), (255, 0, 0)), Image.new("RGB", (SIDE, SIDE), (0, 0, 255))
    image = Image.open(io.BytesIO(encoded(first, "TIFF", save_all=True, append_images=[second])))
    image.seek(1)
    assert (load_image(image).pixels == [0, 0, 255]).all()


def test_grey_and_one_bit_files() -> None:
    grey = rgb()[..., 0]
    np.testing.assert_array_equal(load_image(png(grey)).pixels, np.dstack([grey] * 3))
    bits = grey > 127
    one_bit = encoded(Image.fromarray(bits), "PNG")
    assert Image.open(io.BytesIO(one_bit)).mode == "1"
    np.testing.assert_array_equal(load_image(one_bit).pixels, np.dstack([bits * np.uint8(255)] * 3))


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_alpha_files_are_composited_over_white(mode: str) -> None:
    colour, alpha = rgb(seed=1), rgb(seed=2)[..., 0]
    if mode == "LA":
        colour = np.repeat(colour[..., :1], 3, axis=2)
    image = Image.fromarray(colour).convert(mode)
    image.putalpha(Image.fromarray(alpha))
    assert image.mode == mode
    for given_image in (encoded(image, "PNG"), image):
        np.testing.assert_array_equal(load_image(given_image).pixels, over_white(colour, alpha))


@pytest.mark.parametrize("mode", ["La", "RGBa", "PA"])
def test_odd_alpha_modes(mode: str) -> None:
    image = Image.new("RGBA", (SIDE, SIDE), (100, 100, 100, 128))
    if mode == "La":
        image = image.convert("LA").convert("La")
    elif mode == "RGBa":
        image = image.convert("RGBa")
    else:
        image = Image.new("P", (SIDE, SIDE))
        image.putpalette([100] * 3)
        image = image.convert("PA")
        image.putalpha(Image.new("L", (SIDE, SIDE), 128))
    assert image.mode == mode
    pixels = load_image(image).pixels.astype(int)
    assert np.abs(pixels - (100 * 128 + 255 * 127) / 255).max() <= 2


def test_palette() -> None:
    image = Image.new("P", (SIDE, SIDE))
    image.putpalette([10, 20, 30, 200, 100, 50, 1, 2, 3])
    image.paste(1, (0, 0, 100, SIDE))
    expected = np.full((SIDE, SIDE, 3), [10, 20, 30], np.uint8)
    expected[:, :100] = [200, 100, 50]
    for format in ("PNG", "GIF", "TIFF"):
        np.testing.assert_array_equal(load_image(encoded(image, format)).pixels, expected)
    expected[:, :100] = 255
    for format in ("PNG", "GIF"):
        keyed = load_image(encoded(image, format, transparency=1)).pixels
        np.testing.assert_array_equal(keyed, expected)
    partial = load_image(encoded(image, "PNG", transparency=bytes([255, 51]))).pixels
    np.testing.assert_array_equal(partial[0, 0], np.rint(255 * 0.8 + np.array([200, 100, 50]) * 0.2))
    np.testing.assert_array_equal(partial[0, 200], [10, 20, 30])


def test_palette_with_alpha_of_its_own() -> None:
    image = Image.new("P", (SIDE, SIDE))
    image.putpalette([10, 20, 30, 255, 0, 0, 0, 0], "RGBA")
    image.paste(1, (0, 0, 100, SIDE))
    pixels = load_image(image).pixels
    assert pixels[0, 0].tolist() == [255, 255, 255]
    assert pixels[0, 200].tolist() == [10, 20, 30]


@pytest.mark.parametrize(("depth", "key"), [(1, 1), (2, 2), (4, 9), (8, 77)])
def test_transparent_grey_of_every_depth(depth: int, key: int) -> None:
    top = (1 << depth) - 1
    values = np.arange(SIDE * SIDE).reshape(SIDE, SIDE) % (top + 1)
    bits = (values[..., None] >> np.arange(depth)[::-1]) & 1
    rows = b"".join(b"\0" + np.packbits(row.reshape(-1)).tobytes() for row in bits.astype(np.uint8))
    pixels = load_image(raw_png(SIDE, SIDE, depth, 0, rows, struct.pack(">H", key))).pixels
    grey = values * (255 // top)
    np.testing.assert_array_equal(pixels[..., 1], np.where(values == key, 255, grey))
    with Image.open(io.BytesIO(raw_png(SIDE, SIDE, depth, 0, rows, struct.pack(">H", key)))) as image:
        for _ in range(2):  # the first time the file's depth is forgotten
            np.testing.assert_array_equal(load_image(image).pixels, pixels)


def test_transparent_colour() -> None:
    pixels = rgb() // 64
    data = raw_png(SIDE, SIDE, 8, 2, raw_rows(pixels), struct.pack(">HHH", 1, 2, 3))
    hit = (pixels == [1, 2, 3]).all(axis=-1)
    assert hit.any()
    np.testing.assert_array_equal(load_image(data).pixels, np.where(hit[..., None], 255, pixels))


def test_sixteen_bit_grey() -> None:
    values = np.arange(SIDE * SIDE, dtype=np.uint16).reshape(SIDE, SIDE)
    expected = np.dstack([np.floor(values / 257 + 0.5)] * 3)
    for data in (
        raw_png(SIDE, SIDE, 16, 0, raw_rows(values)),
        encoded(Image.fromarray(values), "TIFF"),
        encoded(Image.fromarray(values), "TIFF", compression="tiff_deflate"),
        b"P5 256 256 65535 " + values.astype(">u2").tobytes(),
    ):
        np.testing.assert_array_equal(load_image(data).pixels, expected)
    np.testing.assert_array_equal(load_image(Image.fromarray(values)).pixels, expected)
    keyed = load_image(raw_png(SIDE, SIDE, 16, 0, raw_rows(values), struct.pack(">H", 30000))).pixels
    np.testing.assert_array_equal(keyed, np.where((values == 30000)[..., None], 255, expected))


def tiff(values: NDArray[np.uint16], bits: int, photometric: int) -> bytes:
    """A little-endian grey TIFF of one strip; 12-bit samples are packed, high bits first."""
    if bits == 12:
        flat = values.reshape(-1, 2).astype(np.uint32)
        data = (
            np.stack([flat[:, 0] >> 4, (flat[:, 0] & 15) << 4 | flat[:, 1] >> 8, flat[:, 1] & 255], axis=1)
            .astype(np.uint8)
            .tobytes()
        )
    else:
        data = values.astype("<u2").tobytes()
    entries = [
        (256, values.shape[1]),
        (257, values.shape[0]),
        (258, bits),
        (259, 1),
        (262, photometric),
        (273, 8),
        (277, 1),
        (278, values.shape[0]),
        (279, len(data)),
    ]
    directory = struct.pack("<H", len(entries)) + b"".join(
        struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries
    )
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + directory + struct.pack("<I", 0)


def test_a_tile_counts_for_what_it_holds() -> None:
    """Larger than the picture it belongs to: the decoder holds it whole."""
    tile = zlib.compress(bytes(5000 * 4000), 1)
    entries = [(256, 64), (257, 64), (258, 8), (259, 8), (262, 1), (277, 1), (322, 5000), (323, 4000), (324, 8)]
    entries.append((325, len(tile)))
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", tag, 4, 1, v) for tag, v in entries)
    tiled = b"II*\0" + struct.pack("<I", 8 + len(tile)) + tile + directory + struct.pack("<I", 0)
    assert (load_image(tiled).pixels == 0).all()
    with pytest.raises(ImageError, match="a tile of it: 5000 x 4000 is more than the limit of 1000000"):
        load_image(tiled, max_pixels=1_000_000)
    assert open_image(tiled, max_pixels=20_000_000).pixels == 20_000_000


@pytest.mark.parametrize("shape", [(32, 5000), (5000, 32)])
def test_a_narrow_picture_counts_as_it_is_continued(shape: tuple[int, int]) -> None:
    pixels = rgb(*shape)
    for picture in (pixels, png(pixels), Image.fromarray(pixels)):
        with pytest.raises(ImageError, match="continued to 256 pixels on the shorter side, is more than the limit of"):
            load_image(picture, max_pixels=256 * 5000 - 1)
        assert load_image(picture, max_pixels=256 * 5000).pixels.size == 3 * 256 * 5000
    assert open_image(png(pixels)).pixels == 256 * 5000


def test_no_memory_for_the_continued_picture_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise MemoryError

    pending = open_image(png(rgb(40, 300)))
    monkeypatch.setattr(np, "ascontiguousarray", none)
    with pytest.raises(ImageError, match="not enough memory to continue it to 256"):
        pending.decode()


def test_twelve_bit_and_inverted_tiff() -> None:
    values = (np.arange(SIDE * SIDE).reshape(SIDE, SIDE) % 4096).astype(np.uint16)
    expected = np.floor(values / 4095 * 255 + 0.5)
    np.testing.assert_array_equal(load_image(tiff(values, 12, 1)).pixels[..., 0], expected)
    full = np.arange(SIDE * SIDE, dtype=np.uint16).reshape(SIDE, SIDE)
    inverted = load_image(tiff(full, 16, 0)).pixels[..., 0]
    np.testing.assert_array_equal(inverted, 255 - np.floor(full / 257 + 0.5))


@pytest.mark.parametrize("channels", [3, 4])
def test_sixteen_bit_colour_keeps_the_upper_byte(channels: int) -> None:
    values = np.random.default_rng(3).integers(0, 65536, (SIDE, SIDE, channels)).astype(np.uint16)
    values[..., 3:] = 65535
    pixels = load_image(raw_png(SIDE, SIDE, 16, 2 if channels == 3 else 6, raw_rows(values))).pixels
    np.testing.assert_array_equal(pixels, values[..., :3] >> 8)
    assert np.abs(pixels - values[..., :3] / 257).max() < 1


def test_sixteen_bit_transparent_colour() -> None:
    values = np.full((SIDE, SIDE, 3), 0x1234, np.uint16)
    values[:, 100:] = 0x8765
    key = struct.pack(">HHH", 0x8765, 0x8765, 0x8765)
    pixels = load_image(raw_png(SIDE, SIDE, 16, 2, raw_rows(values), key)).pixels
    assert (pixels[:, :100] == 0x12).all()
    assert (pixels[:, 100:] == 255).all()
    with Image.open(io.BytesIO(raw_png(SIDE, SIDE, 16, 2, raw_rows(values), key))) as image:
        for _ in range(2):
            np.testing.assert_array_equal(load_image(image).pixels, pixels)


@pytest.mark.parametrize("mode", ["I", "F"])
def test_pixels_without_a_fixed_white_are_refused(mode: str) -> None:
    image = Image.new(mode, (SIDE, SIDE))
    with pytest.raises(ImageError, match="no fixed white"):
        load_image(image)
    with pytest.raises(ImageError, match="no fixed white"):
        load_image(encoded(image, "TIFF"))


def test_cmyk_and_ycbcr() -> None:
    cmyk = Image.new("CMYK", (SIDE, SIDE), (0, 255, 255, 0))
    assert np.abs(load_image(cmyk).pixels.astype(int) - [255, 0, 0]).max() == 0
    assert np.abs(load_image(encoded(cmyk, "TIFF")).pixels.astype(int) - [255, 0, 0]).max() == 0
    jpeg = encoded(cmyk, "JPEG", quality=95)
    assert Image.open(io.BytesIO(jpeg)).mode == "CMYK"
    assert np.abs(load_image(jpeg).pixels.astype(int) - [255, 0, 0]).max() <= 3
    ycbcr = Image.fromarray(rgb()).convert("YCbCr")
    np.testing.assert_array_equal(load_image(ycbcr).pixels, np.asarray(ycbcr.convert("RGB")))


def test_hsv_and_lab() -> None:
    hsv = Image.fromarray(rgb()).convert("HSV")
    np.testing.assert_array_equal(load_image(hsv).pixels, np.asarray(hsv.convert("RGB")))
    white = Image.merge("LAB", [Image.new("L", (SIDE, SIDE), level) for level in (255, 128, 128)])
    assert load_image(white).pixels.min() >= 250


def test_icc_profile_is_ignored() -> None:
    pixels = rgb()
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()
    data = encoded(Image.fromarray(pixels), "PNG", icc_profile=profile)
    assert Image.open(io.BytesIO(data)).info["icc_profile"] == profile
    np.testing.assert_array_equal(load_image(data).pixels, pixels)


# Orientation


UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP"])
def test_exif_orientation(orientation: int, format: str) -> None:
    pixels = rgb(300, 420)  # several strips either way
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if format == "WEBP" else {}
    data = encoded(Image.fromarray(pixels), format, exif=exif, **options)
    loaded = load_image(data)
    np.testing.assert_array_equal(loaded.pixels, UPRIGHT[orientation](pixels))
    assert (loaded.height, loaded.width) == loaded.pixels.shape[:2]
    np.testing.assert_array_equal(load_image(Image.open(io.BytesIO(data))).pixels, loaded.pixels)


@pytest.mark.parametrize("orientation", range(2, 9))
def test_orientation_of_other_modes(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    grey = rgb(300, 420)[..., 0]
    loaded = load_image(encoded(Image.fromarray(grey), "PNG", exif=exif))
    np.testing.assert_array_equal(loaded.pixels, UPRIGHT[orientation](np.dstack([grey] * 3)))
    rgba = np.dstack([rgb(300, 420, 1), rgb(300, 420, 2)[..., :1]])
    loaded = load_image(encoded(Image.fromarray(rgba), "PNG", exif=exif))
    np.testing.assert_array_equal(loaded.pixels, UPRIGHT[orientation](over_white(rgba[..., :3], rgba[..., 3])))


@pytest.mark.parametrize("orientation", [0, 9, 77])
def test_senseless_orientation_counts_as_none(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    np.testing.assert_array_equal(load_image(encoded(Image.fromarray(rgb()), "PNG", exif=exif)).pixels, rgb())


def test_unreadable_exif_counts_as_none() -> None:
    data = encoded(Image.fromarray(rgb()), "PNG", exif=b"Exif\0\0nonsense, not a TIFF header")
    np.testing.assert_array_equal(load_image(data).pixels, rgb())


# Size


@pytest.mark.parametrize(
    ("height", "width"), [(32, 32), (33, 300), (300, 129), (255, 256), (257, 255), (130, 40), (128, 255)]
)
def test_small_pictures_are_mirrored(height: int, width: int) -> None:
    pixels = rgb(height, width)
    loaded = load_image(pixels)
    grow = [(0, max(0, SIDE - height)), (0, max(0, SIDE - width)), (0, 0)]
    np.testing.assert_array_equal(loaded.pixels, np.pad(pixels, grow, mode="reflect"))
    assert loaded.padded
    assert (loaded.width, loaded.height) == (width, height)
    assert loaded.pixels.flags.c_contiguous


@pytest.mark.parametrize(("height", "width"), [(31, 400), (400, 31), (1, 1)])
def test_too_small(height: int, width: int) -> None:
    pixels = rgb(height, width)
    for image in (pixels, png(pixels), Image.fromarray(pixels)):
        with pytest.raises(ImageError, match="at least 32"):
            load_image(image)


def test_pixel_limit_comes_before_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    # The header promises 60000 x 60000 pixels and there is no data at all: decoding would fail, or take 14 GB.
    bomb = raw_png(60000, 60000, 8, 2, b"")
    with pytest.raises(ImageError, match="limit of 512000000"):
        load_image(bomb)
    # Below Pillow's own limit, ours alone is there.
    with pytest.raises(ImageError, match="300 x 300 is more than the limit of 89999"):
        load_image(raw_png(300, 300, 8, 2, b""), max_pixels=89999)
    with pytest.raises(ImageError, match="limit of 89999"):
        load_image(rgb(300, 300), max_pixels=89999)
    assert load_image(png(rgb(300, 300)), max_pixels=90000).width == 300
    monkeypatch.setenv("MEON_MAX_PIXELS", "89999")
    for image in (png(rgb(300, 300)), Image.fromarray(rgb(300, 300)), rgb(300, 300)):
        with pytest.raises(ImageError, match="MEON_MAX_PIXELS"):
            load_image(image)
    monkeypatch.setenv("MEON_MAX_PIXELS", "many")
    with pytest.raises(ValueError, match="MEON_MAX_PIXELS"):
        load_image(rgb())


def test_a_picture_that_grows_while_it_is_decoded() -> None:
    """Some plugins know the true size only then."""

    class Growing(Image.Image):
        def load(self) -> Any:
            if self.size == (SIDE, SIDE):
                self.im, self._size = Image.new("RGB", (2 * SIDE, SIDE)).im, (2 * SIDE, SIDE)
            return super().load()

    picture = Growing()
    picture.im, picture._mode, picture._size = Image.new("RGB", (SIDE, SIDE)).im, "RGB", (SIDE, SIDE)
    with pytest.raises(ImageError, match=f"{2 * SIDE} x {SIDE} is more than the limit"):
        load_image(picture, max_pixels=SIDE * SIDE)


def test_pillows_own_limit_is_lifted_and_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    data = png(rgb())
    assert load_image(data).width == SIDE
    assert Image.MAX_IMAGE_PIXELS == 1000
    with pytest.raises(ImageError):
        load_image(data[:1000])
    assert Image.MAX_IMAGE_PIXELS == 1000


def test_pillows_limit_is_put_back_after_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    data = png(rgb())
    failures: list[Exception] = []

    def work() -> None:
        try:
            for _ in range(20):
                load_image(data)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert Image.MAX_IMAGE_PIXELS == 1000


def test_open_image_reads_the_header_only() -> None:
    data = png(rgb(300, 400))
    pending = open_image(data[:200])  # the header is whole, the pixels are cut
    assert pending.pixels == 300 * 400
    with pytest.raises(ImageError):
        pending.decode()


# Hostile input


def test_missing_folder_and_unreadable(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"gone\.png: no such file"):
        load_image(tmp_path / "gone.png")
    with pytest.raises(ImageError, match="a folder"):
        load_image(tmp_path)
    with pytest.raises(ImageError, match="no such file"):
        load_image("")
    with pytest.raises(ImageError, match="no such file"):
        load_image("a\0b.png")
    with pytest.raises(ImageError, match="cannot be opened"):
        load_image("a" * 5000)


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX modes")
def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png(rgb()))
    path.chmod(0)
    if os.geteuid() == 0:  # who may read every file

        def refused(*_: object) -> int:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))

        monkeypatch.setattr(os, "open", refused)
    with pytest.raises(ImageError, match="no permission"):
        load_image(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs FIFOs")
@pytest.mark.parametrize("swapped", [False, True])
def test_fifo_does_not_hang(swapped: bool, tmp_path: Path) -> None:
    """Not even one that takes a picture's place after it was looked at."""
    fifo = tmp_path / "a.png"
    os.mkfifo(fifo)
    code = f"from meon_ext.images import load_image; load_image({str(fifo)!r})"
    if swapped:
        code = f"import os, meon_ext.images; seen = os.stat({__file__!r}); os.stat = lambda path: seen; {code}"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=Path(__file__).parent
    )
    assert result.returncode == 1
    assert "not a regular file" in result.stderr


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="needs device files")
def test_device_is_refused() -> None:
    with pytest.raises(ImageError, match="not a regular file"):
        load_image("/dev/zero")


def test_large_file_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    with path.open("wb") as file:
        file.write(png(rgb()))
        file.truncate(MAX_FILE_BYTES + 1)
    with pytest.raises(ImageError, match="the limit is"):
        load_image(path)


@pytest.mark.parametrize(
    "data", [b"", b"\0", b"not a picture", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%!PS-Adobe-3.0 EPSF-3.0\n"]
)
def test_no_picture(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(data)
    for image in (data, path):
        with pytest.raises(ImageError, match=r"empty|not a picture") as caught:
            load_image(image)
    assert str(path) in str(caught.value)


def test_pillows_dangerous_formats_are_not_opened() -> None:
    # Decoding EPS would run Ghostscript; Pillow itself recognises this file.
    eps = encoded(Image.fromarray(rgb()), "EPS")
    assert Image.open(io.BytesIO(eps)).format == "EPS"
    with pytest.raises(ImageError, match="not a picture in a known format"):
        load_image(eps)
    tga = encoded(Image.fromarray(rgb()), "TGA")
    with pytest.raises(ImageError, match="not a picture in a known format"):
        load_image(tga)


FILES = {
    "png": png(rgb()),
    "jpeg": encoded(Image.fromarray(rgb()), "JPEG"),
    "webp": encoded(Image.fromarray(rgb()), "WEBP"),
    "tiff": encoded(Image.fromarray(rgb()), "TIFF", compression="tiff_lzw"),
    "jpeg2000": encoded(Image.fromarray(rgb()), "JPEG2000"),
    "gif": encoded(Image.fromarray(rgb()), "GIF"),
    "bmp": encoded(Image.fromarray(rgb()), "BMP"),
    "ppm": encoded(Image.fromarray(rgb()), "PPM"),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("kept", [0.05, 0.5, 0.9])
def test_truncated_files(kind: str, kept: float) -> None:
    data = FILES[kind]
    with pytest.raises(ImageError) as caught:
        load_image(data[: int(len(data) * kept)], name="cut")
    assert str(caught.value).startswith("cut: ")


@pytest.fixture(scope="module")
def quiet_decoders() -> Iterator[None]:
    """libtiff writes its complaints to the process's stderr, thousands of them here."""
    saved = os.dup(2)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    yield
    os.dup2(saved, 2)
    os.close(saved)
    os.close(null)


def loads_or_says_why(data: bytes) -> None:
    try:
        loaded = load_image(data, max_pixels=4_000_000)
    except ImageError:
        return
    assert loaded.pixels.dtype == np.uint8
    assert loaded.pixels.shape[2] == 3
    assert min(loaded.pixels.shape[:2]) >= SIDE


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("quiet_decoders")
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(sorted(FILES)),
    edits=st.lists(
        st.tuples(st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=8)), min_size=1, max_size=6
    ),
    head=st.booleans(),
)
def test_corrupt_files_load_or_raise_image_error(kind: str, edits: list[tuple[float, bytes]], head: bool) -> None:
    data = bytearray(FILES[kind])
    for place, change in edits:
        start = int(place * (200 if head else len(data)))
        data[start : start + len(change)] = change
    loads_or_says_why(bytes(data))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("quiet_decoders")
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    magic=st.sampled_from(
        [
            b"",
            b"\x89PNG\r\n\x1a\n",
            b"\xff\xd8\xff",
            b"GIF89a",
            b"BM",
            b"P6",
            b"RIFF\0\0\0\0WEBPVP8 ",
            b"II*\0",
            b"MM\0*",
            b"\0\0\0\x0cjP  \r\n\x87\n",
            b"\xff\x4f\xff\x51",
            b"qoif",
            b"\x01\xda",
            b"\0\0\0\x1cftypavif",
        ]
    ),
    rest=st.binary(max_size=400),
)
def test_random_bytes_load_or_raise_image_error(magic: bytes, rest: bytes) -> None:
    loads_or_says_why(magic + rest)


def test_memory_error_names_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Image.Image, "crop", fail)
    with pytest.raises(ImageError, match="big: not enough memory"):
        load_image(png(rgb()), name="big")


def test_importing_costs_neither_torch_nor_pillow() -> None:
    code = "import sys, meon_ext.images; print([m for m in ('torch', 'PIL') if m in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parent
    )
    assert result.stdout.strip() == "[]"
