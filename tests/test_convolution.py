"""Compares the convolution for inference, and the network that uses it, with their plain counterparts."""

import copy
import io
import os
import subprocess
import sys
from dataclasses import replace
from typing import NamedTuple

import pytest
import torch
from conftest import DEVICES, PHOTOS, small_model, small_untrained
from torch import nn

import yolact
from yolact import ops
from yolact.config import get_preset
from yolact.models.deformable import DeformConv2d
from yolact.models.detections import Detections
from yolact.models.detector import Detector
from yolact.models.inference import FusedConv2d, FusedDeformConv2d, InferenceNetwork, pack_weights, unpack_weights
from yolact.models.yolact import Yolact
from yolact.ops import reference

pytestmark = pytest.mark.usefixtures("two_threads")


class Shape(NamedTuple):
    images: int
    channels: int
    outputs: int
    kernel_size: int
    stride: int
    padding: int
    height: int
    width: int


SHAPES = [
    Shape(1, 16, 32, 3, 1, 1, 12, 12),
    Shape(2, 48, 33, 3, 1, 1, 13, 7),
    Shape(1, 32, 5, 3, 1, 0, 9, 11),
    Shape(1, 16, 40, 3, 1, 2, 3, 3),
    Shape(1, 272, 64, 3, 1, 1, 1, 1),
    Shape(3, 5, 7, 3, 1, 1, 6, 5),
    Shape(1, 3, 64, 7, 2, 3, 31, 20),
    Shape(2, 64, 32, 1, 1, 0, 14, 14),
    Shape(1, 33, 70, 1, 1, 0, 8, 7),
    Shape(1, 1024, 70, 1, 1, 0, 3, 5),
    Shape(2, 24, 12, 1, 2, 0, 9, 9),
    Shape(1, 16, 16, 3, 2, 1, 8, 9),
    Shape(1, 1, 1, 1, 1, 0, 1, 1),
    Shape(1, 3, 8, 2, 1, 1, 4, 4),
    Shape(1, 8, 8, 5, 1, 2, 2, 2),
    Shape(0, 16, 8, 3, 1, 1, 5, 5),
]
FLOATS = [torch.float32, torch.float16, torch.bfloat16]


def random_convolution(shape: Shape, dtype: torch.dtype = torch.float32):
    """Input, weight, bias and residual."""
    x = torch.randn(shape.images, shape.channels, shape.height, shape.width).to(dtype)
    weight = torch.randn(shape.outputs, shape.channels, shape.kernel_size, shape.kernel_size)
    weight = (weight / weight[0].numel() ** 0.5).to(dtype)
    bias = torch.randn(shape.outputs)
    residual = torch.randn_like(reference.convolution(x, weight, bias, None, shape.stride, shape.padding).float())
    return x, weight, bias, residual.to(dtype)


def check(actual: torch.Tensor, expected: torch.Tensor) -> None:
    assert actual.dtype == expected.dtype
    assert actual.shape == expected.shape
    assert actual.is_contiguous(memory_format=torch.channels_last)
    tolerance = {torch.float32: 1e-4, torch.float16: 4e-3, torch.bfloat16: 2e-2}[actual.dtype]
    torch.testing.assert_close(actual.cpu().float(), expected.float(), rtol=tolerance, atol=tolerance)


