"""Backbones: an image to the feature maps C3, C4 and C5 (strides 8, 16, 32)."""

import functools
from collections.abc import Callable

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names


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


class TorchvisionBackbone(nn.Module):
    """One of torchvision's classifiers up to its last feature map; parameters keep torchvision's names in `body`.

    C3, C4 and C5 are the last maps of strides 8, 16 and 32.

    Args:
        name: of `torchvision.models.list_models()`.

    Raises:
        ValueError: if it has no maps of these strides.
    """

    def __init__(self, name: str):
        super().__init__()
        nodes, self.channels = _feature_maps(name)
        levels = dict(zip(nodes, ("c3", "c4", "c5"), strict=True))
        # Some of torchvision's models compute their widths with tensors, which a meta device does not do.
        with torch.device("cpu"):
            model = torchvision.models.get_model(name, weights=None)
            body = create_feature_extractor(model, levels, suppress_diff_warning=True)
        self.body = body.to(torch.empty(0).device)

    def forward(self, images: Tensor) -> list[Tensor]:
        """[B, 3, H, W] to C3, C4, C5."""
        maps = self.body(images)
        return [maps["c3"], maps["c4"], maps["c5"]]


@functools.cache
def _feature_maps(name: str) -> tuple[tuple[str, ...], list[int]]:
    """The graph nodes of C3, C4 and C5 in a torchvision model, and their channels."""
    side = 128
    # The look at a model of its own must not change what the caller draws, who asks for a name once or often.
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


BACKBONES: dict[str, Callable[[], nn.Module]] = {
    "resnet50": lambda: ResNet(torchvision.models.resnet50),
    "resnet101": lambda: ResNet(torchvision.models.resnet101),
}


def build_backbone(name: str) -> nn.Module:
    """A backbone with random weights; its `channels` lists those of C3, C4 and C5.

    Args:
        name: in `BACKBONES`, or of one of torchvision's convolutional classifiers.

    Raises:
        ValueError: if it is neither.
    """
    if name in BACKBONES:
        return BACKBONES[name]()
    if name in torchvision.models.list_models(torchvision.models):
        return TorchvisionBackbone(name)
    raise ValueError(
        f"no backbone is called {name!r}; there are: {', '.join(BACKBONES)}, and torchvision's classifiers "
        f"such as mobilenet_v3_large, shufflenet_v2_x1_0 and regnet_y_400mf"
    )
