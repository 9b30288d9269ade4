"""`shapes`: a synthetic instance segmentation data set that is drawn reproducibly from a seed.

A scene has up to ten shapes on a cluttered background. They are textured, rotated and stretched, have holes and thin
parts, and partly hide each other. Scenes have uneven light, shadows, blur and noise. Only the outline decides an
object's class: colours and textures have the same distribution for all classes and for the background.

Outlines are signed distance functions. They are evaluated in a window around each object and give the coverage of each
pixel, so edges are antialiased and a scene takes milliseconds.
"""

import io
import json
import math
import multiprocessing
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw
from pycocotools import mask as rle

from yolact.data.problems import DataError
from yolact.files import folder_written_whole, reported

SPLITS = ("train", "val")
OBJECTS = (3, 10)  # tried in each scene; an object is left out if there is no room for it
RADII = (0.05, 0.27)  # of an object's circle before it is stretched, relative to the image's side
MAX_STRETCH = 1.35  # one axis is multiplied by it at most, and the other divided
MIN_VISIBLE = 0.45  # share of an object's pixels that neither the image's edge nor other objects may hide
MIN_PIXELS = 60 / 320**2  # visible pixels of an object, relative to those of the image
MIN_CONTRAST = 70  # distance between an object's colour and the colours under it, in RGB of 0–255

Array = np.ndarray


def _circle(x: Array, y: Array, t: float) -> Array:
    return np.hypot(x, y) - 1


def _ring(x: Array, y: Array, t: float) -> Array:
    half_width = 0.09 + 0.1 * t
    return np.abs(np.hypot(x, y) - (1 - half_width)) - half_width


def _square(x: Array, y: Array, t: float) -> Array:
    return np.maximum(np.abs(x), np.abs(y)) - 0.8


def _triangle(x: Array, y: Array, t: float) -> Array:
    return np.maximum(-y, 0.8660254 * np.abs(x) + 0.5 * y) - 0.5


def _star(x: Array, y: Array, t: float) -> Array:
    wedge = math.pi / 5
    inner = 0.36 + 0.14 * t
    radius, angle = np.hypot(x, y), np.abs(np.remainder(np.arctan2(y, x), 2 * wedge) - wedge)
    along, across = radius * np.cos(wedge - angle), radius * np.sin(wedge - angle)
    normal = np.array([inner * math.sin(wedge), 1 - inner * math.cos(wedge)])
    normal /= np.linalg.norm(normal)
    return ((along - 1) * normal[0] + across * normal[1]).astype(np.float32)


def _cross(x: Array, y: Array, t: float) -> Array:
    half_width, x, y = 0.16 + 0.14 * t, np.abs(x), np.abs(y)
    return np.minimum(np.maximum(x - 0.95, y - half_width), np.maximum(x - half_width, y - 0.95))


def _crescent(x: Array, y: Array, t: float) -> Array:
    return np.maximum(np.hypot(x, y) - 1, 0.85 - np.hypot(x - 0.4 - 0.2 * t, y))


def _gear(x: Array, y: Array, t: float) -> Array:
    teeth, radius = 7 + round(3 * t), np.hypot(x, y)
    edge = 0.8 + 0.18 * np.clip(2.5 * np.cos(teeth * np.arctan2(y, x)), -1, 1)
    return np.maximum(0.8 * (radius - edge), 0.3 - radius)


def _heart(x: Array, y: Array, t: float) -> Array:
    x, y = np.abs(0.62 * x), 0.62 * y + 0.55
    lobe = np.hypot(x - 0.25, y - 0.75) - 0.3535534
    diagonal = 0.5 * np.maximum(x + y, 0)
    tip = np.minimum(np.hypot(x, y - 1), np.hypot(x - diagonal, y - diagonal)) * np.sign(x - y)
    return np.where(x + y > 1, lobe, tip) / 0.62


def _arrow(x: Array, y: Array, t: float) -> Array:
    y = np.abs(y)
    shaft = np.maximum(np.abs(x + 0.4) - 0.6, y - 0.1 - 0.1 * t)
    head = np.maximum(0.1 - x, 0.8 * (y - 0.72 * (1 - x)))
    return np.minimum(shaft, head)


# For each class, the signed distance from the outline, which is negative inside. The shape fills the unit circle. The
# parameter t (0–1) varies the shape within its class.
_OUTLINES: dict[str, Callable[[Array, Array, float], Array]] = {
    "circle": _circle,
    "ring": _ring,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
    "crescent": _crescent,
    "gear": _gear,
    "heart": _heart,
    "arrow": _arrow,
}
CLASS_NAMES = tuple(_OUTLINES)


