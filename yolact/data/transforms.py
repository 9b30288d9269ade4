"""SSD's augmentation (Liu et al., ECCV 2016), which YOLACT's training uses."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision import tv_tensors
from torchvision.ops import box_iou
from torchvision.transforms import v2

from yolact.data.coco import EncodedSample, Sample
from yolact.data.packed import PackedMasks, pack, packed_size
from yolact.data.targets import CROWD
from yolact.run_lengths import Grid, RunLengths, nearest, runs_of

MIN_SIDE = 4 / 550  # of the image's side; smaller boxes are not targets
_PIXELS_AT_ONCE = 2**18


@dataclass(frozen=True)
class Augmentation:
    """How `training_transform` varies images, in addition to colours and mirroring."""

    vertical_flip: bool = False  # also turn half of the images upside down
    rotate: bool = False  # also turn images by 0, 90, 180 or 270 degrees
    zoom_and_crop: bool = True  # SSD's zoom-out and crop; without it images stay whole, which suits large data sets

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not isinstance(value, bool):
                raise ValueError(f"augmentation.{name} must be True or False, got {value!r}")


def training_transform(
    image_size: int, pixel_mean: Sequence[float], augmentation: Augmentation | None = None
) -> Callable[[Sample | EncodedSample], Sample]:
    """Photometric distortion, zoom-out, IoU-constrained crop, mirroring and resizing to the network's size.

    Args:
        image_size: S, the side of the result in pixels.
        pixel_mean: RGB, 0–255. It fills the border that a zoom-out adds.
        augmentation: which of these are used. None means the defaults of `Augmentation`.

    Returns:
        A function that takes a sample of any size and returns one of S × S. It holds only the objects that remain
        visible. Dense masks stay dense, uint8; run lengths become packed masks. All random numbers come from torch's
        global generator.
    """
    augmentation = Augmentation() if augmentation is None else augmentation
    steps: list[nn.Module] = [
        PhotometricDistort(),
        RandomZoomAndCrop(image_size, pixel_mean, augmentation.zoom_and_crop),
        v2.RandomHorizontalFlip(),
    ]
    if augmentation.vertical_flip:
        steps.append(v2.RandomVerticalFlip())
    if augmentation.rotate:
        steps.append(RandomQuarterTurn())
    return v2.Compose(steps)


class PhotometricDistort(v2.RandomPhotometricDistort):
    """`v2.RandomPhotometricDistort` with equal results, but it changes a few rows of the image at a time.

    torchvision's takes 100 bytes a pixel.
    """

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        if not isinstance(inpt, tv_tensors.Image):
            return super().transform(inpt, params)
        steps = ["brightness_factor", "saturation_factor", "hue_factor", "channel_permutation"]
        steps.insert(1 if params["contrast_before"] else 3, "contrast_factor")
        image = inpt.as_subclass(Tensor)
        rows = max(1, _PIXELS_AT_ONCE // image.shape[2] // 64) * 64  # of whole vectors, which are rounded alike
        for name in steps:
            if params[name] is None:
                continue
            strips = image.split(rows, dim=1)
            if name == "contrast_factor":
                changed = _contrasted(strips, params[name])
            else:
                only = {**dict.fromkeys(params), name: params[name]}
                changed = [super(PhotometricDistort, self).transform(strip, only) for strip in strips]
            image = torch.cat(changed, dim=1)
        return tv_tensors.Image(image)


def _contrasted(strips: Sequence[Tensor], factor: float) -> list[Tensor]:
    """`v2.functional.adjust_contrast` of the image that consists of `strips`, uint8 [3, h, W] each."""
    grey = torch.cat([v2.functional.rgb_to_grayscale(strip) for strip in strips], dim=1)
    mean = grey.float().mean(dim=(0, 1, 2), keepdim=True)
    return [strip.mul(factor).add_(mean, alpha=1 - factor).clamp_(0, 255).to(torch.uint8) for strip in strips]


class RandomZoomAndCrop(nn.Module):
    """`v2.RandomZoomOut`, `v2.RandomIoUCrop` and resizing to S × S in one resampling.

    Done one after the other, these steps would fill a canvas of up to 16 times the image for every mask. Here the
    first two draw their parameters from the boxes only, and the pixels that remain are resampled once, straight to
    their final place. `zoom_and_crop=False` only resizes.

    An object stays if its centre and at least one of its pixels are within the crop, and its clipped box is not tiny.
    Crowds do not influence the crop. The visible part of a crowd always stays, wherever its centre is, because nothing
    inside it may count as background.

    Dense masks stay dense, uint8. Run lengths become equal masks, but packed ones. No more of them is decoded than the
    pixels of the result.
    """

    def __init__(self, image_size: int, pixel_mean: Sequence[float], zoom_and_crop: bool = True):
        super().__init__()
        self.image_size = image_size
        self.zoom_and_crop = zoom_and_crop
        self.fill = torch.tensor(pixel_mean).round().to(torch.uint8).view(3, 1, 1)
        self.zoom_out = v2.RandomZoomOut(side_range=(1.0, 4.0), p=0.5)
        self.crop = IoUCrop()

    def forward(self, sample: Sample | EncodedSample) -> Sample:
        size = self.image_size
        boxes, labels = sample["boxes"], sample["labels"]
        height, width = boxes.canvas_size
        x0 = y0 = 0  # corner of the window that becomes the result, in image pixels; it may lie outside
        if self.zoom_and_crop and torch.rand(()) < self.zoom_out.p:
            padding = self.zoom_out.make_params([boxes])["padding"]
            boxes = v2.functional.pad(boxes, padding)
            x0, y0 = -padding[0], -padding[1]
        kept = torch.ones(len(labels), dtype=torch.bool)
        objects = labels != CROWD
        varied = self.zoom_and_crop and bool(objects.any())
        # Without objects every crop fails, and RandomIoUCrop would try until it draws "no crop".
        crop = self.crop.make_params([tv_tensors.wrap(boxes[objects], like=boxes)]) if varied else {}
        if crop:
            boxes = v2.functional.crop(boxes, crop["top"], crop["left"], crop["height"], crop["width"])
            kept[objects] = crop["is_within_crop_area"]
            x0, y0 = x0 + crop["left"], y0 + crop["top"]
        window_height, window_width = boxes.canvas_size

        rows, to_rows = _visible(y0, window_height, height, size)
        columns, to_columns = _visible(x0, window_width, width, size)
        image = torch.empty(3, size, size, dtype=torch.uint8).copy_(self.fill)
        image[:, to_rows, to_columns] = _resample(sample["image"][:, rows, columns], to_rows, to_columns, "bilinear")

        # The pixels' place in the result is rounded, so boxes use the same rounded map.
        scale_x = (to_columns.stop - to_columns.start) / (columns.stop - columns.start)
        scale_y = (to_rows.stop - to_rows.start) / (rows.stop - rows.start)
        shift_x = to_columns.start - scale_x * (columns.start - x0)
        shift_y = to_rows.start - scale_y * (rows.start - y0)
        coordinates = boxes.as_subclass(Tensor) * torch.tensor([scale_x, scale_y] * 2)
        coordinates = (coordinates + torch.tensor([shift_x, shift_y] * 2)).clamp(0, size)
        kept &= ((coordinates[:, 2:] - coordinates[:, :2]) >= MIN_SIDE * size).all(dim=1)
        window, to = (rows, columns), (to_rows, to_columns)
        masks: tv_tensors.Mask | PackedMasks
        if isinstance(sample["masks"], RunLengths):
            masks, kept = _rasterised(sample["masks"], kept, window, to, size)
        else:
            masks, kept = _resampled(sample["masks"].as_subclass(Tensor), kept, window, to, size)
        return Sample(
            image=tv_tensors.Image(image),
            boxes=tv_tensors.BoundingBoxes(coordinates[kept], format="XYXY", canvas_size=(size, size)),
            masks=masks,
            labels=labels[kept],
            image_id=sample["image_id"],
            path=sample["path"],
        )


class IoUCrop(v2.RandomIoUCrop):
    """`v2.RandomIoUCrop` with all trials of an option at once. The original takes a quarter of the loader's time."""

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        boxes = next(inpt for inpt in flat_inputs if isinstance(inpt, tv_tensors.BoundingBoxes))
        height, width = boxes.canvas_size
        objects = boxes.as_subclass(Tensor)[:, None]  # [N, 1, 4], against [trials, 4]
        centres = (objects[..., :2] + objects[..., 2:]) / 2
        extent = torch.tensor([width, height])
        while True:
            least = self.options[int(torch.randint(len(self.options), ()))]
            if least >= 1.0:  # this option means no crop
                return {}
            draws = torch.rand(self.trials, 4)
            sides = (extent * (self.min_scale + (self.max_scale - self.min_scale) * draws[:, :2])).int()
            corners = ((extent - sides) * draws[:, 2:]).int()
            inside = ((corners < centres) & (centres < corners + sides)).all(dim=-1)
            overlap = box_iou(objects[:, 0], torch.cat((corners, corners + sides), dim=1).float())
            ratios = sides[:, 0] / sides[:, 1]
            fits = (self.min_aspect_ratio <= ratios) & (ratios <= self.max_aspect_ratio)
            fits &= inside.any(dim=0) & ((overlap * inside).amax(dim=0) >= least)
            if fits.any():
                first = int(fits.int().argmax())
                (left, top), (crop_width, crop_height) = corners[first].tolist(), sides[first].tolist()
                crop = {"top": top, "left": left, "height": crop_height, "width": crop_width}
                return {**crop, "is_within_crop_area": inside[:, first]}


