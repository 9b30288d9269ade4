"""Backbones: an image to the feature maps C3, C4 and C5 (strides 8, 16, 32)."""

from collections.abc import Callable

import torchvision
from torch import Tensor, nn


class ResNet(nn.Module):
    """torchvision's ResNet without its classifier; parameters keep torchvision's names.

    Args:
        build: one of torchvision's resnet functions.
    """

    def __init__(self, build: Callable[..., torchvision.models.ResNet]):
        super().__init__()
        resnet = build(weights=None)
        self.conv1, self.bn1, self.relu, self.maxpool = resnet.conv1, resnet.bn1, resnet.relu, resnet.maxpool
        self.layer1, self.layer2, self.layer3, self.layer4 = resnet.layer1, resnet.layer2, resnet.layer3, resnet.layer4
        expansion = resnet.fc.in_features // 512
        self.channels = [128 * expansion, 256 * expansion, 512 * expansion]

    def forward(self, images: Tensor) -> list[Tensor]:
        """[B, 3, H, W] to C3, C4, C5."""
        x = self.layer1(self.maxpool(self.relu(self.bn1(self.conv1(images)))))
        c3 = self.layer2(x)
        c4 = self.layer3(c3)
        return [c3, c4, self.layer4(c4)]


BACKBONES: dict[str, Callable[[], nn.Module]] = {
    "resnet50": lambda: ResNet(torchvision.models.resnet50),
    "resnet101": lambda: ResNet(torchvision.models.resnet101),
}


def build_backbone(name: str) -> nn.Module:
    """A backbone with random weights; its `channels` lists those of C3, C4 and C5.

    Raises:
        ValueError: if `name` is not in `BACKBONES`.
    """
    if name not in BACKBONES:
        raise ValueError(f"no backbone is called {name!r}; there are: {', '.join(BACKBONES)}")
    return BACKBONES[name]()
