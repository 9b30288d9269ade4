"""Tests the detector: it takes all kinds of images and returns detections of the right shapes."""

import copy
import pickle
from dataclasses import replace

import pytest
import torch
from conftest import DEVICES, PHOTOS, recorded_state, small_model, small_untrained
from torchvision.ops import box_iou

import yolact
from yolact.benchmark.untrained import untrained_detector
from yolact.config import get_preset
from yolact.models.detections import CroppedDetections, Detections, EncodedDetections, FixedDetections, Selected
from yolact.models.detector import Detector
from yolact.models.yolact import Predictions, Yolact
from yolact.ops import reference
from yolact.ops.reference import decode


@pytest.fixture
def detector() -> Detector:
    return small_untrained()


@pytest.fixture(scope="module")
def photo() -> torch.Tensor:
    return yolact.read_image(PHOTOS[1])


def check_well_formed(detections: Detections, height: int, width: int) -> None:
    count = len(detections.labels)
    assert detections.boxes.shape == (count, 4)
    assert detections.boxes.dtype == detections.scores.dtype == torch.float32
    assert detections.scores.shape == detections.mask_scores.shape == (count,)
    assert detections.mask_scores.dtype == torch.float32
    assert detections.labels.dtype == torch.int64
    assert detections.masks.shape == (count, height, width)
    assert detections.masks.dtype == torch.bool
    assert (detections.boxes >= 0).all()
    assert (detections.boxes <= torch.tensor([width, height, width, height])).all()
    assert (detections.scores.diff() <= 0).all()


def assert_same(a: Detections, b: Detections) -> None:
    for name, x, y in zip(Detections._fields, a, b, strict=True):
        assert torch.equal(x, y), name


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (Detections, "boxes scores labels masks mask_scores"),
        (EncodedDetections, "boxes scores labels mask_scores height width counts offsets"),
        (CroppedDetections, "boxes scores labels mask_scores height width pixels crops offsets"),
        (FixedDetections, "boxes scores labels masks mask_scores count"),
        (Selected, "boxes scores labels height width count prototypes coefficients"),
    ],
)
def test_results_are_named_tuples_with_fields_in_this_order(kind, fields):
    assert " ".join(kind._fields) == fields
    numbers = kind(*range(len(kind._fields)))
    assert tuple(numbers) == tuple(range(len(kind._fields)))
    assert numbers == kind(**numbers._asdict())
    assert pickle.loads(pickle.dumps(numbers)) == numbers
    assert repr(numbers).startswith(f"{kind.__name__}(boxes=0, scores=1, labels=2, ")
    with pytest.raises(TypeError, match="missing 1 required"):
        kind(*range(len(kind._fields) - 1))


@pytest.mark.parametrize("preset", ["yolact_shapes", "yolact_resnet50"])
def test_a_copy_gives_the_same_answers(preset):
    """Also of the backbones that torchvision's graphs describe, in both modes."""
    network = small_model(preset, 96)
    images = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        for mode in (False, True):
            twin = copy.deepcopy(network.train(mode))
            assert [module.training for module in twin.modules()] == [module.training for module in network.modules()]
            for a, b in zip(network(images), twin(images), strict=True):
                assert torch.equal(a, b)


@pytest.mark.parametrize("shape", [(512, 360), (90, 200), (1, 1), (1, 700), (300, 2)])
def test_any_image_size_and_both_orders(detector, shape):
    torch.manual_seed(0)
    image = torch.randint(0, 256, (*shape, 3), dtype=torch.uint8)
    detections = detector(image)
    check_well_formed(detections, *shape)
    assert_same(detections, detector(image.permute(2, 0, 1)))


def test_a_very_large_image(detector):
    detector.max_detections = 3
    image = torch.randint(0, 256, (1, 6000, 3), dtype=torch.uint8).expand(8000, 6000, 3)
    detections = detector(image)
    check_well_formed(detections, 8000, 6000)
    assert len(detections.labels) == 3


def test_three_by_three_by_three_is_rows_first(detector):
    red = torch.tensor([255, 0, 0], dtype=torch.uint8).expand(3, 3, 3)
    planes = detector.preprocess(red)[0].flatten(1)
    torch.testing.assert_close(planes, planes[:, :1].expand_as(planes))
    assert planes[0, 0] > 2 > planes[1, 0]