def pack(weight: torch.Tensor, shape: Shape, device: str) -> torch.Tensor:
    """The packed weights that `FusedConv2d.pack_weights` makes on this device."""
    if device == "cpu" and weight.dtype != torch.float16:
        return ops.pack_convolution(weight, shape.stride)
    return torch.empty(0, device=device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_convolution_equals_reference(shape, dtype, device):
    x, weight, bias, residual = random_convolution(shape, dtype)
    options = (shape.stride, shape.padding)
    for slope, added in ((1.0, None), (0.0, residual), (0.1, residual), (0.1, None)):
        expected = reference.convolution(x, weight, bias, added, *options, slope)
        on_device = [None if tensor is None else tensor.to(device) for tensor in (x, weight, bias, added)]
        for packed in (pack(weight, shape, device), torch.empty(0, device=device)):
            actual = ops.convolution(*on_device[:2], packed, *on_device[2:], *options, slope)
            check(actual, expected)


@pytest.mark.parametrize("device", DEVICES)
def test_convolution_takes_any_strides_and_batches(device):
    shape = Shape(3, 32, 40, 3, 1, 1, 21, 17)
    x, weight, bias, residual = random_convolution(shape)
    expected = reference.convolution(x, weight, bias, residual, 1, 1)
    packed = pack(weight, shape, device)
    x, weight, bias, residual = (tensor.to(device) for tensor in (x, weight, bias, residual))
    wide = torch.cat((x, x), dim=3)[..., :17]
    check(ops.convolution(wide, weight, packed, bias, residual.transpose(2, 3).clone().transpose(2, 3), 1, 1), expected)
    alone = ops.convolution(x[1:2], weight, packed, bias, residual[1:2], 1, 1)
    check(alone, expected[1:2])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_not_finite_stay_so(value):
    shape = Shape(1, 16, 32, 3, 1, 1, 8, 8)
    for dtype in (torch.float32, torch.bfloat16):
        x, weight, bias, _ = random_convolution(shape, dtype)
        x[0, 3, 2, 2] = value
        packed = ops.pack_convolution(weight)
        actual = ops.convolution(x, weight, packed, bias, None, 1, 1)
        assert not actual[0, :, 1:4, 1:4].isfinite().any()
        if value != value:  # the ReLU keeps NaN, as torch's does
            actual = ops.convolution(x, weight, packed, bias, None, 1, 1, 0.0)
            assert actual[0, :, 1:4, 1:4].isnan().all()
        assert actual[0, :, 4:, 4:].isfinite().all()  # another tile


@pytest.mark.parametrize("device", DEVICES)
def test_convolution_opcheck_and_script(device):
    shape = Shape(2, 16, 8, 3, 1, 1, 5, 6)
    x, weight, bias, residual = random_convolution(shape)
    arguments = tuple(t.to(device) for t in (x, weight, pack(weight, shape, device), bias, residual))
    torch.library.opcheck(torch.ops.yolact.convolution.default, (*arguments, 1, 1, 0.0))


X, W, E, V = torch.zeros(1, 4, 5, 5), torch.zeros(8, 4, 3, 3), torch.zeros(0), torch.zeros(8)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((X[0], W, E, V), r"input \[B, C, H, W\] needs a weight \[O, C, K, K\], got \[4, 5, 5\] and \[8, 4, 3, 3\]"),
        ((X[:, :3], W, E, V), r"got \[1, 3, 5, 5\] and \[8, 4, 3, 3\]"),
        ((X, W, E, V[:7]), r"bias must be float32 \[8\], got \[7\]"),
        ((X, W, E, V.half()), "bias must be float32"),
        ((X.half(), W, E, V), "must have one dtype"),
        ((X, W, E, V, X), r"residual must be like the result \[1, 8, 3, 3\].*got \[1, 4, 5, 5\]"),
        ((X, W, E, V, None, 0), "stride must be positive and padding not negative, got 0 and 0"),
        ((X[..., :2], W, E, V), r"the input \[1, 4, 5, 2\] with padding 0 is smaller than the kernel"),
        ((X.int(), W.int(), E, V), "float32, float16 or bfloat16|not implemented"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message, device):
    with pytest.raises(RuntimeError, match=message):
        ops.convolution(*(value.to(device) if isinstance(value, torch.Tensor) else value for value in arguments))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((W[0],), r"weight must be \[O, C, K, K\], got \[4, 3, 3\]"),
        ((W[..., :2],), r"weight must be \[O, C, K, K\], got \[8, 4, 3, 2\]"),
        ((W.half(),), "weight must be float32 or bfloat16"),
        ((W, 0), "stride must be positive, got 0"),
    ],
)
def test_weights_that_cannot_be_packed_are_refused(arguments, message):
    with pytest.raises(RuntimeError, match=message):
        ops.pack_convolution(*arguments)


def test_weights_packed_for_something_else_are_refused():
    with pytest.raises(RuntimeError, match=r"packed must be what pack_convolution makes.*got \[1, 1, 36, 31\]"):
        ops.convolution(X, W, torch.zeros(1, 1, 36, 31), V)


@pytest.mark.parametrize("capability", ["avx2", "default"])
def test_older_processors(capability):
    """Runs the same tests with the instructions of an older processor."""
    if capability in os.environ.get("ATEN_CPU_CAPABILITY", ""):
        pytest.skip("this is that run")
    some = "equals_reference or not_finite or any_strides"
    command = [sys.executable, "-m", "pytest", "-q", "-x", __file__, "-k", some]
    environment = {**os.environ, "ATEN_CPU_CAPABILITY": capability}
    finished = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stdout


# Winograd's tiles in 16-bit integers, of bfloat16

INTEGERS = ops.pack_convolution(torch.ones(1, 16, 3, 3, dtype=torch.bfloat16)).dtype == torch.int16
needs_integers = pytest.mark.skipif(not INTEGERS, reason="this processor has no AVX-512 VNNI")


