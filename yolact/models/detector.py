"""The detector: the network with everything around it, from an image's pixels to masks, scriptable as one graph."""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from yolact.config import default_class_names
from yolact.models.anchors import level_sizes
from yolact.models.detections import CroppedDetections, Detections, EncodedDetections, FixedDetections, Selected
from yolact.models.graph import CudaGraphs
from yolact.models.inference import InferenceNetwork
from yolact.models.yolact import Predictions, Yolact
from yolact.ops import assemble_crops, assemble_masks, assemble_runs, crop, detect


class Detector(nn.Module):
    """A `Yolact` that takes images and gives `Detections`.

    Attributes (you can set them at any time, also after scripting and in LibTorch):
        class_names: list of str, one for each label.
        score_threshold: 0–1; every detection has a higher score.
        iou_threshold: of Fast NMS, 0–1.
        max_detections: the most that one image can have, at least 0.

    Args:
        model: the network, for training or for inference.
        class_names: by default the preset's, or "class 1", … where the model has another number of classes.

    Raises:
        ValueError: if there are not as many `class_names` as the model has classes.
    """

    class_names: list[str]
    score_threshold: float
    iou_threshold: float
    max_detections: int
    level_counts: list[int]
    anchors: Tensor
    pixel_mean: Tensor
    pixel_std: Tensor
    __jit_ignored_attributes__ = ["graphs", "device", "precision"]  # noqa: RUF012 – TorchScript reads both
    __jit_unused_properties__ = ["device", "precision"]  # noqa: RUF012

    def __init__(self, model: Yolact | InferenceNetwork, class_names: Sequence[str] | None = None):
        super().__init__()
        self.graphs: CudaGraphs | None = None
        preset, rules = model.preset, model.preset.post_processing
        names = default_class_names(preset, model.num_classes) if class_names is None else class_names
        if len(names) != model.num_classes:
            raise ValueError(
                f"the model needs one name for each of its classes, {model.num_classes} in all, got {len(names)}"
            )
        self.model = model
        self.class_names = list(names)
        self.score_threshold = rules.score_threshold
        self.iou_threshold = rules.iou_threshold
        self.max_detections = rules.max_detections
        self.candidate_threshold = rules.candidate_threshold
        self.top_k = rules.top_k
        self.candidates_per_level = rules.candidates_per_level or 0
        self.max_log_scale = math.inf if rules.max_log_scale is None else rules.max_log_scale
        self.clip_before_nms = rules.clip_before_nms
        self.mask_threshold = rules.mask_threshold
        self.variances = preset.variances
        self.image_size = preset.image_size
        sizes = level_sizes(preset.image_size, preset.image_size)
        self.level_counts = [rows * columns * preset.anchors.per_location for rows, columns in sizes]
        device = next(itertools.chain(model.parameters(), model.buffers())).device
        anchors = model.anchors(preset.image_size, preset.image_size)
        self.register_buffer("anchors", anchors.to(device), persistent=False)
        # The device of `pixel_mean` is the detector's.
        for name, values in (("pixel_mean", preset.pixel_mean), ("pixel_std", preset.pixel_std)):
            self.register_buffer(name, torch.tensor(values, device=device).view(3, 1, 1), persistent=False)

    @torch.jit.unused
    def optimize(self, precision: str = "fp32", cuda_graph: bool = False) -> "Detector":
        """A faster detector for inference on the same device, with weights of its own; this one stays as it is.

        Its answers differ from this one's by rounding only, with fp32 in the last digits. It can be moved, copied and
        pickled, and cast to another precision.

        Args:
            precision: of the network's weights and activations: fp32, bf16 or fp16 (slow on a CPU).
            cuda_graph: on CUDA, whether `forward` and `forward_batch` capture their work, from pixels to masks, as a
                CUDA graph for each list of image sizes, and replay it. The eight graphs last used are kept. Each
                holds the masks of `max_detections` objects at the size of its images; the results are copies.
                Threads that call such a detector take turns.

        Raises:
            ValueError: if there is no such precision, this detector is optimized already, or `cuda_graph` is set and
                this detector is not on CUDA.
        """
        if not isinstance(self.model, Yolact):
            raise ValueError(f"this detector is optimized already (precision {self.model.precision})")
        graphs = CudaGraphs(self.pixel_mean.device) if cuda_graph else None
        detector = Detector(InferenceNetwork(self.model, precision), self.class_names).eval()
        detector.score_threshold = self.score_threshold
        detector.iou_threshold = self.iou_threshold
        detector.max_detections = self.max_detections
        detector.graphs = graphs
        return detector

    @property
    def device(self) -> torch.device:
        """The device that runs the network."""
        return self.pixel_mean.device

    @property
    def precision(self) -> str:
        """Of the network's weights and activations: fp32, bf16 or fp16."""
        return self.model.precision if isinstance(self.model, InferenceNetwork) else "fp32"

    @torch.jit.unused
    def stages(self) -> "Detector":
        """The stages of a call, to be called one by one: `preprocess`, `model` and `postprocess`."""
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Detector":
        # A graph knows where the weights were when it was captured.
        graphs = None if self.graphs is None else CudaGraphs(fn(self.pixel_mean).device)
        exact = dict(self.named_buffers(recurse=False))
        super()._apply(fn, recurse)
        for name, values in exact.items():
            # Coordinates and colours stay float32 in a network of any dtype.
            moved = self.get_buffer(name)
            if moved.dtype != values.dtype:
                self._buffers[name] = values.to(moved.device)
        self.graphs = graphs
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "graphs": self.graphs is not None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        # A copy captures graphs of its own, on its own device.
        super().__setstate__(state)
        self.graphs = CudaGraphs(self.pixel_mean.device) if state["graphs"] else None

    def forward(self, image: Tensor) -> Detections:
        """Detections of one image, uint8 RGB [H, W, 3] or [3, H, W], of any size and on any device.

        Raises:
            ValueError (torch.jit.Error when scripted): if `image` is not that.
            RuntimeError: if the network's output is not finite.
        """
        return self.forward_batch([image])[0]

    @torch.jit.export
    def forward_batch(self, images: list[Tensor]) -> list[Detections]:
        """Detections of several images, each as `forward` takes it; their sizes may differ."""
        if not torch.jit.is_scripting():  # noqa: SIM102 – TorchScript leaves out what stands below this alone
            if self.graphs is not None and len(images) > 0:
                settings = (self.score_threshold, self.iou_threshold, self.max_detections)
                planes = [self._planes(image) for image in images]
                return self.graphs.run(self.forward_fixed, planes, settings, _cut_fixed)
        return [self._with_masks(objects) for objects in self._find_in(images)]

    @torch.jit.export
    def forward_fixed(self, images: list[Tensor]) -> list[FixedDetections]:
        """The same without waiting for the device, if the images are there: the shapes depend on no value.

        An output of the network that is not finite is no error here: see `FixedDetections.count`.
        """
        results: list[FixedDetections] = []
        for rows in self._select_in(images):
            absent = torch.arange(rows.scores.shape[0], device=rows.scores.device) >= rows.count
            padded = Selected(
                boxes=rows.boxes.masked_fill(absent[:, None], -1.0),  # outside the image, where every mask is empty
                scores=rows.scores.masked_fill(absent, 0.0),
                labels=rows.labels.masked_fill(absent, -1),
                height=rows.height,
                width=rows.width,
                count=rows.count,
                prototypes=rows.prototypes,
                coefficients=rows.coefficients,
            )
            detections = self._with_masks(padded)
            results.append(
                FixedDetections(
                    boxes=detections.boxes,
                    scores=detections.scores,
                    labels=detections.labels,
                    masks=detections.masks,
                    mask_scores=detections.mask_scores,
                    count=rows.count,
                )
            )
        return results

    @torch.jit.export
    def forward_encoded(self, images: list[Tensor]) -> list[EncodedDetections]:
        """The same with masks as COCO's run lengths."""
        return [self._with_runs(objects) for objects in self._find_in(images)]

    @torch.jit.export
    def forward_cropped(self, images: list[Tensor]) -> list[CroppedDetections]:
        """The same with each mask as the part of it near its box."""
        return [self._with_crops(objects) for objects in self._find_in(images)]

    @torch.jit.export
    def preprocess(self, image: Tensor) -> Tensor:
        """The network's input [1, 3, S, S] for one image as `forward` takes it: stretched to S × S, normalised."""
        return self._normalise(self._planes(image))

    @torch.jit.export
    def postprocess(self, predictions: Predictions, sizes: list[tuple[int, int]]) -> list[Detections]:
        """Detections from the network's output at the preset's image size.

        Args:
            predictions: of B images.
            sizes: (height, width) of each image in pixels.

        Raises:
            ValueError: if `predictions` are of another image size, or `sizes` are not one an image.
            RuntimeError: if `predictions` are not finite.
        """
        return [self._with_masks(objects) for objects in _cut(self._select(predictions, sizes))]

    def _find_in(self, images: list[Tensor]) -> list[Selected]:
        return _cut(self._select_in(images))

    def _select_in(self, images: list[Tensor]) -> list[Selected]:
        inputs: list[Tensor] = []
        sizes: list[tuple[int, int]] = []
        for image in images:
            planes = self._planes(image)
            inputs.append(self._normalise(planes))
            sizes.append((planes.shape[1], planes.shape[2]))
        results: list[Selected] = []
        if len(images) > 0:
            with torch.no_grad():
                results = self._select(self.model(torch.cat(inputs)), sizes)
        return results

    def _select(self, predictions: Predictions, sizes: list[tuple[int, int]]) -> list[Selected]:
        """What `postprocess` does before counts are read: `max_detections` rows an image."""
        if predictions.box_deltas.shape[1] != self.anchors.shape[0]:
            raise ValueError(
                f"the predictions hold {predictions.box_deltas.shape[1]} anchors, but an image of {self.image_size} "
                f"pixels has {self.anchors.shape[0]}: give the network an input of that size"
            )
        if predictions.box_deltas.shape[0] != len(sizes):
            raise ValueError(
                f"sizes must have one entry for each image, {predictions.box_deltas.shape[0]} in all, got {len(sizes)}"
            )
        deltas, logits, coefficients = predictions.box_deltas, predictions.logits, predictions.coefficients
        anchors = self.anchors
        if self.candidates_per_level > 0:
            best = self._best_of_each_level(logits)
            deltas, logits, coefficients = _pick(deltas, best), _pick(logits, best), _pick(coefficients, best)
            anchors = anchors[best]
        boxes, kept_scores, labels, indices, counted = detect(
            deltas,
            logits,
            anchors,
            self.variances[0],
            self.variances[1],
            self.max_log_scale,
            self.clip_before_nms,
            self.iou_threshold,
            max(self.top_k, self.max_detections),  # otherwise top_k would cap the detections of a class
            max(self.candidate_threshold, self.score_threshold),
            self.max_detections,
        )
        # Not a number would make a mask empty without a word.
        finite = predictions.prototypes.sum(dim=[1, 2, 3], dtype=torch.float32).isfinite()
        finite &= coefficients.sum(dim=[1, 2], dtype=torch.float32).isfinite()
        # masked_fill takes its number to the device with the launch, other ways of choosing may copy it there and wait.
        counted = counted.masked_fill(~finite, -1)
        counted = torch.minimum(counted, (kept_scores > self.score_threshold).sum(dim=1))
        kept = _pick(coefficients, indices.clamp(min=0))
        results: list[Selected] = []
        for i, (height, width) in enumerate(sizes):
            results.append(
                Selected(
                    boxes=boxes[i],
                    scores=kept_scores[i],
                    labels=labels[i],
                    height=height,
                    width=width,
                    count=counted[i],
                    prototypes=predictions.prototypes[i],
                    coefficients=kept[i],
                )
            )
        return results

    def _mask_scores(self, objects: Selected) -> Tensor:
        if self.model.rescoring is None:
            return objects.scores
        with torch.no_grad():
            soft = soft_masks(objects.prototypes, objects.coefficients, objects.boxes)
            return objects.scores * self.model.rescoring(soft, objects.labels.clamp(min=0)).float()

    def _with_masks(self, objects: Selected) -> Detections:
        height, width = objects.height, objects.width
        masks = assemble_masks(
            objects.prototypes, objects.coefficients, objects.boxes, height, width, self.mask_threshold
        )
        return Detections(
            boxes=_to_pixels(objects.boxes, height, width),
            scores=objects.scores,
            labels=objects.labels,
            masks=masks,
            mask_scores=self._mask_scores(objects),
        )

    def _with_runs(self, objects: Selected) -> EncodedDetections:
        height, width = objects.height, objects.width
        counts, offsets = assemble_runs(
            objects.prototypes, objects.coefficients, objects.boxes, height, width, self.mask_threshold
        )
        return EncodedDetections(
            boxes=_to_pixels(objects.boxes, height, width),
            scores=objects.scores,
            labels=objects.labels,
            mask_scores=self._mask_scores(objects),
            height=height,
            width=width,
            counts=counts,
            offsets=offsets,
        )

    def _with_crops(self, objects: Selected) -> CroppedDetections:
        height, width = objects.height, objects.width
        pixels, crops, offsets = assemble_crops(
            objects.prototypes, objects.coefficients, objects.boxes, height, width, self.mask_threshold
        )
        return CroppedDetections(
            boxes=_to_pixels(objects.boxes, height, width),
            scores=objects.scores,
            labels=objects.labels,
            mask_scores=self._mask_scores(objects),
            height=height,
            width=width,
            pixels=pixels,
            crops=crops,
            offsets=offsets,
        )

    def _planes(self, image: Tensor) -> Tensor:
        """`image` as [3, H, W]."""
        if not isinstance(image, Tensor):
            raise TypeError("an image must be a tensor: give torch.from_numpy(image) or yolact.read_image(path)")
        if image.dtype != torch.uint8:
            raise ValueError(f"an image must be uint8 with values 0–255, got {image.dtype}")
        if image.dim() == 3 and image.numel() > 0:
            if image.shape[2] == 3:
                return image.permute(2, 0, 1)
            if image.shape[0] == 3:
                return image
        raise ValueError(f"an image must be RGB of shape [H, W, 3] or [3, H, W], got {list(image.shape)}")

    def _normalise(self, planes: Tensor) -> Tensor:
        size = [self.image_size, self.image_size]
        pixels = planes.to(self.pixel_mean.device).float()[None]
        resized = F.interpolate(pixels, size=size, mode="bilinear", align_corners=False)
        return ((resized - self.pixel_mean) / self.pixel_std).contiguous()

    def _best_of_each_level(self, logits: Tensor) -> Tensor:
        """The anchors [B, n] with the best class scores, at most `candidates_per_level` of each pyramid level.

        There are more if `max_detections` is larger, which they would cap otherwise.
        """
        most = max(self.candidates_per_level, self.max_detections)
        best = logits.float().softmax(dim=-1)[:, :, 1:].amax(dim=-1)
        picked: list[Tensor] = []
        start = 0
        for count in self.level_counts:
            picked.append(best[:, start : start + count].topk(min(count, most))[1] + start)
            start += count
        return torch.cat(picked, dim=1)