class _Shape(NamedTuple):
    """An object before it has a place, on a window of h × w pixels.

    distance: [h, w], from the outline in pixels, negative inside.
    x, y: [h, w], coordinates in the object's own frame, about -1 to 1.
    """

    label: int
    distance: Array
    x: Array
    y: Array


def render(seed: int, index: int, size: int = 320, split: str = "train") -> tuple[Array, list[tuple[int, Array]]]:
    """Draws scene number `index` of a split.

    Args:
        seed, index: at least 0.
        size: the side of the square image in pixels, at least 64.
        split: "train" or "val". They have no scene in common.

    Returns:
        The image, uint8 RGB [size, size, 3], and a list of the objects from the lowest to the topmost: the label (an
        index in `CLASS_NAMES`) and the mask of the visible part, bool [size, size].

    Raises:
        ValueError: if an argument is out of its range.
    """
    image, owner, labels = _scene(_generator(seed, index, split), size)
    return image, [(label, owner == number) for number, label in enumerate(labels)]


def write_dataset(
    folder: str | os.PathLike[str],
    train: int,
    val: int,
    size: int = 320,
    seed: int = 0,
    workers: int = 1,
    track: Callable[[Iterable[int], str, int], Iterable[int]] = lambda numbers, description, total: numbers,
) -> None:
    """Writes `folder`/annotations/{train,val}.json and the JPEG files `folder`/{train,val}/NNNNNN.jpg.

    With the same versions of NumPy and Pillow, the bytes depend only on the arguments, and not on `workers`. The
    folder appears when everything is written.

    Args:
        folder: to make. If it exists, it must be empty.
        train, val: number of images in each split. A split with 0 images is left out.
        size, seed: as in `render`.
        workers: number of processes.
        track: shows progress over an iterable; it also takes a description and the length.

    Raises:
        DataError: if the folder is not empty.
        WriteError: if it cannot be written.
        ValueError: if an argument is out of its range.
    """
    folder = Path(folder)
    with reported(folder):
        taken = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
    if taken:
        raise DataError(f"{folder}: this exists and is not an empty folder: remove it or choose another")
    with folder_written_whole(folder) as temporary:
        (temporary / "annotations").mkdir()
        for split, count in zip(SPLITS, (train, val), strict=True):
            if count < 1:
                continue
            (temporary / split).mkdir()
            content = _write_split(temporary / split, seed, split, count, size, workers, track)
            (temporary / "annotations" / f"{split}.json").write_text(json.dumps(content))


def _write_split(
    folder: Path, seed: int, split: str, count: int, size: int, workers: int, track: Callable[..., Iterable[Any]]
) -> dict[str, Any]:
    """Writes the images of a split and returns its annotations."""
    write = partial(_write_scene, folder, seed, split, size)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) if workers > 1 else _Here() as pool:
        results = pool.map(write, range(count), chunksize=16)
        for index, objects in enumerate(track(results, f"Rendering {split}", count)):
            images.append({"id": index + 1, "file_name": _file_name(index), "width": size, "height": size})
            for entry in objects:
                annotations.append({"id": len(annotations) + 1, "image_id": index + 1, **entry})
    return {
        "info": {"description": f"shapes, {split}, seed {seed}, {size} pixels"},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": label + 1, "name": name} for label, name in enumerate(CLASS_NAMES)],
    }


class _Here:
    """An executor that works in this process."""

    def __enter__(self) -> "_Here":
        return self

    def __exit__(self, *_: object) -> None: ...

    def map(self, function: Callable[[int], Any], numbers: Iterable[int], chunksize: int) -> Iterable[Any]:
        return map(function, numbers)


def _write_scene(folder: Path, seed: int, split: str, size: int, index: int) -> list[dict[str, Any]]:
    """Writes one image and returns its annotations without ids."""
    rng = _generator(seed, index, split)
    image, owner, labels = _scene(rng, size)
    encoded_image = io.BytesIO()  # Pillow does not say why it cannot write a file
    Image.fromarray(image).save(encoded_image, "JPEG", quality=int(rng.integers(75, 96)))
    (folder / _file_name(index)).write_bytes(encoded_image.getbuffer())
    columns_first = np.asfortranarray(owner)
    entries = []
    for number, label in enumerate(labels):
        encoded = rle.encode((columns_first == number).view(np.uint8))
        entries.append(
            {
                "category_id": label + 1,
                "bbox": rle.toBbox(encoded).tolist(),
                "area": int(rle.area(encoded)),
                "iscrowd": 0,
                "segmentation": {"size": encoded["size"], "counts": encoded["counts"].decode("ascii")},
            }
        )
    return entries