def test_batch_of_different_sizes_is_image_by_image(detector, photo):
    images = [photo, photo[:100, :250], photo[::2].permute(2, 0, 1)]
    together = detector.forward_batch(images)
    assert detector.forward_batch([]) == []
    for image, detections, size in zip(images, together, [(512, 360), (100, 250), (256, 360)], strict=True):
        alone = detector(image)
        check_well_formed(detections, *size)
        assert torch.equal(detections.labels, alone.labels)
        torch.testing.assert_close(detections.boxes, alone.boxes, rtol=0, atol=1e-2)
        torch.testing.assert_close(detections.scores, alone.scores, rtol=0, atol=1e-5)


def check_without_canvas(detections: Detections, encoded: EncodedDetections, cropped: CroppedDetections) -> None:
    """Checks that run lengths and crops describe the same objects and masks."""
    height, width = detections.masks.shape[1:]
    for other in (encoded, cropped):
        assert (other.height, other.width) == (height, width)
        for name in ("boxes", "scores", "labels", "mask_scores"):
            assert torch.equal(getattr(other, name), getattr(detections, name)), name
    counts, offsets = reference.run_lengths(detections.masks)
    assert torch.equal(encoded.counts, counts)
    assert torch.equal(encoded.offsets, offsets)
    masks = torch.zeros_like(detections.masks)
    for mask, (x1, y1, x2, y2), begin, end in zip(
        masks, cropped.crops, cropped.offsets[:-1], cropped.offsets[1:], strict=True
    ):
        mask[y1:y2, x1:x2] = cropped.pixels[begin:end].view(y2 - y1, x2 - x1)
    assert torch.equal(masks, detections.masks)


# Scripting takes seconds. YOLACT++ has all that the others have.
@pytest.mark.parametrize(
    ("preset", "scripted"),
    [
        ("yolact_resnet50", False),
        ("yolact_r50_1x8_coco", False),
        ("yolact_plus_resnet50", False),
        ("yolact_plus_resnet50", True),
    ],
)
def test_run_lengths_and_crops_are_those_of_the_masks(preset, scripted, photo):
    detector = small_untrained(preset, 256)
    if scripted:
        detector = torch.jit.script(detector)
    images = [photo, photo[:100, :250]]
    ways = [detector.forward_batch(images), detector.forward_encoded(images), detector.forward_cropped(images)]
    for detections, encoded, cropped in zip(*ways, strict=True):
        assert len(detections.labels) > 10
        check_without_canvas(detections, encoded, cropped)
    assert detector.forward_encoded([]) == detector.forward_cropped([]) == []
    detector.score_threshold = 1.0
    detections, encoded, cropped = (
        detector(photo),
        detector.forward_encoded([photo])[0],
        detector.forward_cropped([photo])[0],
    )
    assert encoded.offsets.tolist() == cropped.offsets.tolist() == [0]
    check_without_canvas(detections, encoded, cropped)


@pytest.mark.parametrize("preset", ["yolact_resnet50", "yolact_r50_1x8_coco"])
def test_nothing_found(preset, photo):
    detector = Detector(small_model(preset)).eval()
    detector.score_threshold = 1.0
    detections = detector(photo)
    check_well_formed(detections, 512, 360)
    assert detections.masks.shape == (0, 512, 360)


@pytest.mark.parametrize("preset", ["yolact_resnet50", "yolact_r50_1x8_coco"])
def test_no_other_limit_caps_max_detections(preset):
    """As many of one class as are asked for, although 200 candidates or 1000 anchors a level are the usual limits."""
    network = Yolact(replace(get_preset(preset), image_size=352), num_classes=1).eval()
    detector = Detector(network)
    anchors = len(detector.anchors)
    logits = torch.tensor([0.0, 4.0]) + torch.rand(1, anchors, 2)
    output = Predictions(torch.zeros(1, anchors, 4), logits, torch.zeros(1, anchors, 32), torch.zeros(1, 88, 88, 32))
    detector.iou_threshold = 1.0
    for limit, count in ((150, 150), (1500, 1500), (10**6, anchors)):
        detector.max_detections = limit
        (rows,) = detector.postprocess(output, [(4, 4)])
        assert len(rows.scores) == count


@pytest.mark.parametrize("preset", ["yolact_resnet50", "yolact_r50_1x8_coco"])
@pytest.mark.parametrize("scripted", [False, True])
def test_settings_before_and_after_scripting(preset, scripted, photo):
    detector = Detector(small_model(preset)).eval()
    if scripted:
        detector = torch.jit.script(detector)
    detector.score_threshold = 0.02
    detector.max_detections = 30
    some = detector(photo)
    assert 5 < len(some.labels) <= 30
    detector.score_threshold = some.scores[4].item()
    above = detector(photo)
    assert (above.scores > some.scores[4]).all()
    assert torch.equal(above.scores, some.scores[some.scores > some.scores[4]])
    detector.score_threshold = 0.02
    detector.max_detections = 2
    assert_same(detector(photo), Detections(*(values[:2] for values in some)))
    detector.max_detections = 100
    detector.iou_threshold = 0.0
    apart = detector(photo)
    same_class = (apart.labels[:, None] == apart.labels).fill_diagonal_(False)
    assert same_class.any()
    assert box_iou(apart.boxes, apart.boxes).nan_to_num()[same_class].max() < 1e-4
    detector.class_names = ["renamed"] * 80
    assert detector.class_names[3] == "renamed"


