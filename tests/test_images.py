"""Tests reading image files of every kind that cameras and tools write, and files broken in every way."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import PHOTOS
from PIL import Image

import yolact
from yolact.data.images import ImageError


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    return Image.open(PHOTOS[1]).convert("RGB").resize((60, 80))


def write_kinds(photo: Image.Image, folder: Path) -> dict[str, Path]:
    """Writes a file of every kind and returns them by name. The C++ reader is tested with them too."""
    kinds = {
        "plain.png": photo,
        "plain.jpg": photo,
        "grey.png": photo.convert("L"),
        "grey.jpg": photo.convert("L"),
        "grey-alpha.png": photo.convert("LA"),
        "palette.png": photo.quantize(17),
        "palette2.png": photo.quantize(3),
        "bits.png": photo.convert("1"),
        "alpha.png": Image.merge("RGBA", (*photo.split(), photo.convert("L"))),
        "cmyk.jpg": photo.convert("CMYK"),
        "sixteen.png": Image.fromarray((np.asarray(photo.convert("L")).astype(np.uint16) * 257) ^ 0x00AA),
        "one.png": photo.resize((1, 1)),
        "one.jpg": photo.resize((1, 1)),
        "wide.jpg": photo.resize((301, 3)),
    }
    paths = {}
    for name, image in kinds.items():
        paths[name] = folder / name
        image.save(paths[name])
    for name, options in (
        ("progressive.jpg", {"progressive": True}),
        ("444.jpg", {"subsampling": 0, "quality": 95}),
        ("422.jpg", {"subsampling": 1}),
    ):
        paths[name] = folder / name
        photo.save(paths[name], **options)
    transparent = photo.quantize(9)
    transparent.info["transparency"] = bytes([0, 255, 128])
    paths["transparent-palette.png"] = folder / "transparent-palette.png"
    transparent.save(paths["transparent-palette.png"])
    for name, content in sixteen_bit_pngs().items():
        paths[name] = folder / name
        paths[name].write_bytes(content)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        for suffix in ("jpg", "png"):
            name = f"orientation{orientation}.{suffix}"
            paths[name] = folder / name
            photo.save(paths[name], exif=exif)
    return paths


def sixteen_bit_values(channels: int) -> np.ndarray:
    """Pixels [5, 7, channels] of 12 bits. Alpha, the last one of two or four channels, has larger values."""
    values = np.random.default_rng(0).integers(0, 4000, (5, 7, channels), dtype=np.uint16)
    if channels in (2, 4):
        values[:, :, -1] |= 0xF000
    return values


def sixteen_bit_pngs() -> dict[str, bytes]:
    """16-bit files of every kind: plain, with rows in the order of Adam7, and turned by EXIF."""
    files = {}
    for channels, name in enumerate(("grey", "grey-alpha", "rgb", "rgba"), 1):
        values = sixteen_bit_values(channels)
        files[f"sixteen-{name}.png"] = sixteen_bit_png(values)
        files[f"sixteen-{name}-interlaced.png"] = sixteen_bit_png(values, interlaced=True)
        for orientation in (3, 6):
            files[f"sixteen-{name}-{orientation}.png"] = sixteen_bit_png(values, orientation=orientation)
    files["sixteen-black.png"] = sixteen_bit_png(np.zeros((5, 7, 3), np.uint16))
    files["sixteen-white.png"] = sixteen_bit_png(np.full((5, 7, 1), 65535, np.uint16))
    return files


def sixteen_bit_png(values: np.ndarray, interlaced: bool = False, orientation: int = 1) -> bytes:
    """A file with the pixels [H, W, 1–4], written by hand, because Pillow cannot write all these kinds."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    adam7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
    passes = [values[y::down, x::across] for y, x, down, across in adam7] if interlaced else [values]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for part in passes if part.size for row in part)
    height, width, channels = values.shape
    header = struct.pack(">IIBBBBB", width, height, 16, (0, 4, 2, 6)[channels - 1], 0, 0, interlaced)
    exif = b"MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)
    content = ((b"IHDR", header), (b"eXIf", exif), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in content)


