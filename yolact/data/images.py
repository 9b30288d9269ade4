"""Reading image files."""

import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png"})  # what a folder is searched for, as the C++ program does


class ImageError(ValueError):
    """An image file that cannot be read; the message names it and says why."""


def read_image(path: str | os.PathLike[str]) -> Tensor:
    """The image in a file as uint8 RGB [H, W, 3], upright as its EXIF orientation says.

    Grey is replicated, palettes are looked up, transparency is dropped, 16-bit samples keep their high byte and
    CMYK is converted without a colour profile; the C++ runtime reads JPEG and PNG to the same values.

    Raises:
        ImageError: if the file is missing, empty, broken, truncated, too large or not an image.
    """
    path = Path(path)
    try:
        with Image.open(path) as image:
            if image.format == "PNG":  # Pillow's decoder does not look at their checksums
                image.verify()
        with Image.open(path) as image:
            image.load()
            return torch.from_numpy(_to_rgb(ImageOps.exif_transpose(image)))
    except FileNotFoundError:
        raise ImageError(f"{path}: there is no such file") from None
    except IsADirectoryError:
        raise ImageError(f"{path}: this is a folder, not an image") from None
    except UnidentifiedImageError:
        reason = "the file is empty" if path.stat().st_size == 0 else "this is no image of a known format"
        raise ImageError(f"{path}: {reason}") from None
    except Image.DecompressionBombError as error:
        raise ImageError(f"{path}: the image is too large: {error}") from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise ImageError(f"{path}: the image is broken: {error}") from None


def _to_rgb(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I;16") or image.mode == "I":  # Pillow's own conversion saturates at 255
        high = (np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8)
        return np.repeat(high[:, :, None], 3, axis=2)
    if image.mode == "P":  # Pillow warns of a transparent palette on the straight way
        image = image.convert("RGBA")
    return np.array(image.convert("RGB"))