def _file_name(index: int) -> str:
    return f"{index:06d}.jpg"


def _generator(seed: int, index: int, split: str) -> np.random.Generator:
    if seed < 0 or index < 0 or split not in SPLITS:
        raise ValueError(f"seed and index must be at least 0 and split one of {SPLITS}, got {seed}, {index}, {split!r}")
    return np.random.default_rng((seed, SPLITS.index(split), index))


def _scene(rng: np.random.Generator, size: int) -> tuple[Array, Array, list[int]]:
    """The image, uint8 [S, S, 3]; for each pixel the number of its object or -1, int8 [S, S]; the objects' labels."""
    if size < 64:
        raise ValueError(f"size must be at least 64 pixels, got {size}")
    canvas = _background(rng, size)
    owner = np.full((size, size), -1, np.int8)
    visible: list[int] = []  # pixels of each object that are still visible
    full: list[int] = []  # pixels of each whole object, if nothing hid it
    labels: list[int] = []
    count = int(rng.integers(OBJECTS[0], OBJECTS[1] + 1))
    radii = size * np.exp(rng.uniform(np.log(RADII[0]), np.log(RADII[1]), count))
    # Small objects mostly come after large ones, which would hide them.
    for radius in radii[np.argsort(-radii * rng.lognormal(0, 0.4, count))]:
        shape = _shape(rng, float(radius))
        inside = shape.distance < 0
        placed = _place(rng, inside, owner, visible, full)
        if placed is None:
            continue
        place, visible = placed
        _paint(rng, canvas, shape, place)
        window, part = _overlap(place, inside.shape, size)
        owner[window][inside[part]] = len(labels)
        full.append(int(np.count_nonzero(inside)))
        labels.append(shape.label)
    return _photograph(rng, canvas), owner, labels


def _shape(rng: np.random.Generator, radius: float) -> _Shape:
    label = int(rng.integers(len(CLASS_NAMES)))
    stretch = math.exp(rng.uniform(-1, 1) * math.log(MAX_STRETCH))
    angle, shear = rng.uniform(0, 2 * math.pi), rng.uniform(-0.2, 0.2)
    extent = math.ceil(radius * max(stretch, 1 / stretch) * (1 + abs(shear))) + 2
    offsets = np.arange(-extent, extent + 1, dtype=np.float32) / np.float32(radius)
    cos, sin = np.float32(math.cos(angle)), np.float32(math.sin(angle))
    x = (cos * offsets + sin * offsets[:, None]) / np.float32(stretch)
    y = (cos * offsets[:, None] - sin * offsets) * np.float32(stretch)
    x += np.float32(shear) * y
    distance = _OUTLINES[CLASS_NAMES[label]](x, y, rng.uniform())
    return _Shape(label, distance * np.float32(radius), x, y)


def _place(
    rng: np.random.Generator, inside: Array, owner: Array, visible: list[int], full: list[int]
) -> tuple[tuple[int, int], list[int]] | None:
    """A place where enough of every object stays visible, and the number of visible pixels of each, the new one last.

    The place is the row and column of the window's corner. The result is None if no try gives such a place.
    """
    size, pixels, extent = len(owner), np.count_nonzero(inside), len(inside) // 2
    least = MIN_PIXELS * size * size
    for row, column in rng.integers(0, size, (12, 2)) - extent:
        window, part = _overlap((row, column), inside.shape, size)
        shown = inside[part]
        own = int(np.count_nonzero(shown))
        if own < max(MIN_VISIBLE * pixels, least):
            continue
        lost = np.bincount(owner[window][shown] + 1, minlength=len(visible) + 1)[1:].tolist()
        objects = zip(visible, lost, full, strict=True)
        if all(hidden == 0 or before - hidden >= max(MIN_VISIBLE * whole, least) for before, hidden, whole in objects):
            left = [before - hidden for before, hidden in zip(visible, lost, strict=True)]
            return (int(row), int(column)), [*left, own]
    return None