@needs_integers
@pytest.mark.parametrize("channels", [16, 64, 256, 512])
def test_integer_tiles_are_as_exact_as_bfloat16(channels):
    x, weight, bias, _ = random_convolution(Shape(1, channels, 32, 3, 1, 1, 24, 24), torch.bfloat16)
    x = x.relu()
    exact = reference.convolution(x.float(), weight.float(), bias * 0, None, 1, 1)
    error = (ops.convolution(x, weight, ops.pack_convolution(weight), bias * 0, None, 1, 1).float() - exact).pow(2)
    assert error.mean().sqrt() < 5e-3 * exact.pow(2).mean().sqrt()  # rounding to bfloat16 alone is 1.7e-3


@needs_integers
@pytest.mark.parametrize("channels", [16, 512, 2**16])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_largest_integer_sums_do_not_overflow(channels, sign):
    """All products are equal and as large as the input and the weights allow."""
    alternating = torch.tensor([1.0, -1.0, 1.0])
    for values in (torch.ones(3, 3), alternating.outer(alternating)):
        x = values.expand(1, channels, 3, 3).bfloat16().clone() * 300
        weight = (sign * values).expand(1, channels, 3, 3).bfloat16().clone()
        actual = ops.convolution(x, weight, ops.pack_convolution(weight), torch.zeros(1))
        assert actual.item() == pytest.approx(sign * 9 * 300 * channels, rel=0.01)


@needs_integers
def test_integers_are_not_used_where_a_sum_could_overflow():
    dtypes = [ops.pack_convolution(torch.zeros(1, n, 3, 3).bfloat16()).dtype for n in (2**17 - 16, 2**17)]
    assert dtypes == [torch.int16, torch.float32]


@needs_integers
def test_scales_of_integers_fit_every_size_of_values():
    """Channels, tiles and output channels with values of very different size, all zero, and the smallest there are."""
    shape = Shape(1, 32, 40, 3, 1, 1, 16, 16)
    x, weight, bias, _ = random_convolution(shape, torch.bfloat16)
    x[:, :, :8] *= 1e-6
    x[:, :, :, 8:] *= 1e6
    weight[:8] *= 1e8
    weight[8:16] *= 1e-8
    weight[16:20] = 0
    packed, none = ops.pack_convolution(weight), torch.zeros(40)
    expected = reference.convolution(x.float(), weight.float(), none, None, 1, 1)
    actual = ops.convolution(x, weight, packed, none, None, 1, 1).float()
    assert not actual[:, 16:20].any()
    for rows in (slice(0, 4), slice(12, 16)):
        for columns in (slice(0, 4), slice(12, 16)):  # tiles that see no other sizes
            for outputs in (slice(0, 8), slice(8, 16), slice(20, 40)):
                a, b = actual[:, outputs, rows, columns], expected[:, outputs, rows, columns]
                assert (a - b).pow(2).mean().sqrt() < 1e-2 * b.pow(2).mean().sqrt()
    for tiny in (torch.zeros(()), torch.tensor(1e-38), torch.tensor(1e-40)):
        actual = ops.convolution(torch.full_like(x, tiny.item()), weight, packed, bias, None, 1, 1)
        assert actual.isfinite().all()
        torch.testing.assert_close(actual[0, 8:, 0, 0].float(), bias[8:], rtol=1e-2, atol=1e-2)


# the network


