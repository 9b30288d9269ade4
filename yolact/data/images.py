"""Reads image files."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError
from torch import Tensor
from torchvision.io import ImageReadMode, decode_png

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png"})  # taken from folders, as in the C++ program
SixteenBit = Literal["high", "scale"]
_DARK = 32  # of 255; if its largest value is lower, a 16-bit picture holds data of 13 bits or fewer
_EXIF_ORIENTATION = 0x0112


class ImageError(ValueError):
    """An image file that cannot be read. The message names the file and the reason."""


@dataclass(frozen=True)
class Reading:
    """How picture files become pixels, in training, evaluation and prediction alike.

    ignore_exif: leave the pixels as they are stored, for annotations that were made on stored pixels.
    sixteen_bit: "high" keeps the high byte of 16-bit samples. "scale" makes the picture's largest value 255. It is
        meant for data of 10, 12 or 14 bits in a 16-bit file, whose high bytes are almost black.
    """

    ignore_exif: bool = False
    sixteen_bit: SixteenBit = "high"

    def read(self, path: str | os.PathLike[str]) -> Tensor:
        """Reads an image with `read_image` and these settings."""
        return read_image(path, self.ignore_exif, self.sixteen_bit)


@dataclass(frozen=True)
class Header:
    """What the header of an image file says.

    width, height: of the image as it is read, in pixels.
    orientation: EXIF's, 1–8. It is 1 if the file has none.
    sixteen_bit: whether its samples have 16 bits.
    """

    width: int
    height: int
    orientation: int
    sixteen_bit: bool


def read_image(path: str | os.PathLike[str], ignore_exif: bool = False, sixteen_bit: SixteenBit = "high") -> Tensor:
    """Reads an image file as uint8 RGB [H, W, 3], turned upright by its EXIF orientation.

    Grey is replicated, palettes are looked up, transparency is dropped and CMYK is converted without a colour profile.
    The C++ runtime reads the same values from JPEG and PNG.

    Args:
        path: of the file.
        ignore_exif: leave the pixels as they are stored.
        sixteen_bit: "high" keeps the high byte of 16-bit samples; "scale" makes the picture's largest value 255.

    Raises:
        ImageError: if the file is missing, empty, broken, truncated, too large or not an image.
    """
    path = Path(path)
    with _one_line_errors(path):
        with Image.open(path) as image:
            if image.format == "PNG":  # Pillow's decoder does not check the checksums
                image.verify()
        with Image.open(path) as image:
            deep = _is_sixteen_bit(image)
            image.load()
            turn = 1 if ignore_exif else image.getexif().get(_EXIF_ORIENTATION, 1)
            turn = turn if turn in range(2, 9) else 1
            upright = image if turn == 1 else ImageOps.exif_transpose(image)  # which would copy the image
            if deep and sixteen_bit == "scale":
                return torch.from_numpy(_scaled(path, image, upright, turn))
            return torch.from_numpy(_to_rgb(upright))


def read_header(path: str | os.PathLike[str], ignore_exif: bool = False) -> Header:
    """Reads the size and orientation of an image file, but not its pixels.

    Raises:
        ImageError: if the file is missing, empty, too large or not an image.
    """
    path = Path(path)
    with _one_line_errors(path), Image.open(path) as image:
        # Pillow would decode a whole PNG to look for EXIF data after the pixels.
        exif = image.getexif() if image.format != "PNG" or "exif" in image.info else {}
        orientation = exif.get(_EXIF_ORIENTATION, 1)
        if orientation not in range(1, 9):
            orientation = 1
        width, height = image.size[::-1] if orientation >= 5 and not ignore_exif else image.size
        return Header(width, height, orientation, _is_sixteen_bit(image))


def is_dark(image: Tensor) -> bool:
    """Whether a 16-bit picture that was read with its high bytes is almost black."""
    return image.numel() > 0 and int(image.max()) < _DARK


@contextmanager
def _one_line_errors(path: Path) -> Iterator[None]:
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):  # a pipe would wait for a writer
            raise ImageError(f"{path}: this is not a regular file")
        yield
    except ImageError:
        raise
    except FileNotFoundError:
        raise ImageError(f"{path}: there is no such file") from None
    except IsADirectoryError:
        raise ImageError(f"{path}: this is a folder, not an image") from None
    except PermissionError as error:
        raise ImageError(f"{path}: the file cannot be opened: {error.strerror}") from None
    except UnidentifiedImageError:
        reason = "the file is empty" if path.stat().st_size == 0 else "this is not an image of a known format"
        raise ImageError(f"{path}: {reason}") from None
    except Image.DecompressionBombError as error:
        raise ImageError(f"{path}: the image is too large: {error}") from None
    except MemoryError:
        raise ImageError(f"{path}: there is not enough memory for this image") from None
    except Exception as error:  # a decoder may raise anything when a file is broken
        raise ImageError(f"{path}: the image is broken: {error}") from None


def _is_sixteen_bit(image: ImageFile.ImageFile) -> bool:
    if image.format == "PNG":  # Pillow's mode tells the depth of grey images only
        with open(image.filename, "rb") as file:
            return file.read(25)[24:] == b"\x10"
    return image.mode.startswith("I;16")


def _to_rgb(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I;16") or image.mode == "I":  # Pillow's own conversion saturates at 255
        high = (np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8)
        return np.repeat(high[:, :, None], 3, axis=2)
    if image.mode == "P":  # Pillow warns if a transparent palette is converted straight to RGB
        image = image.convert("RGBA")
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def _scaled(path: Path, stored: Image.Image, upright: Image.Image, orientation: int) -> np.ndarray:
    """Scales 16-bit samples to uint8 RGB [H, W, 3]. The largest becomes 255."""
    if stored.mode.startswith("I"):
        values = np.asarray(upright).astype(np.uint32)[:, :, None]
    else:  # Pillow keeps only the high bytes of colour images
        try:
            planes = decode_png(torch.from_numpy(np.fromfile(path, np.uint8)), ImageReadMode.UNCHANGED)
        except RuntimeError as error:
            raise ValueError(error) from None
        values = _turned(planes.to(torch.int32).permute(1, 2, 0).numpy(), orientation).astype(np.uint32)
    values = values[:, :, :3] if values.shape[2] >= 3 else values[:, :, :1].repeat(3, axis=2)
    most = max(int(values.max(initial=0)), 1)
    return ((values * 255 + most // 2) // most).astype(np.uint8)


def _turned(values: np.ndarray, orientation: int) -> np.ndarray:
    """Turns pixels [H, W, C] as an EXIF orientation says."""
    if orientation >= 5:
        values = values.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        values = values[:, ::-1]
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    return values
