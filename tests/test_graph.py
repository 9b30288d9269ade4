"""Tests outputs of fixed sizes and the CUDA graphs that use them."""

import copy
import pickle
import threading

import pytest
import torch
from conftest import PHOTOS, small_model, small_untrained
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import yolact
from yolact.benchmark.untrained import untrained_detector
from yolact.models.detections import Detections, FixedDetections
from yolact.models.detector import Detector
from yolact.models.graph import CudaGraphs

PRESETS = ["yolact_resnet50", "yolact_r50_1x8_coco", "yolact_plus_resnet50"]


@pytest.fixture(scope="module")
def photo() -> torch.Tensor:
    return yolact.read_image(PHOTOS[2])


def check_rows(fixed: FixedDetections, detections: Detections, rows: int) -> None:
    """Checks that `fixed` holds `detections` and then padding, in `rows` rows."""
    count = len(detections.labels)
    assert fixed.count.shape == ()
    assert fixed.count.item() == count
    for name, value in detections._asdict().items():
        same = getattr(fixed, name)
        assert same.shape == (rows, *value.shape[1:]), name
        assert same.dtype == value.dtype, name
        assert same.device == value.device, name
        if name == "mask_scores":  # a convolution's sums may depend on how many masks it is given
            torch.testing.assert_close(same[:count], value)
        else:
            assert torch.equal(same[:count], value), name
        assert (same[count:] == (-1 if name == "labels" else 0)).all(), name


