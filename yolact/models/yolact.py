"""The assembled network, which turns normalised images into raw predictions."""

from typing import NamedTuple, cast

from torch import Tensor, nn

from yolact.config import Preset, get_preset
from yolact.models.anchors import level_sizes, make_anchors
from yolact.models.backbones import build_backbone
from yolact.models.fpn import FPN
from yolact.models.head import Head
from yolact.models.protonet import Protonet
from yolact.models.rescoring import SMALLEST_SIDE, MaskRescoring


class Predictions(NamedTuple):
    """Raw outputs of the network for B images and A anchors.

    box_deltas: [B, A, 4] encoded boxes, see `yolact.ops.reference.decode`.
    logits: [B, A, 1 + classes], background first.
    coefficients: [B, A, K] of the masks, after tanh.
    prototypes: [B, h, w, K], after ReLU.
    """

    box_deltas: Tensor
    logits: Tensor
    coefficients: Tensor
    prototypes: Tensor


class Yolact(nn.Module):
    """YOLACT (Bolya et al., ICCV 2019), with random weights.

    Args:
        preset: the architecture.
        num_classes: without the background; by default the preset's.

    Raises:
        ValueError: if `num_classes` is not positive, or the fields of the preset do not fit together.
    """

    def __init__(self, preset: Preset, num_classes: int | None = None):
        super().__init__()
        num_classes = preset.num_classes if num_classes is None else num_classes
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}")
        mask_side = 2 * level_sizes(preset.image_size, preset.image_size)[0][0]
        if preset.rescores_masks and mask_side < SMALLEST_SIDE:
            raise ValueError(
                f"{preset.name}: image_size {preset.image_size} makes masks of {mask_side} pixels a side, but "
                f"re-scoring them needs {SMALLEST_SIDE}: give an image_size of at least {4 * SMALLEST_SIDE}"
            )
        channels = preset.fpn_channels
        self.preset = preset
        self.num_classes = num_classes
        self.backbone = build_backbone(preset.backbone, preset.deformable_interval)
        self.fpn = FPN(cast("list[int]", self.backbone.channels), channels, preset.fpn_relu, preset.p6_from_c5)
        self.protonet = Protonet(channels, preset.num_prototypes)
        self.head = Head(channels, preset.anchors.per_location, num_classes, preset.num_prototypes)
        self.semantic = nn.Conv2d(channels, num_classes, 1)  # only the semantic loss uses it
        self.rescoring = MaskRescoring(num_classes) if preset.rescores_masks else None
        for part in (self.fpn, self.protonet, self.head, self.semantic, self.rescoring):
            if part is not None:
                part.apply(_initialise)

    def forward(self, images: Tensor) -> Predictions:
        """Predictions for `images` [B, 3, H, W], normalised float; any size of at least one pixel."""
        return self._predict(self.fpn(self.backbone(images)))

    def forward_training(self, images: Tensor) -> tuple[Predictions, Tensor]:
        """The predictions of `forward`, and the semantic logits [B, classes, h, w] of P3."""
        pyramid = self.fpn(self.backbone(images))
        return self._predict(pyramid), self.semantic(pyramid[0])

    def _predict(self, pyramid: list[Tensor]) -> Predictions:
        deltas, logits, coefficients = self.head(pyramid)
        return Predictions(deltas, logits, coefficients, self.protonet(pyramid[0]))

    def anchors(self, height: int, width: int) -> Tensor:
        """The anchors [A, 4] of an input of `height` × `width` pixels, xyxy relative to it."""
        return make_anchors(self.preset.anchors, height, width)


def _initialise(module: nn.Module) -> None:
    """Initialises a layer outside the backbone as the original does."""
    if isinstance(module, nn.Conv2d):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def build_model(name: str, num_classes: int | None = None) -> Yolact:
    """The network of a preset, with random weights.

    Args:
        name: one of `yolact.list_models()`.
        num_classes: without the background; by default the preset's.

    Raises:
        ValueError: if there is no such preset, or `num_classes` is not positive.
    """
    return Yolact(get_preset(name), num_classes)
