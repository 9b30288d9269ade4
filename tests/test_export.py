"""The exported file gives Python's results, and works without Python."""

import zipfile

import pytest
import torch
from conftest import PHOTOS, small_model

import yolact
from yolact.export import ModelFileError, is_exported
from yolact.models.detections import Detections
from yolact.models.detector import Detector
from yolact.version import FILE_FORMAT


@pytest.mark.parametrize("photo", PHOTOS, ids=lambda path: path.stem)
def test_the_exported_file_gives_what_python_gives(photo, small_detector, small_export):
    image = yolact.read_image(photo)
    loaded = yolact.load_exported(small_export)
    optimized = small_detector.optimize()
    expected = optimized(image)
    assert len(expected.labels) > 10
    for name, a, b in zip(Detections._fields, expected, loaded(image), strict=True):
        assert torch.equal(a, b), name
    assert torch.equal(loaded.forward_batch([image])[0].scores, expected.scores)
    for way in ("forward_encoded", "forward_cropped"):
        one, other = (getattr(model, way)([image])[0] for model in (optimized, loaded))
        for name, a, b in zip(one._fields, one, other, strict=True):
            assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b, name


def test_settings_can_be_changed_after_export(small_export):
    image = yolact.read_image(PHOTOS[0])
    loaded = yolact.load_exported(small_export)
    assert loaded.class_names[0] == "person"
    loaded.score_threshold = 0.0
    loaded.max_detections = 7
    loaded.iou_threshold = 0.4
    assert len(loaded(image).labels) == len(loaded.forward_encoded([image])[0].labels) == 7
    loaded.score_threshold = 1.0
    assert loaded(image).masks.shape == (0, *image.shape[:2])


def test_settings_made_before_the_export_are_kept(tmp_path):
    detector = Detector(small_model()).eval()
    detector.score_threshold, detector.max_detections, detector.iou_threshold = 0.25, 11, 0.3
    detector.class_names = [f"thing {i}" for i in range(80)]
    yolact.export(detector, tmp_path / "model.pt")
    loaded = yolact.load_exported(tmp_path / "model.pt")
    assert (loaded.score_threshold, loaded.max_detections, loaded.iou_threshold) == (0.25, 11, 0.3)
    assert loaded.class_names[79] == "thing 79"


def test_metadata_are_extra_files(small_export):
    metadata = dict.fromkeys(
        ("yolact_format", "yolact_version", "preset", "precision", "image_size", "class_names"), ""
    )
    torch.jit.load(str(small_export), _extra_files=metadata)
    texts = {name: value.decode() for name, value in metadata.items()}
    assert texts["yolact_format"] == str(FILE_FORMAT)
    assert texts["preset"] == "yolact_resnet50"
    assert texts["precision"] == "fp32"
    assert texts["image_size"] == "160"
    assert texts["class_names"].split("\n")[:2] == ["person", "bicycle"]


def test_no_device_is_written_into_the_graph(small_export):
    """A `torch.device("cpu")` in the graph would keep the file from running on CUDA."""
    with zipfile.ZipFile(small_export) as archive:
        code = "\n".join(archive.read(name).decode() for name in archive.namelist() if name.endswith(".py"))
    assert "yolact.detect(" in code
    assert 'torch.device("cpu")' not in code


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_precisions(precision, small_detector, small_export, tmp_path):
    path = small_export if precision == "fp32" else tmp_path / "model.pt"
    if precision != "fp32":
        yolact.export(small_detector, path, precision)
    loaded = yolact.load_exported(path)
    image = yolact.read_image(PHOTOS[0])
    expected = small_detector.optimize(precision)
    for name, a, b in zip(Detections._fields, expected(image), loaded(image), strict=True):
        assert torch.equal(a, b), name


def test_an_optimized_detector_is_exported(small_detector, small_export, tmp_path):
    optimized, path = small_detector.optimize(), tmp_path / "model.pt"
    yolact.export(optimized, path)
    assert abs(path.stat().st_size - small_export.stat().st_size) < 2**16  # the file holds no packed weights
    with pytest.raises(ValueError, match="optimized for fp32: it cannot be exported as bf16"):
        yolact.export(optimized, path, "bf16")