def randomised(model: nn.Module) -> nn.Module:
    """Gives the batch norms random values, so that they change their input."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
    return model


NETWORKS = {
    "yolact_resnet50": 160, "yolact_darknet53": 96, "yolact_shapes": 96, "yolact_plus_resnet50": 256,
    "yolact_r50_1x8_coco": 96,
}  # fmt: skip


@pytest.mark.parametrize("preset", NETWORKS)
def test_the_network_predicts_the_same(preset):
    model = small_untrained(preset, NETWORKS[preset]).model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    images = torch.randn(2, 3, NETWORKS[preset], NETWORKS[preset])
    network = InferenceNetwork(model)
    with torch.no_grad():
        expected = model(images)
        packed = network(images)
        unpack_weights(network)
        for predictions in (packed, network(images)):
            for name, a, b in zip(expected._fields, expected, predictions, strict=True):
                assert (a - b).abs().max() <= 1e-3 * a.abs().max(), name
    assert not any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_every_convolution_is_fused_and_has_its_activation():
    network = InferenceNetwork(small_model("yolact_plus_resnet50", 256)).network
    fused = [module for module in network.modules() if isinstance(module, FusedConv2d)]
    assert not any(isinstance(module, nn.Conv2d | DeformConv2d | nn.ReLU) for module in network.modules())
    assert len([module for module in network.modules() if isinstance(module, FusedDeformConv2d)]) == 13
    assert {module.negative_slope for module in fused} == {0.0, 1.0}
    called = [node for node in network.graph.nodes if node.op == "call_module"]
    assert (
        sum(len(node.args) == 2 and node.args[1] is not None for node in called) >= 16
    )  # one for each block of ResNet
    assert not any("relu" in str(node.target) and node.op == "call_function" for node in network.graph.nodes)


@pytest.mark.parametrize("backbone", ["convnext_tiny", "efficientnet_b0"])
def test_torchvision_backbones_in_half_precision(backbone):
    """Layers other than convolutions, and parameters outside any layer, follow the precision."""
    model = Yolact(replace(get_preset("yolact_shapes"), backbone=backbone, image_size=96)).eval()
    images = torch.randn(1, 3, 96, 96)
    network = InferenceNetwork(model, "bf16")
    scripted = torch.jit.script(network)
    with torch.no_grad():
        for a, b, c in zip(model(images), network(images), scripted(images), strict=True):
            assert b.dtype == torch.bfloat16
            assert (a - b.float()).pow(2).mean().sqrt() < 0.05 * a.pow(2).mean().sqrt()
            assert torch.equal(b, c)


class Odd(nn.Module):
    """Patterns that fusion must leave alone."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1, groups=4)
        self.dilated, self.twice = nn.Conv2d(16, 16, 3, padding=2, dilation=2), nn.Conv2d(16, 16, 1)
        self.flat = nn.Conv2d(16, 16, (1, 3), padding=(0, 1))
        self.reflecting = nn.Conv2d(16, 16, 3, padding=1, padding_mode="reflect")
        self.named = nn.Conv2d(16, 16, 3, padding="same")
        self.norm = nn.BatchNorm2d(16)

    def forward(self, images):
        x = self.first(images)
        y = torch.relu(x) + x  # two users of the output: neither the activation nor the sum may be fused
        z = torch.relu(self.norm(self.second(y)) + y)
        z = self.dilated(z) + z + 1
        z = torch.relu(self.twice(z)) - self.twice(z * 2)  # one convolution with two different activations
        z = self.flat(z) + z.mean(dim=(2, 3), keepdim=True) + z
        z = torch.relu(self.reflecting(z)) + torch.relu(self.named(z))
        return x, y, z, z.flatten(1)


