"""Checkpoint layouts: turns the names and conventions of the original and of mmdetection into ours, and back."""

from collections.abc import Mapping

import torch
from torch import Tensor

# Prefixes of parameter names, theirs and ours. If several match, the longest counts.
_ORIGINAL = {
    **{f"backbone.layers.{stage}": f"backbone.layer{stage + 1}" for stage in range(5)},
    "backbone._preconv": "backbone.stem",
    "backbone": "backbone",
    **{f"fpn.lat_layers.{i}": f"fpn.laterals.{2 - i}" for i in range(3)},  # from C5 to C3
    **{f"fpn.pred_layers.{i}": f"fpn.outputs.{2 - i}" for i in range(3)},
    "fpn.downsample_layers.0": "fpn.p6",
    "fpn.downsample_layers.1": "fpn.p7",
    **{f"proto_net.{2 * i}": f"protonet.before.{i}" for i in range(3)},
    "proto_net.8": "protonet.after",
    "proto_net.10": "protonet.prototypes",
    "prediction_layers.0.upfeature.0": "head.shared",
    "prediction_layers.0.bbox_layer": "head.boxes",
    "prediction_layers.0.conf_layer": "head.logits",
    "prediction_layers.0.mask_layer": "head.coefficients",
    "semantic_seg_conv": "semantic",
    **{f"maskiou_net.maskiou_net.{2 * i}": f"rescoring.convs.{i}" for i in range(5)},
    "maskiou_net.maskiou_net.10": "rescoring.classes",
}
_MMDET = {
    "backbone": "backbone",
    **{f"neck.lateral_convs.{i}.conv": f"fpn.laterals.{i}" for i in range(3)},
    **{f"neck.fpn_convs.{i}.conv": f"fpn.outputs.{i}" for i in range(3)},
    "neck.fpn_convs.3.conv": "fpn.p6",
    "neck.fpn_convs.4.conv": "fpn.p7",
    **{f"mask_head.protonet.{2 * i}": f"protonet.before.{i}" for i in range(3)},
    "mask_head.protonet.8": "protonet.after",
    "mask_head.protonet.10": "protonet.prototypes",
    "bbox_head.head_convs.0.conv": "head.shared",
    "bbox_head.conv_reg": "head.boxes",
    "bbox_head.conv_cls": "head.logits",
    "bbox_head.conv_coeff": "head.coefficients",
    "segm_head.segm_conv": "semantic",  # 2020's name
    "mask_head.segm_branch.segm_conv": "semantic",  # since 3.0
}


def recognise(names: Mapping[str, object]) -> str | None:
    """The layout that parameter names are of: "yolact" (ours), "original" or "mmdet"; None if they are no YOLACT's."""
    if "head.logits.weight" in names:
        return "yolact"
    if "prediction_layers.0.conf_layer.weight" in names:
        return "original"
    if "bbox_head.conv_cls.weight" in names and any(name.startswith("mask_head.protonet.") for name in names):
        return "mmdet"
    return None


def to_ours(state: Mapping[str, Tensor], layout: str) -> dict[str, Tensor]:
    """A checkpoint by our names and conventions; a name that is not part of its layout stays as it is.

    Args:
        state: parameters and buffers by name.
        layout: as `recognise` returns it.
    """
    if layout == "yolact":
        return dict(state)
    if layout == "original":
        state = {name: value for name, value in state.items() if not _is_surplus(name)}
        return {_renamed(name, _ORIGINAL): value for name, value in state.items()}
    ours = {_renamed(name, _MMDET): value for name, value in state.items()}
    return _background_first(ours)


def backbone_to_ours(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a backbone alone by our names: those that the original starts training from are renamed."""
    renamed = {
        _renamed(f"backbone.{name}", _ORIGINAL).removeprefix("backbone."): value for name, value in state.items()
    }
    return renamed if any(name.startswith("layers.") for name in state) else dict(state)


def to_original(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `to_ours` for the original's layout."""
    return {name_in_original(name): value for name, value in state.items()}


def name_in_original(name: str) -> str:
    """What the original calls the parameter or buffer that we call `name`."""
    return _renamed(name, {ours: theirs for theirs, ours in _ORIGINAL.items()})


def _renamed(name: str, prefixes: Mapping[str, str]) -> str:
    parts = name.split(".")
    for length in range(len(parts) - 1, 0, -1):
        prefix = ".".join(parts[:length])
        if prefix in prefixes:
            return ".".join([prefixes[prefix], *parts[length:]])
    return name


def _is_surplus(name: str) -> bool:
    """Whether the original's loader drops an entry, too: old files hold parts of the network twice."""
    parts = name.split(".")
    if name.startswith("backbone.layer") and parts[1] != "layers":
        return True
    return name.startswith("fpn.downsample_layers.") and parts[2].isdigit() and int(parts[2]) >= 2


def _background_first(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A checkpoint with the background as the first logit of each anchor, where mmdetection has the last."""
    if not {"semantic.weight", "head.logits.weight", "head.logits.bias"} <= state.keys():
        return state
    width = 1 + state["semantic.weight"].shape[0]
    for name in ("head.logits.weight", "head.logits.bias"):
        logits = state[name]
        if logits.shape[0] % width == 0:
            by_anchor = logits.reshape(-1, width, *logits.shape[1:])
            state[name] = torch.roll(by_anchor, shifts=1, dims=1).reshape(logits.shape)
    return state