def test_weights_beyond_a_half_are_not_exported(tmp_path):
    detector = Detector(small_model()).eval()
    with torch.no_grad():
        detector.model.head.boxes.weight[0, 0, 0, 0] = 1e6
    with pytest.raises(ValueError, match=r"in fp16, to be exported .*NaN or infinite weights in .*head\.boxes\.weight"):
        yolact.export(detector, tmp_path / "model.pt", "fp16")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.cuda
def test_the_file_runs_on_cuda(small_detector, small_export):
    image = yolact.read_image(PHOTOS[0])
    detections = yolact.load_exported(small_export, "cuda")(image)
    assert detections.masks.device.type == "cuda"
    assert (detections.labels.cpu() == small_detector(image).labels).float().mean() > 0.9


def test_is_exported(small_export, tmp_path):
    checkpoint = tmp_path / "weights.pth"
    torch.save({"a": torch.zeros(1)}, checkpoint)
    text = tmp_path / "text.pt"
    text.write_text("no model")
    assert is_exported(small_export)
    assert not is_exported(checkpoint)
    assert not is_exported(text)
    assert not is_exported(tmp_path / "missing.pt")


def write_wrong_models(folder, exported) -> dict[str, tuple]:
    """Files that this version cannot run, and a pattern for each message. The C++ runtime is tested with them too."""
    whole = exported.read_bytes()
    cases = {"missing.pt": "there is no such file"}
    (folder / "empty.pt").write_bytes(b"")
    (folder / "text.pt").write_text("this is no model\n" * 9)
    (folder / "cut.pt").write_bytes(whole[: len(whole) // 2])
    for name in ("empty.pt", "text.pt", "cut.pt"):
        cases[name] = "not a model written by `yolact export`, or the file is broken"
    foreign = "this is a PyTorch file, but not a model written by `yolact export`"
    torch.save({"weight": torch.zeros(3)}, folder / "checkpoint.pt")
    torch.jit.script(torch.nn.ReLU()).save(str(folder / "other.pt"))
    cases["checkpoint.pt"] = cases["other.pt"] = foreign
    for name, number in (("newer.pt", FILE_FORMAT + 1), ("lower.pt", FILE_FORMAT - 1), ("negative.pt", -FILE_FORMAT)):
        metadata = {"yolact_format": str(number), "yolact_version": "99.0"}
        torch.jit.script(torch.nn.ReLU()).save(str(folder / name), _extra_files=metadata)
    cases["newer.pt"] = f"written by yolact 99.0 in format {FILE_FORMAT + 1}, .* reads format {FILE_FORMAT}: upgrade"
    cases["lower.pt"] = cases["negative.pt"] = foreign
    return {name: (folder / name, message) for name, message in cases.items()}


def test_the_error_for_a_wrong_file_is_one_line(small_export, tmp_path):
    for path, message in write_wrong_models(tmp_path, small_export).values():
        with pytest.raises(ModelFileError, match=message) as caught:
            yolact.load_exported(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def write_with_unknown_operator(path) -> None:
    """A model of this format that needs an unknown operator."""
    with torch.library._scoped_library("yolact_of_tomorrow", "DEF") as library:
        library.define("segment_all(Tensor x) -> Tensor")

        class Model(torch.nn.Module):
            def forward(self, x: torch.Tensor):
                return torch.ops.yolact_of_tomorrow.segment_all(x)

        metadata = {"yolact_format": str(FILE_FORMAT), "yolact_version": "1.2.3"}
        torch.jit.script(Model()).save(str(path), _extra_files=metadata)


def test_an_unknown_operator_is_named(tmp_path):
    path = tmp_path / "tomorrow.pt"
    write_with_unknown_operator(path)
    with pytest.raises(ModelFileError, match=r"needs the operator yolact_of_tomorrow::segment_all, .*libyolact_ops"):
        yolact.load_exported(path)


def test_broken_weights_are_not_exported(tmp_path):
    detector = Detector(small_model()).eval()
    with torch.no_grad():
        detector.model.head.boxes.bias[0] = float("inf")
    with pytest.raises(ValueError, match=r"NaN or infinite weights in head\.boxes\.bias"):
        yolact.export(detector, tmp_path / "model.pt")
    detector = Detector(small_model()).eval()
    detector.class_names[0] = "two\nlines"
    with pytest.raises(ValueError, match="line break"):
        yolact.export(detector, tmp_path / "model.pt")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(OSError, match="does not exist: create it first"):
        yolact.export(Detector(small_model()), tmp_path / "no" / "model.pt")