class RandomQuarterTurn(v2.Transform):
    """Turns square samples by 0, 90, 180 or 270 degrees with equal probability."""

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        return {"angle": 90.0 * int(torch.randint(4, ()))}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return v2.functional.rotate(inpt, params["angle"])


def _resampled(
    masks: Tensor, kept: Tensor, window: tuple[slice, slice], to: tuple[slice, slice], size: int
) -> tuple[tv_tensors.Mask, Tensor]:
    """Resamples a window of dense masks to S × S.

    Args:
        masks: [N, H, W].
        kept: [N] bool, the objects to resample.
        window: rows and columns of the image.
        to: the rows and columns of the result that they become. The others are empty.
        size: S.

    Returns:
        The masks of the K kept objects that have a pixel in the window, [K, S, S] uint8, and which these are, [N] bool.
    """
    (rows, columns), (to_rows, to_columns) = window, to
    visible = masks[:, rows, columns]
    kept = kept & visible.amax(dim=(1, 2)).bool()
    result = torch.zeros(int(kept.sum()), size, size, dtype=torch.uint8)
    shown = visible[kept].to(torch.uint8)
    result[:, to_rows, to_columns] = _resample(shown, to_rows, to_columns, "nearest-exact")
    return tv_tensors.Mask(result), kept