def broken_files(folder: Path) -> dict[str, tuple[Path, str]]:
    """Files that cannot be read, and a pattern for each message."""
    jpeg, png = io.BytesIO(), io.BytesIO()
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8))
    noise.save(jpeg, "JPEG")
    noise.save(png, "PNG")
    flipped = bytearray(png.getvalue())
    flipped[len(flipped) // 2] ^= 0xFF
    contents = {
        "truncated.jpg": (jpeg.getvalue()[: len(jpeg.getvalue()) // 2], "broken|truncated"),
        "truncated.png": (png.getvalue()[: len(png.getvalue()) // 2], "broken|truncated"),
        "header-only.jpg": (jpeg.getvalue()[:20], "broken|not an image"),
        "flipped.png": (bytes(flipped), "broken"),
        "text.png": (b"this is a text\n" * 20, "this is not an? (JPEG or PNG )?image"),
        "empty.jpg": (b"", "the file is empty"),
        "huge.png": (huge_png_header(), f"too large.*{2 * Image.MAX_IMAGE_PIXELS} pixels"),
    }
    files = {}
    for name, (content, message) in contents.items():
        path = folder / name
        path.write_bytes(content)
        files[name] = (path, message)
    files["missing.jpg"] = (folder / "missing.jpg", "there is no such file")
    return files


def huge_png_header() -> bytes:
    """Claims 100,000 × 100,000 pixels in a few bytes."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    data = b"IDAT" + zlib.compress(b"\0")
    return start + struct.pack(">I", len(data) - 4) + data + struct.pack(">I", zlib.crc32(data))


@pytest.mark.filterwarnings("error")
def test_every_kind_is_upright_rgb(photo, tmp_path):
    pixels = np.asarray(photo)
    for name, path in write_kinds(photo, tmp_path).items():
        actual = yolact.read_image(path)
        assert actual.dtype == torch.uint8, name
        assert actual.shape[2] == 3, name
        if name.startswith(("one", "wide", "sixteen", "orientation")):
            continue
        assert actual.shape == (80, 60, 3), name
        tolerance = {"p": 60, "b": 255}.get(name[0], 14)  # a palette is coarse, and one bit is coarser
        expected = np.asarray(photo.convert("L").convert("RGB")) if name.startswith("grey") else pixels
        assert np.abs(actual.numpy().astype(int) - expected).mean() < tolerance, name


UNDONE = {
    1: lambda image: image,
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.transpose(1, 0, 2),
    6: lambda image: np.rot90(image, -1),
    7: lambda image: image[::-1, ::-1].transpose(1, 0, 2),
    8: lambda image: np.rot90(image),
}


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_photos_stand_upright_as_their_exif_says(suffix, photo, tmp_path):
    paths = write_kinds(photo, tmp_path)
    stored = yolact.read_image(paths[f"plain.{suffix}"]).numpy()
    for orientation, undo in UNDONE.items():
        actual = yolact.read_image(paths[f"orientation{orientation}.{suffix}"]).numpy()
        assert np.array_equal(actual, undo(stored)), orientation


def test_sixteen_bits_keep_their_high_byte(photo, tmp_path):
    paths = write_kinds(photo, tmp_path)
    assert np.array_equal(yolact.read_image(paths["sixteen.png"])[:, :, 0].numpy(), np.asarray(photo.convert("L")))
    high = (sixteen_bit_values(3) >> 8).astype(np.uint8)
    assert np.array_equal(yolact.read_image(paths["sixteen-rgb.png"]).numpy(), high)


def test_sixteen_bits_are_scaled_by_the_largest_value_other_than_alpha(tmp_path):
    for channels, name in ((1, "grey"), (2, "grey-alpha"), (3, "rgb"), (4, "rgba")):
        colors = sixteen_bit_values(channels)[:, :, : 3 if channels > 2 else 1].astype(int)
        scaled = np.broadcast_to((colors * 255 + colors.max() // 2) // colors.max(), (5, 7, 3))
        for kind, expected in (("", scaled), ("-interlaced", scaled), ("-3", scaled[::-1, ::-1])):
            path = tmp_path / f"sixteen-{name}{kind}.png"
            path.write_bytes(sixteen_bit_pngs()[path.name])
            actual = yolact.read_image(path, sixteen_bit="scale").numpy()
            assert np.array_equal(actual, expected), path.name
            assert np.array_equal(yolact.read_image(path, ignore_exif=True, sixteen_bit="scale").numpy(), scaled)


def test_the_error_for_a_broken_file_is_one_line(tmp_path):
    for path, message in [*broken_files(tmp_path).values(), (tmp_path, "this is a folder")]:
        with pytest.raises(ImageError, match=message) as caught:
            yolact.read_image(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
