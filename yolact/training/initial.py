"""The weights that a training run starts from: ImageNet's backbone, any checkpoint, or none."""

import os
from collections.abc import Mapping
from pathlib import Path
from urllib.error import URLError

import torch
import torchvision
from torch import Tensor

from yolact.config import PRESETS
from yolact.models.yolact import Yolact
from yolact.weights.checkpoints import CheckpointError, check_finite, is_of_run, read_checkpoint
from yolact.weights.download import DownloadError, fetch, raise_if_unwritable
from yolact.weights.layouts import backbone_to_ours, recognise

IMAGENET = "imagenet"
SCRATCH = "scratch"
_OF_CLASSES = ("head.logits.", "semantic.", "rescoring.classes.")  # parameters whose shapes depend on the class count
# Parameters that a deformable convolution has and a plain one has not. Plain weights leave them as they are, and every
# tap lies on the grid.
_OF_DEFORMABLE = ("conv2.bias", "conv2.conv_offset_mask.weight", "conv2.conv_offset_mask.bias")


def initialise(network: Yolact, source: str | os.PathLike[str]) -> str:
    """Fills `network` with trained weights before training.

    Args:
        network: changed in place.
        source: "imagenet" (torchvision's weights of the backbone), "scratch" (nothing is done), a preset's name
            (its published checkpoint), or a file: a YOLACT checkpoint of any layout and class count, torchvision's
            weights of the backbone, or the original's of darknet53. Weights of a plain backbone also start one with
            deformable convolutions.

    Returns:
        What was done, as a message.

    Raises:
        CheckpointError: if the weights do not fit.
        DownloadError: if they could not be fetched; the message has the address and the way around.
        ValueError: if `source` is none of these.
    """
    name = os.fspath(source)
    if name == SCRATCH:
        return "from scratch: every weight is random"
    if name == IMAGENET:
        return _load_backbone(network, _imagenet(network.preset.backbone), "ImageNet's weights")
    path = fetch(PRESETS[name]) if name in PRESETS else Path(name)
    if not path.exists():
        raise ValueError(
            f"{name!r} is not a file, not a preset and neither {IMAGENET!r} nor {SCRATCH!r}: give one of these to "
            f"start from (--weights)"
        )
    if path.suffix in (".pth", ".pt"):
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception:  # read_checkpoint says what is wrong with it
            state = {}
        if isinstance(state, Mapping) and state and not ("state_dict" in state or is_of_run(state) or recognise(state)):
            return _load_backbone(network, state, str(path))
    return _load_checkpoint(network, path)


def _load_checkpoint(network: Yolact, path: Path) -> str:
    checkpoint = read_checkpoint(path)
    check_finite(checkpoint.state, checkpoint.source)
    own = network.state_dict()
    fitting, other = {}, []
    for name, value in checkpoint.state.items():
        if name in own and own[name].shape == value.shape:
            fitting[name] = value
        else:
            other.append(name)
    wrong = [name for name in other if not name.startswith(_OF_CLASSES)]
    missing = [name for name in own if name not in checkpoint.state]
    if wrong or missing:
        listed = ", ".join((wrong + missing)[:8])
        raise CheckpointError(
            f"{checkpoint.source} is of another network than {network.preset.name}: of its entries, {len(wrong)} do "
            f"not fit and {len(missing)} are missing ({listed}, …). Train the preset of that file, or start from "
            f"{IMAGENET!r}"
        )
    # If the checkpoint has as many classes, its heads are kept, although the classes may be others.
    network.load_state_dict(fitting, strict=False)
    if other:
        return (
            f"from {checkpoint.source}; it has {checkpoint.num_classes} classes instead of {network.num_classes}, so "
            f"{', '.join(sorted(other))} start at random"
        )
    return f"from {checkpoint.source}, all weights"


def _imagenet(backbone: str) -> Mapping[str, Tensor]:
    if backbone not in torchvision.models.list_models(torchvision.models):
        raise ValueError(
            f"torchvision has no weights of {backbone}: start from a checkpoint (--weights FILE) or from scratch "
            f"(--weights {SCRATCH})"
        )
    available = torchvision.models.get_model_weights(backbone)
    # The first weights are those that the published YOLACTs started from.
    weights = getattr(available, "IMAGENET1K_V1", available.DEFAULT)
    try:
        return weights.get_state_dict(progress=False, check_hash=True)
    except (URLError, OSError, RuntimeError) as error:
        raise_if_unwritable(error, "TORCH_HOME")
        reason = str(error).partition("\n")[0]
        raise DownloadError(
            f"could not fetch ImageNet's weights of {backbone} from {weights.url} ({reason}). Without a network, "
            f"download that file elsewhere and give its path (--weights FILE), or start from scratch "
            f"(--weights {SCRATCH})"
        ) from error


def _load_backbone(network: Yolact, state: Mapping[str, Tensor], source: str) -> str:
    own = network.backbone.state_dict()
    state = backbone_to_ours(state)
    prefix = "body." if any(name.startswith("body.") for name in own) else ""
    given = {prefix + name: value for name, value in state.items()}
    optional = ("num_batches_tracked", *_OF_DEFORMABLE) if network.preset.deformable_interval else "num_batches_tracked"
    missing = [name for name in own if name not in given and not name.endswith(optional)]
    wrong = [name for name in own if name in given and given[name].shape != own[name].shape]
    if missing or wrong:
        raise CheckpointError(
            f"{source}: these are not the weights of a {network.preset.backbone}: of its entries, {len(missing)} are "
            f"missing and {len(wrong)} have another shape ({', '.join((missing + wrong)[:8])}, …)"
        )
    network.backbone.load_state_dict({name: given[name] for name in own if name in given}, strict=False)
    return f"{source} for the backbone {network.preset.backbone}, the rest random"