def test_class_names_must_be_as_many_as_classes():
    with pytest.raises(ValueError, match="one name for each of its classes, 80 in all, got 2"):
        Detector(small_model(), ["a", "b"])


@pytest.mark.parametrize("scripted", [False, True])
@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.zeros(4, 4, 3), "must be uint8"),
        (torch.zeros(4, 4, dtype=torch.uint8), r"must be RGB of shape \[H, W, 3\] or \[3, H, W\], got \[4, 4\]"),
        (torch.zeros(4, 4, 4, dtype=torch.uint8), r"got \[4, 4, 4\]"),
        (torch.zeros(0, 4, 3, dtype=torch.uint8), r"got \[0, 4, 3\]"),
        (torch.zeros(1, 3, 4, 4, dtype=torch.uint8), r"got \[1, 3, 4, 4\]"),
    ],
)
def test_invalid_images_are_refused(image, message, scripted, small_detector):
    detector = torch.jit.script(small_detector) if scripted else small_detector
    with pytest.raises((ValueError, torch.jit.Error), match=message):
        detector(image)


def test_an_array_is_refused(small_detector):
    with pytest.raises(TypeError, match="must be a tensor: give torch.from_numpy"):
        small_detector(torch.zeros(4, 4, 3, dtype=torch.uint8).numpy())


@pytest.mark.parametrize("part", ["head.logits", "head.coefficients", "protonet.prototypes"])
def test_infinite_activations_are_an_error(part, photo):
    detector = Detector(small_model()).eval()
    with torch.no_grad():
        detector.model.get_submodule(part).bias.fill_(float("nan"))
    with pytest.raises(RuntimeError, match="not finite"):
        detector(photo)


def predictions_of(detector: Detector, count: int = 1) -> Predictions:
    torch.manual_seed(3)
    size = detector.image_size
    with torch.no_grad():
        return detector.model(torch.randn(count, 3, size, size))


def test_postprocess_by_itself_checks_what_it_is_given(detector):
    predictions = predictions_of(detector)
    with pytest.raises(ValueError, match="one entry for each image, 1 in all, got 2"):
        detector.postprocess(predictions, [(5, 5), (6, 6)])
    with pytest.raises(ValueError, match="give the network an input of that size"):
        detector.postprocess(detector.model(torch.randn(1, 3, 64, 64)), [(5, 5)])


@pytest.mark.parametrize("preset", ["yolact_resnet50", "yolact_r50_1x8_coco"])
def test_postprocess_follows_its_definition(preset):
    """Compares with the rules of both families, written out with the reference operators."""
    detector = Detector(small_model(preset)).eval()
    rules = get_preset(preset).post_processing
    predictions = predictions_of(detector, 2)
    # With random weights the scores are all 1, and their order depends on the last bit.
    logits, deltas = (values * (3 / values.std()) for values in (predictions.logits, predictions.box_deltas))
    predictions = predictions._replace(logits=logits, box_deltas=deltas)
    height, width = 70, 90
    detections = detector.postprocess(predictions, [(height, width)] * 2)
    for i in range(2):
        scores = predictions.logits[i].softmax(dim=-1)[:, 1:]
        anchors = detector.anchors
        sizes = anchors[:, 2:] - anchors[:, :2]
        centres = (anchors[:, :2] + anchors[:, 2:]) / 2 + 0.1 * predictions.box_deltas[i, :, :2] * sizes
        log_scales = 0.2 * predictions.box_deltas[i, :, 2:]
        if rules.max_log_scale is not None:
            log_scales = log_scales.clamp(-rules.max_log_scale, rules.max_log_scale)
        sides = sizes * log_scales.exp()
        boxes = torch.cat((centres - sides / 2, centres + sides / 2), dim=1)
        if rules.clip_before_nms:
            boxes = boxes.clamp(0, 1)
        order = torch.arange(len(boxes))
        if rules.candidates_per_level:
            levels = scores.amax(dim=1).split(detector.level_counts)
            starts = torch.tensor([0, *detector.level_counts]).cumsum(0).tolist()
            order = torch.cat(
                [
                    level.topk(min(len(level), rules.candidates_per_level))[1] + start
                    for level, start in zip(levels, starts[:-1], strict=True)
                ]
            )
        indices, labels, kept, counts = reference.fast_nms(
            boxes[order][None],
            scores[order][None],
            rules.iou_threshold,
            rules.top_k,
            max(rules.candidate_threshold, rules.score_threshold),
            rules.max_detections,
        )
        chosen = order[indices[0, : counts[0]]]
        masks = reference.assemble_masks(
            predictions.prototypes[i], predictions.coefficients[i, chosen], boxes[chosen], height, width
        )
        assert len(detections[i].labels) == counts[0] > 10
        assert torch.equal(detections[i].labels, labels[0, : counts[0]])
        torch.testing.assert_close(detections[i].scores, kept[0, : counts[0]])
        pixels = boxes[chosen] * torch.tensor([width, height, width, height])
        limits = torch.tensor([width, height, width, height])
        torch.testing.assert_close(
            detections[i].boxes, torch.minimum(pixels.clamp(min=0), limits), rtol=1e-5, atol=1e-4
        )
        assert (detections[i].masks != masks).float().mean() < 1e-4