def _rasterised(
    masks: RunLengths, kept: Tensor, window: tuple[slice, slice], to: tuple[slice, slice], size: int
) -> tuple[PackedMasks, Tensor]:
    """Does the same as `_resampled` to run lengths, but never makes a dense mask of the image."""
    (rows, columns), (to_rows, to_columns) = window, to
    whole = Grid(masks.height, masks.width, *(np.arange(part.start, part.stop) for part in window))
    sampled = Grid(
        masks.height,
        masks.width,
        nearest(rows, to_rows.stop - to_rows.start),
        nearest(columns, to_columns.stop - to_columns.start),
    )
    indices: list[int] = []
    result = torch.empty(int(kept.sum()), *packed_size(size), dtype=torch.uint8)
    for index in kept.nonzero().flatten().tolist():
        runs = runs_of(masks.texts[index])
        if whole.touches(runs):
            x1, y1, mask = sampled.pixels(runs)
            plane = np.zeros((1, size, size), bool)
            plane[0, to_rows, to_columns][y1 : y1 + mask.shape[0], x1 : x1 + mask.shape[1]] = mask
            result[len(indices)] = pack(torch.from_numpy(plane))[0]
            indices.append(index)
    kept = torch.zeros_like(kept)
    kept[indices] = True
    return PackedMasks(result[: len(indices)]), kept


def _visible(start: int, extent: int, image_extent: int, size: int) -> tuple[slice, slice]:
    """The part of an image's axis inside a window [start, start + extent), and where it lies in a result of `size`."""
    first, last = max(start, 0), min(start + extent, image_extent)
    to_first = min(round((first - start) * size / extent), size - 1)
    to_last = max(round((last - start) * size / extent), to_first + 1)
    return slice(first, last), slice(to_first, to_last)


def _resample(planes: Tensor, to_rows: slice, to_columns: slice, mode: str) -> Tensor:
    """Resamples uint8 [C, h, w] to the lengths of two slices, in the same way as the network's input."""
    if planes.shape[0] == 0:
        return planes.new_zeros(0, to_rows.stop - to_rows.start, to_columns.stop - to_columns.start)
    size = (to_rows.stop - to_rows.start, to_columns.stop - to_columns.start)
    return F.interpolate(planes.as_subclass(Tensor)[None], size=size, mode=mode)[0]
