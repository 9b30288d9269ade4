"""The network for inference: what it is made of, where its weights lie, and what of it goes into a file.

`InferenceNetwork(model)` copies a trained `Yolact` and traces it. Batch norms are folded into the convolutions, and
each convolution adds its bias and its residual connection and applies its activation itself (`FusedConv2d`).

On a CPU a convolution wants its weights in a layout that depends on the processor: they are packed. Packed weights are
kept beside the plain ones, are up to four times as large, and fit one device and one dtype. So they are made again
whenever the plain weights change, and they go into no file:

| the network | packed weights |
|---|---|
| is made | are made for the device of the model |
| is moved, or gets another dtype | are dropped, and made for the new device and dtype |
| loads a state dict | are made again; a state dict holds the plain weights only |
| is copied or pickled | are left out, and made again in the copy |
| is scripted and exported | are dropped from the TorchScript: `unpack_weights` |
| has been loaded from an exported file | are made: `pack_weights` |

Each `FusedConv2d` looks after its own packed weights, by Python's hooks. TorchScript has no such hooks: `yolact.export`
calls the two functions, and the C++ runtime calls the method `pack_weights` of each convolution.
"""

import copy
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Optional

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from yolact.models.anchors import make_anchors
from yolact.models.deformable import DeformConv2d
from yolact.models.yolact import Predictions, Yolact
from yolact.ops import convolution, deform_columns, pack_convolution

Precision = Literal["fp32", "bf16", "fp16"]
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_NAMES = {dtype: name for name, dtype in PRECISIONS.items()}


