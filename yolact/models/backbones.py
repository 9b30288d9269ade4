"""Backbones, which turn an image into the feature maps C3, C4 and C5 (strides 8, 16, 32), and the table of them."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

from yolact.models.deformable import DeformConv2d


class ResNet(nn.Module):
    """torchvision's ResNet without its classifier; parameters keep torchvision's names.

    Args:
        build: one of torchvision's resnet functions.
        deformable_interval: n, where every n-th block of C3, C4 and C5, beginning with the first, has a deformable 3×3
            conv (YOLACT++); 0 where none has.
    """

    def __init__(self, build: Callable[..., torchvision.models.ResNet], deformable_interval: int = 0):
        super().__init__()
        resnet = build(weights=None)
        self.conv1, self.bn1, self.relu, self.maxpool = resnet.conv1, resnet.bn1, resnet.relu, resnet.maxpool
        self.layer1, self.layer2, self.layer3, self.layer4 = resnet.layer1, resnet.layer2, resnet.layer3, resnet.layer4
        expansion = resnet.fc.in_features // 512
        self.channels = [128 * expansion, 256 * expansion, 512 * expansion]
        if deformable_interval > 0:
            for stage in (self.layer2, self.layer3, self.layer4):
                for block in list(stage)[::deformable_interval]:
                    conv = block.conv2
                    block.conv2 = DeformConv2d(conv.in_channels, conv.out_channels, stride=conv.stride[0])

    def forward(self, images: Tensor) -> list[Tensor]:
        """[B, 3, H, W] to C3, C4, C5."""
        x = self.layer1(self.maxpool(self.relu(self.bn1(self.conv1(images)))))
        c3 = self.layer2(x)
        c4 = self.layer3(c3)
        return [c3, c4, self.layer4(c4)]


class Darknet53(nn.Module):
    """YOLOv3's Darknet-53 without its classifier (Redmon and Farhadi, arXiv:1804.02767)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _darknet_conv(3, 32, 3)
        stages, width = [], 32
        for blocks in (1, 2, 8, 8, 4):
            stages.append(_darknet_stage(width, blocks))
            width *= 2
        self.layer1, self.layer2, self.layer3, self.layer4, self.layer5 = stages
        self.channels = [256, 512, 1024]

    def forward(self, images: Tensor) -> list[Tensor]:
        """[B, 3, H, W] to C3, C4, C5."""
        c3 = self.layer3(self.layer2(self.layer1(self.stem(images))))
        c4 = self.layer4(c3)
        return [c3, c4, self.layer5(c4)]