def soft_masks(prototypes: Tensor, coefficients: Tensor, boxes: Tensor) -> Tensor:
    """Masks at prototype resolution, not yet compared with the threshold; `assemble_masks` never stores them.

    Args:
        prototypes: [h, w, K].
        coefficients: [N, K].
        boxes: [N, 4] float32 xyxy, relative.

    Returns:
        [N, h, w], 0–1, zero outside the boxes; with gradient.
    """
    logits = torch.matmul(coefficients, prototypes.flatten(0, 1).t())
    return crop(logits.sigmoid().unflatten(1, prototypes.shape[:2]), boxes)


def _read(counts: list[Tensor]) -> list[int]:
    """Counts of `Selected` as numbers: here, and nowhere before it, the host waits for the device."""
    if len(counts) == 0:
        return []
    numbers: list[int] = torch.stack(counts).tolist()
    if min(numbers) < 0:
        raise RuntimeError("the network's output is not finite (NaN or infinity): check the weights and the precision")
    return numbers


def _cut(selected: list[Selected]) -> list[Selected]:
    """Without the rows that are no objects."""
    results: list[Selected] = []
    for rows, n in zip(selected, _read([rows.count for rows in selected])):  # noqa: B905 – TorchScript has no `strict`
        results.append(
            Selected(
                boxes=rows.boxes[:n],
                scores=rows.scores[:n],
                labels=rows.labels[:n],
                height=rows.height,
                width=rows.width,
                count=rows.count,
                prototypes=rows.prototypes,
                coefficients=rows.coefficients[:n],
            )
        )
    return results


def _cut_fixed(fixed: list[FixedDetections]) -> list[Detections]:
    """Copies of the rows that are objects."""
    counts = _read([rows.count for rows in fixed])
    return [
        Detections(**{name: getattr(rows, name)[:n].clone() for name in Detections._fields})
        for rows, n in zip(fixed, counts, strict=True)
    ]


def _pick(values: Tensor, anchors: Tensor) -> Tensor:
    """`values` [B, A, n] of `anchors` [B, m], as [B, m, n]."""
    return values.gather(1, anchors[:, :, None].expand(-1, -1, values.shape[2]))


def _to_pixels(boxes: Tensor, height: int, width: int) -> Tensor:
    """Relative xyxy boxes [N, 4] in pixels, clamped to the image."""
    x = (boxes[:, 0::2] * width).clamp(min=0, max=width)
    y = (boxes[:, 1::2] * height).clamp(min=0, max=height)
    return torch.stack((x[:, 0], y[:, 0], x[:, 1], y[:, 1]), dim=1)
