"""Presets: everything in which one published YOLACT differs from another, as data.

The architectures of `dbolya/yolact` ("original") and of `open-mmlab/mmdetection` ("mmdet") differ only in the fields
below. So another variant is another preset.
"""

from dataclasses import dataclass, replace

COCO_CLASSES = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow",
    "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee",
    "skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard",
    "tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple",
    "sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch",
    "potted plant", "bed", "dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard", "cell phone",
    "microwave", "oven", "toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors", "teddy bear",
    "hair drier", "toothbrush",
)  # fmt: skip

PASCAL_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip

SHAPES_CLASSES = (
    "circle", "ring", "square", "triangle", "star", "cross", "crescent", "gear", "heart", "arrow",
)  # fmt: skip


@dataclass(frozen=True)
class Anchors:
    """Anchor boxes of one location on each level.

    A scale s and an aspect ratio r (width / height) make a box of s·√r × s/√r pixels.
    """

    scales: tuple[tuple[float, ...], ...] = ((24,), (48,), (96,), (192,), (384,))  # pixels of the input, by level
    aspect_ratios: tuple[float, ...] = (1, 1 / 2, 2)
    square: bool = False  # height = width = s·√r instead: a bug of the original, for which its weights are trained

    @property
    def per_location(self) -> int:
        return len(self.scales[0]) * len(self.aspect_ratios)


@dataclass(frozen=True)
class PostProcessing:
    """How raw predictions become detections."""

    candidate_threshold: float = 0.05  # anchors whose best class score is not above this are ignored
    score_threshold: float = 0.0  # every detection has a score above this
    iou_threshold: float = 0.5
    top_k: int = 200  # so many candidates of each class enter Fast NMS
    max_detections: int = 100
    candidates_per_level: int | None = None  # so many best anchors of each level are kept before NMS; None: all
    max_log_scale: float | None = None  # clamp of |log(width / anchor width)|, heights alike
    clip_before_nms: bool = False  # clip boxes to the image before NMS and mask cropping
    mask_threshold: float = 0.5


@dataclass(frozen=True)
class LossConfig:
    """How anchors are matched with objects, and the parts of the loss (YOLACT, section 3 and its appendix)."""

    positive_iou: float = 0.5  # an anchor with at least this IoU with an object is positive
    negative_iou: float = 0.4  # one with a lower IoU with every object is background; those between are ignored
    crowd_overlap: float = 0.7  # an anchor is not background if a larger share of its area lies in a crowd
    negative_ratio: int = 3  # hard negatives for each positive of an image
    empty_image_negatives: int = 30  # hard negatives of an image without objects
    box_weight: float = 1.5
    class_weight: float = 1.0
    mask_weight: float = 6.125
    semantic_weight: float = 1.0
    mask_iou_weight: float = 25.0  # of mask re-scoring, where there is one (YOLACT++, section 4)
    min_rescored_area: int = 25  # only larger masks train the re-scoring; in pixels at prototype resolution
    max_masks: int = 100  # at most so many positives of an image enter the mask loss, chosen at random


@dataclass(frozen=True)
class Publication:
    """Where a preset's trained weights are published, and how good they are on COCO."""

    mask_map: float | None = None  # mask mAP on COCO
    split: str = ""  # the split of COCO that `mask_map` is of
    hub_repository: str = ""  # on the Hugging Face Hub
    url: str = ""  # of the file, where there is no hub repository
    file: str = ""
    sha256_prefix: str = ""
    bundled: bool = False  # `file` is in the package's folder assets/
    fps: float | None = None  # images per second on a Titan Xp, as the original's README and paper say
    licence: str = ""  # of the weights: that of their repository

    @property
    def address(self) -> str:
        if self.hub_repository:
            return f"https://huggingface.co/{self.hub_repository}/resolve/main/{self.file}"
        return self.url


@dataclass(frozen=True)
class Preset:
    """A YOLACT with a name: its architecture, input, post-processing, loss and publication."""

    name: str
    backbone: str
    image_size: int = 550  # side of the square to which an image is stretched, pixels
    class_names: tuple[str, ...] = COCO_CLASSES
    deformable_interval: int = 0  # n: every n-th block of C3–C5 has a deformable 3×3 conv; 0: none has
    rescores_masks: bool = False  # another small network scores each mask
    anchors: Anchors = Anchors()
    fpn_relu: bool = True  # ReLU on P3–P5
    p6_from_c5: bool = False  # P6 is made from C5 instead of P5
    post_processing: PostProcessing = PostProcessing()
    loss: LossConfig = LossConfig()
    published_layout: str = "original"  # layout of the published checkpoint, see yolact.weights.layouts
    publication: Publication = Publication()
    pixel_mean: tuple[float, float, float] = (123.68, 116.78, 103.94)  # RGB, 0–255
    pixel_std: tuple[float, float, float] = (58.40, 57.12, 57.38)
    fpn_channels: int = 256
    num_prototypes: int = 32
    variances: tuple[float, float] = (0.1, 0.2)  # of the encoded centres and sizes

    @property
    def num_classes(self) -> int:
        return len(self.class_names)


def _scales_at(image_size: int) -> tuple[tuple[float, ...], ...]:
    return tuple((int(scale / 550 * image_size),) for scale in (24, 48, 96, 192, 384))


