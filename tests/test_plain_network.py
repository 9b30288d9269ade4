"""Compares raw outputs of the presets without a recording with a network of plain functions.

The functions read a published layout by its own names, so they share only the values with the package.
"""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import recorded_state

import yolact
from yolact.benchmark import deterministic
from yolact.ops import reference


@dataclass(frozen=True)
class Names:
    """The names of layers in a family of checkpoints. Those of the pyramid begin at C3."""

    stage: str
    laterals: tuple[str, ...]
    outputs: tuple[str, ...]
    coarse: tuple[str, str]
    prototypes: tuple[str, ...]
    head: tuple[str, str, str, str]


ORIGINAL = Names(
    "backbone.layers.{0}",
    tuple(f"fpn.lat_layers.{i}" for i in (2, 1, 0)),
    tuple(f"fpn.pred_layers.{i}" for i in (2, 1, 0)),
    ("fpn.downsample_layers.0", "fpn.downsample_layers.1"),
    tuple(f"proto_net.{i}" for i in (0, 2, 4, 8, 10)),
    tuple(f"prediction_layers.0.{name}" for name in ("upfeature.0", "bbox_layer", "conf_layer", "mask_layer")),
)
MMDET = Names(
    "backbone.layer{1}",
    tuple(f"neck.lateral_convs.{i}.conv" for i in (0, 1, 2)),
    tuple(f"neck.fpn_convs.{i}.conv" for i in (0, 1, 2)),
    ("neck.fpn_convs.3.conv", "neck.fpn_convs.4.conv"),
    tuple(f"mask_head.protonet.{i}" for i in (0, 2, 4, 8, 10)),
    ("bbox_head.head_convs.0.conv", "bbox_head.conv_reg", "bbox_head.conv_cls", "bbox_head.conv_coeff"),
)


@dataclass(frozen=True)
class Case:
    preset: str
    layout: str
    size: int  # of the image, in pixels
    blocks: tuple[int, ...]
    names: Names = ORIGINAL


CASES = [
    # At their real size.
    Case("yolact_base", "yolact_base", 550, (3, 4, 23, 3)),
    Case("yolact_darknet53", "yolact_darknet53", 550, (1, 2, 8, 8, 4)),
    Case("yolact_plus_resnet50", "yolact_plus_resnet50", 550, (3, 4, 6, 3)),
    # These are like one of the others in all but depth, classes and anchors, so a smaller image is enough.
    Case("yolact_im400", "yolact_base", 200, (3, 4, 23, 3)),
    Case("yolact_im700", "yolact_im700", 280, (3, 4, 23, 3)),
    Case("yolact_resnet50_pascal", "yolact_resnet50_pascal", 275, (3, 4, 6, 3)),
    Case("yolact_plus_base", "yolact_plus_base", 275, (3, 4, 23, 3)),
    Case("yolact_r101_1x8_coco", "mmdet_r101", 275, (3, 4, 23, 3), MMDET),
]