# TorchScript's own kernels on CUDA may round unlike torch's from one call to the next. Scripting takes seconds, and
# YOLACT++ has all that the others have.
@pytest.mark.parametrize(
    ("preset", "device", "scripted"),
    [
        *((preset, "cpu", False) for preset in PRESETS),
        ("yolact_plus_resnet50", "cpu", True),
        *(pytest.param(preset, "cuda", False, marks=pytest.mark.cuda) for preset in PRESETS),
    ],
)
def test_fixed_outputs_are_the_detections_and_then_nothing(preset, scripted, device, photo):
    detector = small_untrained(preset, 256).to(device).optimize()
    if scripted:
        detector = torch.jit.script(detector)
    images = [photo, photo[:100, :250].permute(2, 0, 1)]
    assert detector.forward_fixed([]) == []
    all_found = detector.forward_batch(images)
    # A threshold in the middle of the scores, so that some rows are filled and some are empty.
    detector.score_threshold = all_found[0].scores[len(all_found[0].scores) // 2].item()
    some_found = detector.forward_batch(images)
    assert 0 < len(some_found[0].labels) < len(all_found[0].labels)
    for fixed, detections in zip(detector.forward_fixed(images), some_found, strict=True):
        check_rows(fixed, detections, detector.max_detections)
    for threshold, most in ((1.0, 7), (0.0, 0)):
        detector.score_threshold, detector.max_detections = threshold, most
        detections = detector(photo)
        assert len(detections.labels) == 0
        check_rows(detector.forward_fixed([photo])[0], detections, most)


@pytest.mark.parametrize("part", ["head.logits", "head.coefficients", "protonet.prototypes"])
def test_outputs_that_are_not_finite_give_count_minus_one(part, photo):
    detector = Detector(small_model()).eval()
    with torch.no_grad():
        detector.model.get_submodule(part).bias.fill_(float("nan"))
    fixed = detector.forward_fixed([photo])[0]
    assert fixed.count.item() == -1
    nothing = Detections(**{name: getattr(fixed, name)[:0] for name in Detections._fields})
    check_rows(fixed._replace(count=torch.tensor(0)), nothing, 100)


class OnlyOn(TorchDispatchMode):
    """Checks that all operators take and return tensors only on `device`."""

    def __init__(self, device: str):
        super().__init__()
        self.device = device

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for value in tree_leaves((args, kwargs, result)):
            if isinstance(value, torch.Tensor):
                assert value.device.type == self.device, function
        return result


@pytest.mark.parametrize("optimized", [False, True])
@pytest.mark.parametrize("preset", PRESETS)
def test_no_value_is_read_and_none_comes_from_the_host(preset, optimized):
    """Runs on the "meta" device, where reading a value is an error."""
    detector = Detector(small_model(preset, 256)).eval()
    detector = (detector.optimize("fp16") if optimized else detector).to("meta")
    images = [torch.empty(40, 50, 3, dtype=torch.uint8, device="meta") for _ in range(2)]
    with OnlyOn("meta"):
        fixed = detector.forward_fixed(images)
        assert [tuple(values.shape) for values in fixed[1]] == [(100, 4), (100,), (100,), (100, 40, 50), (100,), ()]
        with pytest.raises(RuntimeError, match="meta"):
            detector.forward_batch(images)


def test_an_exported_file_has_fixed_outputs(small_export, photo):
    model = yolact.load_exported(small_export)
    check_rows(model.script.forward_fixed([photo])[0], model(photo), model.max_detections)


def test_graphs_need_cuda(small_detector):
    with pytest.raises(ValueError, match="CUDA graphs need a detector on CUDA, this one is on cpu"):
        small_detector.optimize(cuda_graph=True)


def test_without_graphs_a_detector_moves_as_before(small_detector, photo):
    detector = small_detector.optimize()
    assert detector.graphs is None
    expected = detector(photo)
    assert torch.equal(detector.to("cpu")(photo).scores, expected.scores)


# All tests below need a GPU.


@pytest.fixture(params=["fp32", "fp16"])
def with_and_without(request) -> tuple[Detector, Detector]:
    detector = small_untrained().cuda()
    return detector.optimize(request.param), detector.optimize(request.param, cuda_graph=True)


def assert_equal(detections: Detections, expected: Detections) -> None:
    for name, a, b in zip(Detections._fields, detections, expected, strict=True):
        assert torch.equal(a, b), name


@pytest.mark.cuda
def test_nothing_waits_for_the_device(photo):
    for preset in PRESETS:
        detector = small_untrained(preset, 256).cuda().optimize("fp16")
        images = [photo.cuda(), photo[:100, :250].permute(2, 0, 1).cuda()]
        detector.forward_fixed(images)
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            fixed = detector.forward_fixed(images)
            with pytest.raises(RuntimeError, match="synchroniz"):
                fixed[0].count.item()
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.cuda
def test_graphs_change_nothing(with_and_without, photo):
    """Sizes, batches, orders and places alternate; the second round only replays."""
    plain, graphed = with_and_without
    calls = [[photo], [photo[:100, :250]], [photo.permute(2, 0, 1).cuda()], [photo, photo[:90]], [photo.flip(0)]]
    expected = [plain.forward_batch(images) for images in calls]
    kept = []
    for _ in range(2):
        for images, wanted in zip(calls, expected, strict=True):
            kept.append((graphed.forward_batch(images), wanted))
    # Compared at the end, to show that no later replay has written into them.
    for founds, wanteds in kept:
        for detections, wanted in zip(founds, wanteds, strict=True):
            assert len(detections.labels) > 0
            assert_equal(detections, wanted)
    assert graphed.forward_batch([]) == []


@pytest.mark.cuda
def test_graphs_follow_the_settings(with_and_without, photo):
    plain, graphed = with_and_without
    everything = plain(photo)
    middle = everything.scores[len(everything.scores) // 2].item()
    for settings in (
        (0.0, 0.5, 100),
        (middle, 0.5, 100),
        (0.0, 0.1, 100),
        (0.0, 0.5, 3),
        (1.0, 0.5, 100),
        (0.0, 0.5, 100),
    ):
        for detector in (plain, graphed):
            detector.score_threshold, detector.iou_threshold, detector.max_detections = settings
        assert_equal(graphed(photo), plain(photo))
    assert len(graphed(photo).labels) > 3


@pytest.mark.cuda
def test_only_the_most_recently_used_graphs_are_kept():
    def double(values):
        return [2 * value for value in values]

    graphs = CudaGraphs(torch.device("cuda", 0), most=2)
    for length in (1, 2, 3, 1, 1, 4, 2):
        given = torch.arange(length, device="cuda")
        assert graphs.run(double, [given], None, lambda outputs: outputs[0].tolist()) == (2 * given).tolist()
        assert len(graphs._captured) <= 2


@pytest.mark.cuda
def test_a_move_of_the_detector_drops_its_graphs(with_and_without, photo):
    plain, graphed = with_and_without
    graphed(photo)
    graphed.half().float()  # the buffers are new ones now
    assert_equal(graphed(photo), plain.half().float()(photo))
    with pytest.raises(ValueError, match="this one is on cpu"):
        graphed.cpu()
    assert_equal(graphed(photo), plain(photo))


@pytest.mark.cuda
def test_copies_capture_graphs_of_their_own(with_and_without, photo):
    plain, graphed = with_and_without
    graphed(photo)
    for twin in (copy.deepcopy(graphed), pickle.loads(pickle.dumps(graphed))):
        assert twin.graphs is not graphed.graphs
        assert_equal(twin(photo), plain(photo))


@pytest.mark.cuda
def test_graphs_refuse_the_same_input_as_the_detector(photo):
    model = small_model()
    detector = untrained_detector(model).cuda().optimize(cuda_graph=True)
    with pytest.raises(ValueError, match="must be uint8"):
        detector(photo.float())
    detector(photo)
    with torch.no_grad():
        model.protonet.prototypes.bias.fill_(float("nan"))
    with pytest.raises(RuntimeError, match="not finite"):
        Detector(model).cuda().optimize(cuda_graph=True)(photo)


@pytest.mark.cuda
def test_threads_take_turns(with_and_without, photo):
    plain, graphed = with_and_without
    images = [photo, photo[:100, :250], photo.flip(1)]
    expected = [plain(image) for image in images]
    answers: dict[int, list[Detections]] = {}

    def work(number: int) -> None:
        with torch.cuda.stream(torch.cuda.Stream()):
            answers[number] = [graphed(images[number]) for _ in range(20)]
            torch.cuda.current_stream().synchronize()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(images))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, wanted in enumerate(expected):
        for actual in answers[number]:
            assert_equal(actual, wanted)


@pytest.mark.cuda
def test_a_detector_with_graphs_is_exported_as_without(with_and_without, photo, tmp_path):
    _, graphed = with_and_without
    detections = graphed(photo)
    yolact.export(graphed, tmp_path / "model.pt")
    exported = yolact.load_exported(tmp_path / "model.pt", "cuda")(photo)
    torch.testing.assert_close(exported.scores, detections.scores)