class FusedConv2d(nn.Module):
    """A convolution, its batch norm, a residual connection and a leaky ReLU as one.

    Its bias is float32 whatever the dtype of its weights, as it is added to sums in float32.

    Args:
        conv: the convolution; `fold` and `negative_slope` add the rest. The first `to` packs its weights.
    """

    weight: Tensor
    bias: Tensor
    packed: Tensor
    stride: list[int]
    padding: list[int]
    dilation: list[int]

    def __init__(self, conv: nn.Conv2d):
        super().__init__()
        bias = torch.zeros(conv.out_channels, device=conv.weight.device) if conv.bias is None else conv.bias
        self.register_buffer("weight", conv.weight.detach().clone())
        self.register_buffer("bias", bias.detach().float().clone())
        self.register_buffer("packed", torch.empty(0, device=conv.weight.device), persistent=False)
        self.stride, self.dilation = list(conv.stride), list(conv.dilation)
        self.padding = [int(side) for side in conv.padding]
        self.groups = conv.groups
        self.negative_slope = 1.0  # none
        square = all(len(set(sides)) == 1 for sides in (conv.kernel_size, conv.stride, conv.padding))
        self.simple = square and conv.groups == 1 and conv.dilation == (1, 1)

    def fold(self, norm: nn.BatchNorm2d) -> None:
        """Makes `norm`, in evaluation mode, a part of the convolution that comes before it."""
        assert norm.running_mean is not None
        assert norm.running_var is not None
        weight, bias = fuse_conv_bn_weights(
            self.weight, self.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        self.weight, self.bias = weight.detach(), bias.detach()

    @torch.jit.export
    def pack_weights(self) -> None:
        """Lays the weights out for the device where they are."""
        self.weight = self.weight.contiguous(memory_format=torch.channels_last)
        if self.simple and self.weight.device.type == "cpu" and self.weight.dtype != torch.float16:
            self.packed = pack_convolution(self.weight, self.stride[0])
        else:
            self.unpack_weights()

    @torch.jit.export
    def unpack_weights(self) -> None:
        """Drops what `pack_weights` made: the convolution is then computed from the plain weights, much slower."""
        self.packed = torch.empty(0, device=self.weight.device)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "FusedConv2d":
        """Moves and casts: `to`, `cpu`, `cuda`, `half`, `to_empty` … all come here."""
        bias = self.bias
        self.unpack_weights()
        super()._apply(fn, recurse)
        if self.bias.dtype != torch.float32:
            self.bias = bias.to(self.bias.device)
        self.pack_weights()
        return self

    def _load_from_state_dict(self, *arguments: Any) -> None:
        super()._load_from_state_dict(*arguments)
        self.pack_weights()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_buffers": {**self._buffers, "packed": self.packed.new_empty(0)}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.pack_weights()

    def forward(self, x: Tensor, residual: Optional[Tensor] = None) -> Tensor:  # noqa: UP045 – for TorchScript
        """[B, C, H, W] to [B, O, h, w], channels-last."""
        if self.simple:
            return convolution(
                x,
                self.weight,
                self.packed,
                self.bias.float(),
                residual,
                self.stride[0],
                self.padding[0],
                self.negative_slope,
            )
        bias = self.bias.to(x.dtype)
        x = F.conv2d(x, self.weight, bias, self.stride, self.padding, self.dilation, self.groups)
        if residual is not None:
            x = x + residual
        return x if self.negative_slope == 1.0 else F.leaky_relu(x, self.negative_slope)


class FusedDeformConv2d(nn.Module):
    """`FusedConv2d` for a deformable convolution.

    Args:
        conv: the deformable convolution; `product` has the batch norm, residual connection and activation.
    """

    def __init__(self, conv: DeformConv2d):
        super().__init__()
        self.kernel_size, self.stride, self.padding, self.dilation = (
            conv.kernel_size, conv.stride, conv.padding, conv.dilation
        )  # fmt: skip
        self.offsets = FusedConv2d(conv.conv_offset_mask)
        outputs, columns = conv.weight.shape[0], conv.weight[0].numel()
        product = nn.Conv2d(columns, outputs, 1, device=conv.weight.device, dtype=conv.weight.dtype)
        product.weight.data = conv.weight.detach().permute(0, 2, 3, 1).reshape(outputs, columns, 1, 1)
        product.bias = nn.Parameter(conv.bias.detach())
        self.product = FusedConv2d(product)

    def forward(self, x: Tensor, residual: Optional[Tensor] = None) -> Tensor:  # noqa: UP045 – for TorchScript
        """[B, C, H, W] to [B, O, h, w], channels-last."""
        taps = self.kernel_size * self.kernel_size
        predicted = self.offsets(x).permute(0, 2, 3, 1).float()
        columns = deform_columns(
            x.permute(0, 2, 3, 1),
            predicted[..., : 2 * taps],
            predicted[..., 2 * taps :].sigmoid(),
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
        )
        return self.product(columns.permute(0, 3, 1, 2), residual)


class InferenceNetwork(nn.Module):
    """Predicts what a `Yolact` predicts, faster and without gradient; a `Detector` takes it in the network's place.

    Batch norms are folded into the convolutions, activations are channels-last, and every convolution adds its bias
    and residual connection and applies its activation itself. It has weights of its own and can be moved, cast to
    another of `PRECISIONS`, copied and pickled like any module.

    Attributes:
        precision: of weights and activations, one of `PRECISIONS`; follows a cast.

    Args:
        model: the network, which stays as it is.
        precision: of weights and activations.

    Raises:
        ValueError: if there is no such precision, also when it is cast.
    """

    sample: Tensor  # empty; its dtype is that of the precision

    def __init__(self, model: Yolact, precision: str = "fp32"):
        super().__init__()
        if precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
        dtype, device = PRECISIONS[precision], next(model.parameters()).device
        self.preset, self.num_classes, self.precision = model.preset, model.num_classes, precision
        self.network = _fused(model).to(dtype)
        self.rescoring = copy.deepcopy(model.rescoring)
        self.register_buffer("sample", torch.empty(0, dtype=dtype, device=device), persistent=False)
        self.eval()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "InferenceNetwork":
        dtype = fn(self.sample).dtype
        if dtype not in _NAMES:
            raise ValueError(f"an optimized network computes in {', '.join(PRECISIONS)}, it cannot be cast to {dtype}")
        super()._apply(fn, recurse)
        self.precision = _NAMES[dtype]
        return self

    def forward(self, images: Tensor) -> Predictions:
        """The predictions of `Yolact.forward`, in the dtype of the precision."""
        images = images.to(self.sample.dtype).contiguous(memory_format=torch.channels_last)
        deltas, logits, coefficients, prototypes = self.network(images)
        return Predictions(deltas, logits, coefficients, prototypes)

    def anchors(self, height: int, width: int) -> Tensor:
        """See `Yolact.anchors`."""
        return make_anchors(self.preset.anchors, height, width)


def pack_weights(module: nn.Module) -> None:
    """Calls `FusedConv2d.pack_weights` of every convolution of a module, which may be scripted."""
    for part in _convolutions(module):
        part.pack_weights()


def unpack_weights(module: nn.Module) -> None:
    """Calls `FusedConv2d.unpack_weights` of every convolution of a module, which may be scripted."""
    for part in _convolutions(module):
        part.unpack_weights()


def _convolutions(module: nn.Module) -> list[Any]:
    return [part for part in module.modules() if hasattr(part, "pack_weights")]


class _Whole(nn.Module):
    """A `Yolact` whose result is a plain tuple."""

    def __init__(self, model: Yolact):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return tuple(self.model(images))


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return isinstance(module, DeformConv2d) or super().is_leaf_module(module, name)


@dataclass(frozen=True)
class _Chain:
    """The calls after that of a convolution which become part of it.

    norm: its batch norm, or None.
    residual: what is added to it, or None.
    negative_slope: of its activation; 1 for none.
    last: the last of the calls.
    """

    norm: nn.BatchNorm2d | None
    residual: fx.Node | None
    negative_slope: float
    last: fx.Node

    def like(self, other: "_Chain") -> bool:
        return (self.norm, self.residual is None, self.negative_slope) == (
            other.norm, other.residual is None, other.negative_slope
        )  # fmt: skip


def _fused(model: Yolact) -> fx.GraphModule:
    root = _Whole(copy.deepcopy(model).eval())
    graph = _Tracer().trace(root)
    modules = dict(root.named_modules())
    calls: dict[str, list[fx.Node]] = {}
    for node in graph.nodes:
        if node.op == "call_module" and _fusible(modules[node.target]):
            calls.setdefault(node.target, []).append(node)
    for name, nodes in calls.items():
        chains = [_chain(node, modules) for node in nodes]
        if not all(chain.like(chains[0]) for chain in chains):
            chains = [_Chain(None, None, 1.0, node) for node in nodes]
        conv = modules[name]
        fused: FusedConv2d | FusedDeformConv2d
        if isinstance(conv, DeformConv2d):
            fused = FusedDeformConv2d(conv)
            product = fused.product
        else:
            fused = product = FusedConv2d(conv)
        if chains[0].norm is not None:
            product.fold(chains[0].norm)
        product.negative_slope = chains[0].negative_slope
        parent, _, attribute = name.rpartition(".")
        setattr(modules[parent], attribute, fused)
        for node, chain in zip(nodes, chains, strict=True):
            # At the end of the chain, because the residual may be computed after the convolution.
            with graph.inserting_after(chain.last):
                call = graph.call_module(name, (node.args[0], chain.residual))
            chain.last.replace_all_uses_with(call)
    fused_graph = fx.GraphModule(root, graph)
    fused_graph.graph.eliminate_dead_code()
    fused_graph.delete_all_unused_submodules()
    fused_graph.recompile()
    return fused_graph


def _fusible(module: nn.Module) -> bool:
    if isinstance(module, nn.Conv2d):
        return module.padding_mode == "zeros" and not isinstance(module.padding, str)
    return isinstance(module, DeformConv2d)


def _chain(node: fx.Node, modules: dict[str, nn.Module]) -> _Chain:
    norm: nn.BatchNorm2d | None = None
    residual, negative_slope, last = None, 1.0, node
    following = _only_user(last)
    if following is not None and isinstance(module := _module(following, modules), nn.BatchNorm2d):
        norm, last = module, following
        following = _only_user(last)
    if following is not None and following.target in (operator.add, operator.iadd, torch.add):
        others = [argument for argument in following.args if argument is not last]
        if len(others) == 1 and isinstance(others[0], fx.Node) and not following.kwargs:
            residual, last = others[0], following
            following = _only_user(last)
    if following is not None:
        activation = _module(following, modules)
        if isinstance(activation, nn.ReLU) or following.target in (F.relu, torch.relu):
            negative_slope, last = 0.0, following
        elif isinstance(activation, nn.LeakyReLU):
            negative_slope, last = activation.negative_slope, following
    return _Chain(norm, residual, negative_slope, last)


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _module(node: fx.Node, modules: dict[str, nn.Module]) -> nn.Module | None:
    return modules[str(node.target)] if node.op == "call_module" else None