def _overlap(
    corner: tuple[int, int], shape: tuple[int, ...], size: int
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """The part of the image that a window covers, and the part of the window that lies on the image."""
    window, part = [], []
    for start, extent in zip(corner, shape, strict=True):
        first, last = max(start, 0), max(min(start + extent, size), 0)
        window.append(slice(first, last))
        part.append(slice(first - start, max(last - start, 0)))
    return (window[0], window[1]), (part[0], part[1])


def _paint(rng: np.random.Generator, canvas: Array, shape: _Shape, place: tuple[int, int]) -> None:
    """Draws an object and its shadow onto `canvas`, float32 [3, S, S] of 0–255."""
    size, extent = canvas.shape[1], shape.distance.shape[0] / 2
    if rng.uniform() < 0.6:
        away = rng.uniform(-0.2, 0.2, 2) * extent
        softness = np.float32(1 + 0.12 * extent)
        window, part = _overlap((place[0] + round(away[0]), place[1] + round(away[1])), shape.distance.shape, size)
        alpha = np.clip(0.5 - shape.distance[part] / softness, 0, 1)
        canvas[:, window[0], window[1]] *= 1 - np.float32(rng.uniform(0.2, 0.6)) * alpha

    window, part = _overlap(place, shape.distance.shape, size)
    under, x, y, distance = canvas[:, window[0], window[1]], shape.x[part], shape.y[part], shape.distance[part]
    first, second = _colours(rng, under.mean(axis=(1, 2)))
    # About half of the window lies outside the shape and need not be drawn.
    rows, columns = (np.flatnonzero((distance < 0.5).any(axis)) for axis in (1, 0))
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    under, x, y, distance = under[:, box[0], box[1]], x[box], y[box], distance[box]
    pixels = (second - first) * _texture(rng, x, y)
    pixels += first
    angle, relief = rng.uniform(0, 2 * math.pi), rng.uniform(0, 0.35)
    pixels *= 1 + np.float32(relief * math.cos(angle)) * x + np.float32(relief * math.sin(angle)) * y
    if rng.uniform() < 0.3:
        width = np.float32(max(1.0, rng.uniform(0.02, 0.08) * extent))
        pixels *= 1 + np.float32(rng.choice((-0.45, 0.4))) * np.clip(distance + width + 0.5, 0, 1)
    coverage = np.clip(0.5 - distance, 0, 1)
    np.clip(pixels, 0, 255, out=pixels)
    pixels -= under
    pixels *= coverage
    under += pixels


def _colours(rng: np.random.Generator, under: Array) -> tuple[Array, Array]:
    """Two related colours [3, 1, 1]. The first contrasts with the colour `under` them, if 8 tries find one."""
    for _ in range(8):
        first = _colour(rng)
        if np.linalg.norm(first - under) >= MIN_CONTRAST:
            break
    second = np.clip(first + rng.normal(0, 40) + rng.normal(0, 25, 3), 0, 255)
    return first.astype(np.float32).reshape(3, 1, 1), second.astype(np.float32).reshape(3, 1, 1)


def _colour(rng: np.random.Generator) -> Array:
    """RGB of 0–255, from grey to vivid."""
    colour = rng.uniform(15, 240, 3)
    grey = colour.mean()
    return grey + rng.uniform(0.1, 1.1) * (colour - grey)


def _texture(rng: np.random.Generator, x: Array, y: Array) -> Array:
    """A pattern of 0–1 over coordinates of about -1 to 1."""
    kind = int(rng.integers(6))
    angle, frequency, phase = rng.uniform(0, math.pi), rng.uniform(4, 16), rng.uniform(0, 2 * math.pi)
    along = np.float32(math.cos(angle)) * x + np.float32(math.sin(angle)) * y
    if kind == 0:  # plain
        return np.zeros_like(x)
    if kind == 1:  # gradient
        return np.clip(0.5 + 0.5 * along, 0, 1)
    along *= np.float32(frequency)
    if kind == 2:  # soft stripes
        return 0.5 + 0.5 * np.sin(along + np.float32(phase))
    if kind == 3:  # hard stripes
        return np.clip(0.5 + 3 * np.sin(along + np.float32(phase)), 0, 1)
    across = np.float32(math.cos(angle)) * y - np.float32(math.sin(angle)) * x
    wave = np.sin(np.float32(frequency) * across)
    if kind == 4:  # checks
        return np.clip(0.5 + 3 * np.sin(along + np.float32(phase)) * wave, 0, 1)
    return 0.5 + 0.5 * np.sin(along + 2.5 * wave)  # ripples


def _background(rng: np.random.Generator, size: int) -> Array:
    """A field of colours with a texture and clutter, float32 [3, S, S] of 0–255."""
    cells = int(rng.integers(2, 9))
    colours = (
        _colour(rng) + rng.normal(0, rng.uniform(10, 40), (cells, cells, 1)) + rng.normal(0, 12, (cells, cells, 3))
    )
    field = np.clip(colours, 0, 255).astype(np.uint8)
    picture = Image.fromarray(field).resize((size, size), Image.Resampling.BILINEAR)
    draw = ImageDraw.Draw(picture)
    for _ in range(int(rng.integers(4, 22))):
        _clutter(rng, draw, size)
    axis = np.linspace(-1, 1, size, dtype=np.float32) * np.float32(rng.uniform(1, 4))
    texture = _texture(rng, axis, axis[:, None])
    texture -= 0.5
    # Clutter has jagged edges, which would distinguish it from the objects.
    canvas = _blurred(np.asarray(picture)).transpose(2, 0, 1).astype(np.float32, order="C")
    for plane, strength in zip(canvas, (rng.normal(0, 25) + rng.normal(0, 15, 3)).astype(np.float32), strict=True):
        plane += strength * texture
    return canvas


def _clutter(rng: np.random.Generator, draw: ImageDraw.ImageDraw, size: int) -> None:
    """A stroke, an arc or a shapeless patch."""
    colour = tuple(np.clip(_colour(rng), 0, 255).astype(int).tolist())
    centre, kind = rng.uniform(0, size, 2), int(rng.integers(4))
    width = int(rng.integers(1, max(2, size // 60) + 1))
    if kind == 0:  # line
        draw.line([*centre, *(centre + rng.normal(0, size / 3, 2))], colour, width)
    elif kind == 1:  # scribble
        points = centre + np.cumsum(rng.normal(0, size / 16, (int(rng.integers(4, 12)), 2)), axis=0)
        draw.line(points.ravel().tolist(), colour, width, joint="curve")
    elif kind == 2:  # arc
        radius, start = rng.uniform(0.05, 0.4) * size, rng.uniform(0, 360)
        draw.arc([*(centre - radius), *(centre + radius)], start, start + rng.uniform(30, 170), colour, width)
    else:  # patch
        angles = np.sort(rng.uniform(0, 2 * math.pi, int(rng.integers(5, 11))))
        radii = rng.uniform(0.3, 1, len(angles)) * rng.uniform(0.03, 0.2) * size
        points = centre + np.stack((np.cos(angles), np.sin(angles)), axis=1) * radii[:, None]
        draw.polygon(points.ravel().tolist(), colour)


def _photograph(rng: np.random.Generator, canvas: Array) -> Array:
    """Adds light, noise and blur, and returns uint8 [S, S, 3]. It overwrites `canvas`, float32 [3, S, S]."""
    size = canvas.shape[1]
    axis = np.linspace(-1, 1, size, dtype=np.float32)
    slope, fall = rng.uniform(-0.25, 0.25, 2).astype(np.float32), np.float32(rng.uniform(0, 0.2))
    down, right = slope[0] * axis - fall * axis * axis, slope[1] * axis - fall * axis * axis
    canvas *= np.float32(rng.uniform(0.8, 1.15)) + down[:, None] + right
    canvas += rng.standard_normal((size, size), np.float32) * np.float32(rng.uniform(1, 14))
    # This is several times faster than a contiguous copy of the transposed planes.
    image = np.stack(list(np.clip(canvas, 0, 255, out=canvas).astype(np.uint8)), axis=2)
    for _ in range(int(rng.choice(3, p=(0.5, 0.3, 0.2)))):
        image = _blurred(image)
    return image


def _blurred(image: Array) -> Array:
    """Smooths uint8 [S, S, 3] with the weights 1, 2, 1 along both axes. The outermost pixels stay as they are.

    Pillow's filter is not faster.
    """
    sums = image.astype(np.uint16)
    for _ in range(2):  # the weights 1, 1 applied twice give 1, 2, 1
        sums = sums[:-1] + sums[1:]
        sums = sums[:, :-1] + sums[:, 1:]
    sums += 8
    sums >>= 4
    result = image.copy()
    result[1:-1, 1:-1] = sums
    return result