class PlainNetwork:
    def __init__(self, state: dict[str, torch.Tensor], case: Case):
        self.state, self.case, self.names = state, case, case.names

    def conv(self, x, name, stride=1):
        weight = self.state[f"{name}.weight"]
        return F.conv2d(x, weight, self.state.get(f"{name}.bias"), stride, padding=weight.shape[2] // 2)

    def norm(self, x, name):
        mean, variance, weight, bias = (
            self.state[f"{name}.{part}"][:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (variance + 1e-5).sqrt() * weight + bias

    def deformable(self, x, name, stride):
        predicted = self.conv(x, f"{name}.conv_offset_mask", stride).permute(0, 2, 3, 1)
        columns = reference.deform_columns(
            x.permute(0, 2, 3, 1), predicted[..., :18], predicted[..., 18:].sigmoid(), 3, stride, 1
        )
        taps = self.state[f"{name}.weight"].flatten(2).permute(2, 1, 0).flatten(0, 1)  # [9·C, O]
        return (columns @ taps + self.state[f"{name}.bias"]).permute(0, 3, 1, 2)

    def bottleneck(self, x, name, stride):
        inside = self.norm(self.conv(x, f"{name}.conv1"), f"{name}.bn1").relu()
        is_deformable = f"{name}.conv2.conv_offset_mask.weight" in self.state
        inside = (self.deformable if is_deformable else self.conv)(inside, f"{name}.conv2", stride)
        inside = self.norm(inside, f"{name}.bn2").relu()
        inside = self.norm(self.conv(inside, f"{name}.conv3"), f"{name}.bn3")
        if f"{name}.downsample.0.weight" in self.state:
            x = self.norm(self.conv(x, f"{name}.downsample.0", stride), f"{name}.downsample.1")
        return (inside + x).relu()

    def resnet(self, x):
        x = self.norm(self.conv(x, "backbone.conv1", 2), "backbone.bn1").relu()
        x, maps = F.max_pool2d(x, 3, 2, 1), []
        for stage, blocks in enumerate(self.case.blocks):
            for block in range(blocks):
                stride = 2 if block == 0 and stage > 0 else 1
                x = self.bottleneck(x, f"{self.names.stage.format(stage, stage + 1)}.{block}", stride)
            maps.append(x)
        return maps[1:]

    def darknet(self, x):
        def conv(x, name, stride=1):
            return F.leaky_relu(self.norm(self.conv(x, f"{name}.0", stride), f"{name}.1"), 0.1)

        x, maps = conv(x, "backbone._preconv"), []
        for stage, blocks in enumerate(self.case.blocks):
            name = f"backbone.layers.{stage}"
            x = conv(x, f"{name}.0", 2)
            for block in range(1, blocks + 1):
                x = x + conv(conv(x, f"{name}.{block}.conv1"), f"{name}.{block}.conv2")
            maps.append(x)
        return maps[2:]

    def __call__(self, x):
        maps = self.darknet(x) if "backbone._preconv.0.weight" in self.state else self.resnet(x)
        levels = [self.conv(c, name) for c, name in zip(maps, self.names.laterals, strict=True)]
        for i in (1, 0):
            levels[i] = levels[i] + F.interpolate(levels[i + 1], levels[i].shape[2:], mode="bilinear")
        levels = [self.conv(p, name) for p, name in zip(levels, self.names.outputs, strict=True)]
        if self.names is ORIGINAL:
            levels = [p.relu() for p in levels]
        levels.append(self.conv(maps[2] if self.names is MMDET else levels[2], self.names.coarse[0], 2))
        levels.append(self.conv(levels[3], self.names.coarse[1], 2))
        prototypes = levels[0]
        for i, name in enumerate(self.names.prototypes):
            prototypes = self.conv(prototypes, name).relu()
            if i == 2:
                prototypes = F.interpolate(prototypes, scale_factor=2, mode="bilinear")
        shared, *outputs = self.names.head
        rows = []
        for p in levels:
            x = self.conv(p, shared).relu()
            rows.append([self.conv(x, name).permute(0, 2, 3, 1) for name in outputs])
        anchors = rows[0][0].shape[3] // 4
        boxes, logits, coefficients = (
            torch.cat([row[i].reshape(1, -1, row[i].shape[3] // anchors) for row in rows], dim=1) for i in range(3)
        )
        if self.names is MMDET:
            logits = logits.roll(1, dims=2)  # its background is the last class
        return boxes, logits, coefficients.tanh(), prototypes.permute(0, 2, 3, 1)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.preset)
def test_raw_outputs(case):
    state = recorded_state(case.layout, 1.5)
    model = yolact.build_model(case.preset).eval()
    yolact.load_weights(model, state)
    image = torch.from_numpy(deterministic.network_input(3, case.size, case.size).astype(np.float32))
    with torch.no_grad():
        predictions, plain = model(image), PlainNetwork(state, case)(image)
    for name, actual, expected in zip(predictions._fields, predictions, plain, strict=True):
        assert actual.shape == expected.shape, name
        assert (actual - expected).abs().max() <= 1e-3 * expected.abs().max(), name