def test_odd_patterns_are_not_fused():
    from yolact.models import inference

    torch.manual_seed(1)
    model = randomised(Odd()).eval()
    images = torch.randn(2, 3, 9, 11)
    fused = inference._fused(model)
    pack_weights(fused)
    with torch.no_grad():
        for a, b in zip(model(images), fused(images), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


# packed weights when a detector is cast, moved, loaded, saved and copied


@pytest.fixture(scope="module")
def small_shapes() -> Detector:
    """A small detector with every kind of convolution. Tests must not change it."""
    return small_untrained("yolact_shapes", 96)


def fused_convolutions(detector: Detector) -> list[FusedConv2d]:
    return [part for part in detector.modules() if isinstance(part, FusedConv2d)]


def check_packed(detector: Detector) -> None:
    """Checks that the weights of every convolution are packed for their present device and dtype."""
    convolutions = fused_convolutions(detector)
    assert len(convolutions) > 50
    assert {conv.simple for conv in convolutions} == {True, False}
    for conv in convolutions:
        assert conv.bias.dtype == torch.float32
        assert conv.packed.device == conv.weight.device
        if conv.simple and conv.weight.device.type == "cpu" and conv.weight.dtype != torch.float16:
            expected = ops.pack_convolution(conv.weight, conv.stride[0])
            assert conv.packed.dtype == expected.dtype
            assert torch.equal(conv.packed, expected)
        else:
            assert conv.packed.numel() == 0


def check_same_answers(a: Detector, b: Detector) -> None:
    image = yolact.read_image(PHOTOS[2])
    answers = a(image)
    assert len(answers.labels) > 0
    for name, ours, theirs in zip(Detections._fields, answers, b(image), strict=True):
        assert torch.equal(ours, theirs), name


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_cast_equals_optimizing_in_that_precision(precision, small_shapes):
    """Casts go to larger and to smaller types. Packed weights of one dtype do not work for another."""
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    cast, optimized = small_shapes.optimize().to(dtype), small_shapes.optimize(precision)
    assert cast.model.precision == precision
    for detector in (cast, optimized):
        check_packed(detector)
        assert detector.anchors.dtype == detector.pixel_mean.dtype == torch.float32
    check_same_answers(cast, optimized)
    check_packed(cast.float())


def test_a_cast_to_an_unsupported_type_is_refused(small_shapes):
    optimized = small_shapes.optimize()
    with pytest.raises(ValueError, match=r"computes in fp32, bf16, fp16, it cannot be cast to torch\.float64"):
        optimized.double()
    check_same_answers(optimized, small_shapes.optimize())


def test_weights_are_packed_for_the_new_device_after_a_move(small_shapes):
    """Moves to a device without packed weights and back, as from the CPU to CUDA and back. This test uses "meta"."""
    optimized, expected = small_shapes.optimize(), small_shapes.optimize()
    state = expected.model.state_dict()
    optimized.model.to("meta")
    check_packed(optimized)
    optimized.model.to_empty(device="cpu")
    for moved, fresh in zip(fused_convolutions(optimized), fused_convolutions(expected), strict=True):
        assert moved.packed.shape == fresh.packed.shape
    optimized.model.load_state_dict(state)
    check_packed(optimized)
    check_same_answers(optimized, expected)


@pytest.mark.cuda
def test_weights_are_packed_for_the_cpu_after_cuda(small_shapes):
    optimized = small_shapes.optimize().cuda()
    check_packed(optimized)
    optimized.cpu()
    check_packed(optimized)
    check_same_answers(optimized, small_shapes.optimize())


@pytest.mark.parametrize("assign", [False, True])
def test_weights_that_are_loaded_are_packed(assign, small_shapes):
    other = small_untrained("yolact_shapes", 96)
    with torch.no_grad():
        for parameter in other.model.parameters():
            parameter *= 0.9
    optimized, expected = small_shapes.optimize(), other.optimize()
    assert not torch.equal(
        optimized.model.network.model.head.shared.weight, expected.model.network.model.head.shared.weight
    )
    optimized.load_state_dict(expected.state_dict(), assign=assign)
    check_packed(optimized)
    check_same_answers(optimized, expected)


def saved_and_loaded(detector: Detector) -> Detector:
    file = io.BytesIO()
    torch.save(detector, file)
    weights = sum(value.nbytes for value in detector.state_dict().values())
    assert file.tell() < weights + 2**20  # the file does not hold the packed weights
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("copied", [copy.deepcopy, saved_and_loaded], ids=["deepcopy", "torch.save"])
def test_copies_have_packed_weights_of_their_own(copied, small_shapes):
    optimized = small_shapes.optimize("bf16")
    twin = copied(optimized)
    check_packed(twin)
    check_same_answers(twin, optimized)
    assert twin.model.precision == "bf16"
    unpack_weights(twin)
    check_packed(optimized)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision(precision):
    detector = small_untrained()
    image = yolact.read_image(PHOTOS[0])
    optimized = detector.optimize(precision)
    with torch.no_grad():
        expected = detector.model(detector.preprocess(image))
        actual = optimized.model(optimized.preprocess(image))
    for name, a, b in zip(expected._fields, expected, actual, strict=True):
        assert b.dtype == {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]
        difference = (a - b.float()).pow(2).mean().sqrt() / a.pow(2).mean().sqrt()
        assert difference < {"bf16": 0.05, "fp16": 0.01}[precision], name
    assert len(optimized(image).labels) > 0


def test_an_optimized_detector_finds_the_same():
    detector = small_untrained("yolact_plus_resnet50", 256)
    detector.max_detections, detector.iou_threshold = 20, 0.4
    optimized = detector.optimize()
    assert (optimized.max_detections, optimized.iou_threshold) == (20, 0.4)
    image = yolact.read_image(PHOTOS[1])
    a, b = detector(image), optimized(image)
    assert len(a.labels) == 20
    assert torch.equal(a.labels, b.labels)
    for name in ("boxes", "scores", "mask_scores"):
        torch.testing.assert_close(getattr(a, name), getattr(b, name), rtol=1e-3, atol=1e-3)
    assert (a.masks != b.masks).float().mean() < 1e-3
    assert isinstance(b, Detections)


def test_wrong_precisions_are_refused():
    detector = Detector(small_model("yolact_shapes", 96))
    with pytest.raises(ValueError, match="precision must be one of fp32, bf16, fp16, got 'int4'"):
        detector.optimize("int4")
    with pytest.raises(ValueError, match="this detector is optimized already"):
        detector.optimize().optimize()