# YOLACT++ has three scales at each location, and anchors that are not square.
_PLUS_ANCHORS = Anchors(
    scales=tuple(tuple(scale * 2 ** (third / 3) for third in range(3)) for scale in (24, 48, 96, 192, 384))
)


def _on_hub(repository: str, file: str, mask_map: float, fps: float) -> Publication:
    return Publication(mask_map, "test-dev", hub_repository=f"dbolya/{repository}", file=file, fps=fps, licence="MIT")


def _open_mmlab(file: str, mask_map: float) -> Publication:
    folder = "https://openmmlab.oss-cn-hangzhou.aliyuncs.com/mmdetection/v2.0/yolact"
    return Publication(
        mask_map,
        "val",
        url=f"{folder}/{file}",
        file=file,
        sha256_prefix=file[:-4].rsplit("-", 1)[1],
        licence="Apache-2.0",
    )


_RESNET50 = Preset(
    name="yolact_resnet50",
    backbone="resnet50",
    anchors=Anchors(square=True),
    publication=_on_hub("yolact-resnet50", "yolact_resnet50_54_800000.pth", 28.2, 42.5),
)
_BASE = replace(
    _RESNET50,
    name="yolact_base",
    backbone="resnet101",
    publication=_on_hub("yolact-base", "yolact_base_54_800000.pth", 29.8, 33.5),
)
_MMDET_R50 = Preset(
    name="yolact_r50_1x8_coco",
    backbone="resnet50",
    anchors=Anchors(aspect_ratios=(2, 1, 1 / 2)),
    fpn_relu=False,
    p6_from_c5=True,
    post_processing=PostProcessing(
        candidate_threshold=0.0,
        score_threshold=0.05,
        candidates_per_level=1000,
        max_log_scale=4.135166556742356,  # |ln(16 / 1000)|
        clip_before_nms=True,
    ),
    published_layout="mmdet",
    publication=_open_mmlab("yolact_r50_1x8_coco_20200908-f38d58df.pth", 29.0),
)

PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        _RESNET50,
        _BASE,
        replace(
            _RESNET50,
            name="yolact_darknet53",
            backbone="darknet53",
            publication=_on_hub("yolact-darknet53", "yolact_darknet53_54_800000.pth", 28.7, 40.0),
        ),
        replace(
            _RESNET50,
            name="yolact_resnet50_pascal",
            class_names=PASCAL_CLASSES,
            anchors=Anchors(scales=((32,), (64,), (128,), (256,), (512,))),
            publication=Publication(),
        ),
        replace(
            _BASE,
            name="yolact_im400",
            image_size=400,
            anchors=Anchors(scales=_scales_at(400), square=True),
            publication=Publication(24.9, "test-dev", fps=45.3),  # the paper has it, but no weights are published
        ),
        replace(
            _BASE,
            name="yolact_im700",
            image_size=700,
            anchors=Anchors(scales=_scales_at(700), square=True),
            loss=LossConfig(max_masks=300),
            publication=_on_hub("yolact-im700", "yolact_im700_54_800000.pth", 31.2, 23.6),
        ),
        replace(
            _RESNET50,
            name="yolact_plus_resnet50",
            deformable_interval=1,
            rescores_masks=True,
            anchors=_PLUS_ANCHORS,
            publication=_on_hub("yolact-plus-resnet50", "yolact_plus_resnet50_54_800000.pth", 34.1, 33.5),
        ),
        replace(
            _BASE,
            name="yolact_plus_base",
            deformable_interval=3,
            rescores_masks=True,
            anchors=_PLUS_ANCHORS,
            publication=_on_hub("yolact-plus-base", "yolact_plus_base_54_800000.pth", 34.6, 27.3),
        ),
        _MMDET_R50,
        replace(
            _MMDET_R50,
            name="yolact_r50_8x8_coco",
            publication=_open_mmlab("yolact_r50_8x8_coco_20200908-ca34f5db.pth", 28.4),
        ),
        replace(
            _MMDET_R50,
            name="yolact_r101_1x8_coco",
            backbone="resnet101",
            publication=_open_mmlab("yolact_r101_1x8_coco_20200908-4cbe9101.pth", 30.4),
        ),
        # Small and fast, for the synthetic data set `shapes`.
        Preset(
            name="yolact_shapes",
            backbone="regnet_y_400mf",
            image_size=256,
            class_names=SHAPES_CLASSES,
            anchors=Anchors(scales=((22,), (42,), (76,), (130,), (200,))),
            fpn_channels=64,
            num_prototypes=16,
            publication=Publication(file="yolact_shapes.safetensors", bundled=True, licence="MIT"),
        ),
    )
}


def list_models() -> list[str]:
    """Names of the presets."""
    return list(PRESETS)


def get_preset(name: str) -> Preset:
    """The preset called `name`.

    Raises:
        ValueError: if there is none; the message lists all presets.
    """
    if name not in PRESETS:
        raise ValueError(f"no preset is called {name!r}; there are: {', '.join(PRESETS)}")
    return PRESETS[name]


def default_class_names(preset: Preset, num_classes: int) -> tuple[str, ...]:
    """The preset's class names if they are `num_classes`, otherwise "class 1", "class 2", …."""
    if num_classes == preset.num_classes:
        return preset.class_names
    return tuple(f"class {number}" for number in range(1, num_classes + 1))