def test_masks_are_re_scored_and_nothing_else_changes(photo):
    model = small_model("yolact_plus_resnet50", 256)
    detector = untrained_detector(model)
    predictions = predictions_of(detector)
    detections = detector.postprocess(predictions, [(200, 300)])[0]
    check_well_formed(detections, 200, 300)
    rescoring, model.rescoring = model.rescoring, None
    plain = detector.postprocess(predictions, [(200, 300)])[0]
    model.rescoring = rescoring
    assert_same(detections._replace(mask_scores=plain.mask_scores), plain)
    assert torch.equal(plain.mask_scores, plain.scores)
    # The score identifies the anchor of each detection.
    scores = predictions.logits[0].softmax(dim=1)[:, 1:]
    boxes = decode(predictions.box_deltas[0], detector.anchors, (0.1, 0.2))
    for i in range(10):
        anchor = (scores[:, detections.labels[i]] - detections.scores[i]).abs().argmin()
        soft = (predictions.prototypes[0] @ predictions.coefficients[0, anchor]).sigmoid()
        soft = reference.crop(soft[None], boxes[anchor][None])
        with torch.no_grad():
            expected = detections.scores[i] * rescoring(soft, detections.labels[i : i + 1])[0]
        torch.testing.assert_close(detections.mask_scores[i], expected, rtol=1e-3, atol=1e-5)


@pytest.mark.cuda
@pytest.mark.parametrize("preset", ["yolact_resnet50", "yolact_r50_1x8_coco"])
def test_the_same_on_cuda(preset, photo):
    detector = small_untrained(preset) if preset == "yolact_resnet50" else Detector(small_model(preset))
    detector.eval()
    predictions = predictions_of(detector)
    expected = detector.postprocess(predictions, [(200, 300)])[0]
    detector = detector.cuda()
    detections = detector.postprocess(Predictions(*(value.cuda() for value in predictions)), [(200, 300)])[0]
    assert torch.equal(expected.labels, detections.labels.cpu())
    torch.testing.assert_close(expected.boxes, detections.boxes.cpu(), rtol=0, atol=1e-3)
    assert (expected.masks != detections.masks.cpu()).float().mean() < 1e-5
    detections, encoded, cropped = (
        way([photo])[0] for way in (detector.forward_batch, detector.forward_encoded, detector.forward_cropped)
    )
    assert detections.masks.device.type == encoded.counts.device.type == cropped.pixels.device.type == "cuda"
    assert len(encoded.labels) == len(cropped.labels) == len(detections.labels)


@pytest.mark.parametrize("device", DEVICES)
def test_a_real_photo_at_real_size(device):
    """Runs the most important preset at its published size on every device."""
    model = yolact.build_model("yolact_resnet50")
    yolact.load_weights(model, recorded_state("yolact_resnet50"))
    detector = Detector(model).eval().to(device)
    image = yolact.read_image(PHOTOS[0])
    detections = Detections(*(values.cpu() for values in detector(image)))
    check_well_formed(detections, image.shape[0], image.shape[1])
    assert len(detections.labels) == 100


def test_another_image_size_is_another_preset_field():
    model = yolact.Yolact(replace(get_preset("yolact_resnet50"), image_size=97)).eval()
    assert Detector(model).preprocess(torch.zeros(5, 6, 3, dtype=torch.uint8)).shape == (1, 3, 97, 97)
