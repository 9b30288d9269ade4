"""Tests the network: presets, anchors, input sizes and scripting."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT, small_model

import yolact
from yolact.config import PRESETS, Anchors, get_preset
from yolact.model_zoo import markdown
from yolact.models.anchors import level_sizes, make_anchors
from yolact.models.backbones import Darknet53
from yolact.models.rescoring import MaskRescoring
from yolact.ops.reference import decode


def test_presets_are_listed_and_frozen():
    assert yolact.list_models() == list(PRESETS)
    for name, preset in PRESETS.items():
        assert preset.name == name
        with pytest.raises(dataclasses.FrozenInstanceError):
            preset.image_size = 1  # type: ignore[misc]


def test_the_error_for_an_unknown_preset_lists_all_presets():
    with pytest.raises(ValueError, match="no preset is called 'yolact_resnet49'.*yolact_resnet50"):
        yolact.build_model("yolact_resnet49")
    with pytest.raises(ValueError, match="num_classes must be at least 1, got 0"):
        yolact.build_model("yolact_resnet50", num_classes=0)


@pytest.mark.parametrize("preset", ["yolact_resnet50", "yolact_r50_1x8_coco", "yolact_darknet53"])
@pytest.mark.parametrize(("height", "width"), [(64, 64), (97, 97), (33, 130), (200, 75), (1, 1)])
def test_forward_at_any_size(preset, height, width):
    model = small_model(preset)
    with torch.no_grad():
        actual = model(torch.randn(2, 3, height, width))
    anchors = len(model.anchors(height, width))
    rows, columns = level_sizes(height, width)[0]
    assert actual.box_deltas.shape == (2, anchors, 4)
    assert actual.logits.shape == (2, anchors, 81)
    assert actual.coefficients.shape == (2, anchors, 32)
    assert actual.prototypes.shape == (2, 2 * rows, 2 * columns, 32)
    assert actual.coefficients.abs().max() <= 1
    assert actual.prototypes.min() >= 0


def test_another_class_count():
    model = yolact.build_model("yolact_resnet50", num_classes=3).eval()
    with torch.no_grad():
        assert model(torch.randn(1, 3, 64, 64)).logits.shape[2] == 4
    assert yolact.Detector(model).class_names == ["class 1", "class 2", "class 3"]


def test_the_network_scripts():
    model = small_model()
    images = torch.randn(1, 3, 90, 70)
    with torch.no_grad():
        for ours, scripted in zip(model(images), torch.jit.script(model)(images), strict=True):
            assert torch.equal(ours, scripted)


def test_batch_is_image_by_image():
    model = small_model()
    images = torch.randn(3, 3, 64, 96)
    with torch.no_grad():
        together = model(images)
        for i in range(3):
            for a, b in zip(together, model(images[i : i + 1]), strict=True):
                torch.testing.assert_close(a[i], b[0], rtol=1e-3, atol=5e-4)


def test_anchors_of_the_families():
    """The three anchor shapes that each family makes at one location and scale."""

    def sides(anchors: Anchors, count: int) -> list[list[float]]:
        boxes = make_anchors(anchors, 8, 16)[:count] * torch.tensor([16.0, 8, 16, 8])
        return (boxes[:, 2:] - boxes[:, :2]).tolist()

    root = 2**0.5
    for anchors, expected in (
        (get_preset("yolact_resnet50").anchors, [(24, 24), (24 / root, 24 / root), (24 * root, 24 * root)]),
        (
            get_preset("yolact_plus_base").anchors,
            [(24, 24), (24 / root, 24 * root), (24 * root, 24 / root), (24 * 2 ** (1 / 3),) * 2],
        ),
        (get_preset("yolact_resnet50_pascal").anchors, [(32, 32), (32 / root, 32 * root), (32 * root, 32 / root)]),
        (get_preset("yolact_r50_1x8_coco").anchors, [(24 * root, 24 / root), (24, 24), (24 / root, 24 * root)]),
    ):
        for actual, wanted in zip(sides(anchors, len(expected)), expected, strict=True):
            assert actual == pytest.approx(wanted, rel=1e-5)


def test_the_plus_presets_have_nine_anchors_at_each_location():
    for name in ("yolact_plus_resnet50", "yolact_plus_base"):
        anchors = get_preset(name).anchors
        assert anchors.per_location == 9
        assert not anchors.square
        assert anchors.scales[4] == pytest.approx((384, 483.8096, 609.5620))
        assert len(make_anchors(anchors, 550, 550)) == 9 * (69**2 + 35**2 + 18**2 + 9**2 + 5**2)


def test_darknet_equals_plain_functions():
    """Compares with the network written as plain functions, in float64."""
    torch.manual_seed(0)
    model = Darknet53().double().eval()
    for norm in model.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            for tensor in (norm.weight.data, norm.running_var):
                tensor.uniform_(0.5, 1.5)
            for tensor in (norm.bias.data, norm.running_mean):
                tensor.uniform_(-0.5, 0.5)
    state = model.state_dict()

    def conv(x, name, stride=1):
        weight = state[f"{name}.0.weight"]
        x = F.conv2d(x, weight, stride=stride, padding=weight.shape[2] // 2)
        scale = state[f"{name}.1.weight"] / (state[f"{name}.1.running_var"] + 1e-5).sqrt()
        x = (x - state[f"{name}.1.running_mean"][:, None, None]) * scale[:, None, None]
        x = x + state[f"{name}.1.bias"][:, None, None]
        return torch.where(x > 0, x, 0.1 * x)

    image = torch.randn(1, 3, 65, 64, dtype=torch.float64)
    x, maps = conv(image, "stem"), []
    for stage, blocks in enumerate((1, 2, 8, 8, 4), start=1):
        x = conv(x, f"layer{stage}.0", stride=2)
        for block in range(1, blocks + 1):
            x = x + conv(conv(x, f"layer{stage}.{block}.conv1"), f"layer{stage}.{block}.conv2")
        maps.append(x)
    with torch.no_grad():
        for actual, expected in zip(model(image), maps[2:], strict=True):
            torch.testing.assert_close(actual, expected)


def test_mask_re_scoring_equals_plain_functions():
    torch.manual_seed(0)
    model, masks, labels = MaskRescoring(4), torch.rand(3, 138, 138), torch.tensor([2, 0, 3])
    x = masks[:, None]
    for side, conv in zip((68, 33, 16, 7, 3), model.convs, strict=True):
        x = F.conv2d(x, conv.weight, conv.bias, stride=2).relu()
        assert x.shape[2:] == (side, side)
    x = F.conv2d(x, model.classes.weight, model.classes.bias).relu()
    expected = F.max_pool2d(x, kernel_size=3)[torch.arange(3), labels, 0, 0]
    torch.testing.assert_close(model(masks, labels), expected)
    assert model(masks[:0], labels[:0]).shape == (0,)


def test_the_table_of_models_is_up_to_date():
    assert (ROOT / "docs" / "model_zoo.md").read_text() == markdown(), "run scripts/model_zoo.py"


def test_anchor_scales_follow_the_image_size():
    assert get_preset("yolact_im700").anchors.scales == ((30,), (61,), (122,), (244,), (488,))
    assert get_preset("yolact_im400").anchors.scales == ((17,), (34,), (69,), (139,), (279,))


def test_anchor_centres_of_a_rectangle():
    anchors = make_anchors(Anchors(), 17, 40)
    assert level_sizes(17, 40) == [(3, 5), (2, 3), (1, 2), (1, 1), (1, 1)]
    assert len(anchors) == 3 * (15 + 6 + 2 + 1 + 1)
    centres = (anchors[:, :2] + anchors[:, 2:]) / 2
    torch.testing.assert_close(centres[3 * 6], torch.tensor([1.5 / 5, 1.5 / 3]))


def test_decode():
    anchors = torch.tensor([[0.2, 0.2, 0.6, 0.4], [0.0, 0.0, 1.0, 1.0]])
    torch.testing.assert_close(decode(torch.zeros(3, 2, 4), anchors, (0.1, 0.2)), anchors.expand(3, 2, 4))
    moved = decode(torch.tensor([[1.0, -1, 0, 5 * 0.6931472], [0, 0, 0, 0]]), anchors, (0.1, 0.2))
    torch.testing.assert_close(moved[0], torch.tensor([0.24, 0.08, 0.64, 0.48]))
    huge = torch.tensor([[0.0, 0, 100, -100], [0, 0, 0, 0]])
    limit = 4.135166556742356
    clamped = decode(huge, anchors, (0.1, 0.2), limit)[0]
    assert (clamped[2] - clamped[0]).item() == pytest.approx(0.4 * 62.5, rel=1e-4)
    assert (clamped[3] - clamped[1]).item() == pytest.approx(0.2 / 62.5, rel=1e-3)