class DarknetBlock(nn.Module):
    """1×1 conv to half the channels, 3×3 conv back, and the input added; no activation after the sum."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = _darknet_conv(channels, channels // 2, 1)
        self.conv2 = _darknet_conv(channels // 2, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.conv1(x)) + x


def _darknet_stage(width: int, blocks: int) -> nn.Sequential:
    """[B, width, H, W] to [B, 2·width, H/2, W/2]."""
    return nn.Sequential(
        _darknet_conv(width, 2 * width, 3, stride=2), *(DarknetBlock(2 * width) for _ in range(blocks))
    )


def _darknet_conv(in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.LeakyReLU(0.1),
    )


class TorchvisionBackbone(nn.Module):
    """One of torchvision's classifiers up to its last feature map; within `body` parameters keep torchvision's names.

    C3, C4 and C5 are the last maps of strides 8, 16 and 32.

    Args:
        name: one of `torchvision.models.list_models()`.

    Raises:
        ValueError: if it has no maps of these strides.
    """

    def __init__(self, name: str):
        super().__init__()
        nodes, self.channels = _feature_maps(name)
        levels = dict(zip(nodes, ("c3", "c4", "c5"), strict=True))
        # Some of torchvision's models compute their widths with tensors, which fails on the meta device.
        with torch.device("cpu"):
            model = torchvision.models.get_model(name, weights=None)
            body = create_feature_extractor(model, levels, suppress_diff_warning=True)
        self.body = body.to(torch.empty(0).device)

    def forward(self, images: Tensor) -> list[Tensor]:
        """[B, 3, H, W] to C3, C4, C5."""
        maps = self.body(images)
        return [maps["c3"], maps["c4"], maps["c5"]]

    def __deepcopy__(self, memo: dict[int, Any]) -> "TorchvisionBackbone":
        twin = type(self).__new__(type(self))
        memo[id(self)] = twin
        twin.__dict__ = copy.deepcopy(self.__dict__, memo)
        # torch.fx puts the copy of a graph into training mode, in which batch norms compute something else.
        modes = {name: module.training for name, module in self.named_modules()}
        for name, module in twin.named_modules():
            module.training = modes[name]
        return twin


@cache
def _feature_maps(name: str) -> tuple[tuple[str, ...], list[int]]:
    """The graph nodes of C3, C4 and C5 in a torchvision model, and their channels."""
    side = 128
    # The model that is built here must not use up the caller's random numbers: it is built only once for each name.
    with torch.device("cpu"), torch.no_grad(), torch.random.fork_rng(devices=[]):
        model = torchvision.models.get_model(name, weights=None).eval()
        nodes = get_graph_node_names(model, suppress_diff_warning=True)[1]
        outputs = create_feature_extractor(model, nodes, suppress_diff_warning=True)(torch.zeros(1, 3, side, side))
    last: dict[int, tuple[str, int]] = {}
    for node, output in outputs.items():
        if isinstance(output, Tensor) and output.dim() == 4 and output.shape[2] == output.shape[3] > 1:
            last[side // output.shape[2]] = (node, output.shape[1])
    if not {8, 16, 32} <= last.keys():
        raise ValueError(f"torchvision's {name} cannot be a backbone: it has no feature maps of strides 8, 16 and 32")
    return tuple(last[stride][0] for stride in (8, 16, 32)), [last[stride][1] for stride in (8, 16, 32)]


@dataclass(frozen=True)
class Backbone:
    """How to build a backbone, and what it can be used for.

    Attributes:
        build: makes it, with random weights; where `deformable`, from a `deformable_interval`.
        deformable: whether some of its convolutions can be deformable.
        in_original: whether the original's code has it too.
    """

    build: Callable[..., nn.Module]
    deformable: bool = False
    in_original: bool = False


BACKBONES = {
    "resnet50": Backbone(partial(ResNet, torchvision.models.resnet50), deformable=True, in_original=True),
    "resnet101": Backbone(partial(ResNet, torchvision.models.resnet101), deformable=True, in_original=True),
    "darknet53": Backbone(Darknet53, in_original=True),
}


def find_backbone(name: str) -> Backbone:
    """The backbone called `name`: one of `BACKBONES`, or one of torchvision's convolutional classifiers.

    Raises:
        ValueError: if there is none.
    """
    if name in BACKBONES:
        return BACKBONES[name]
    if name in torchvision.models.list_models(torchvision.models):
        return Backbone(partial(TorchvisionBackbone, name))
    raise ValueError(
        f"no backbone is called {name!r}; there are: {', '.join(BACKBONES)}, and torchvision's classifiers "
        f"such as mobilenet_v3_large, shufflenet_v2_x1_0 and regnet_y_400mf"
    )


def build_backbone(name: str, deformable_interval: int = 0) -> nn.Module:
    """A backbone with random weights; its `channels` lists those of C3, C4 and C5.

    Args:
        name: as `find_backbone` takes it.
        deformable_interval: see `ResNet`; 0 for a backbone that cannot have deformable convolutions.

    Raises:
        ValueError: if there is no such backbone, or it cannot have deformable convolutions but is asked to.
    """
    backbone = find_backbone(name)
    if backbone.deformable:
        return backbone.build(deformable_interval)
    if deformable_interval > 0:
        able = " and ".join(other for other, row in BACKBONES.items() if row.deformable)
        raise ValueError(
            f"deformable_interval is {deformable_interval}, but only {able} have deformable convolutions: set it to 0 "
            f"for {name}"
        )
    return backbone.build()
