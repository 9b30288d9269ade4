"""The demonstration: one photograph through Python and through the C++ program."""

import json
import shutil
import subprocess
from pathlib import Path

import torch
from torchvision.io import write_png

from yolact.data.images import read_image
from yolact.evaluation.coco import coco_results
from yolact.export import export
from yolact.files import written_whole
from yolact.models.detector import Detections, Detector
from yolact.models.yolact import Yolact, build_model
from yolact.visualize import draw
from yolact.weights import deterministic
from yolact.weights.checkpoints import load_weights
from yolact.weights.layouts import name_in_original

PHOTO = Path(__file__).parent / "assets" / "coffee.jpg"
SCORE_THRESHOLD = 0.15


def untrained_detector(model: Yolact) -> Detector:
    """A detector with the made-up but reproducible weights of the parity recordings: its masks mean nothing."""
    names = {name_in_original(name): tuple(value.shape) for name, value in model.state_dict().items()}
    load_weights(model, {name: torch.from_numpy(deterministic.tensor(name, shape)) for name, shape in names.items()})
    return Detector(model).eval()


def run(folder: Path, program: Path | None) -> bool:
    """Writes both pictures and the exported model into `folder` and prints whether the two sides agree.

    Args:
        folder: created if missing.
        program: yolact-segment; looked for on the PATH if None.

    Returns:
        False if they disagree.

    Raises:
        RuntimeError: if the C++ program fails.
    """
    folder.mkdir(parents=True, exist_ok=True)
    print("No trained weights are bundled yet: the network is filled with made-up values, so the masks mean nothing.")
    detector = untrained_detector(build_model("yolact_resnet50"))
    detector.score_threshold = SCORE_THRESHOLD
    image = read_image(PHOTO)
    detections = detector(image)
    picture = folder / "python.png"
    with written_whole(picture) as temporary:
        write_png(draw(image, detections, detector.class_names), str(temporary))
    print(f"Python: {len(detections.labels)} detections, {picture}")

    found = program or shutil.which("yolact-segment")
    if found is None:
        print("C++: no yolact-segment on the PATH; `make demo` builds and runs it too")
        return True
    model = folder / "model.pt"
    export(detector, model)
    command = [str(found), str(model), str(PHOTO), "-o", str(folder / "cpp"), "--json"]
    finished = subprocess.run([*command, "--score-threshold", str(SCORE_THRESHOLD)], capture_output=True, text=True)
    if finished.returncode != 0:
        raise RuntimeError(f"{found} failed: {finished.stderr.strip()}")
    entries = json.loads((folder / "cpp" / "detections.json").read_text())
    print(f"C++: {len(entries)} detections, {folder / 'cpp' / PHOTO.with_suffix('.png').name}")
    difference = disagreement(detections, entries)
    print(f"Python and C++ disagree: {difference}" if difference else "Python and C++ agree.")
    return not difference


def disagreement(detections: Detections, entries: list[dict]) -> str:
    """What tells COCO results of the C++ program from Python's detections beyond rounding; empty if nothing.

    Labels must be equal, boxes within 1e-3 pixels, scores within 1e-5 and masks of an IoU above 0.999.
    """
    from pycocotools import mask as rle

    ours = coco_results(detections, image_id=1)
    if [entry["category_id"] for entry in ours] != [entry["category_id"] for entry in entries]:
        return f"other labels ({len(ours)} and {len(entries)} detections)"
    for number, (a, b) in enumerate(zip(ours, entries, strict=True)):
        if max(abs(x - y) for x, y in zip(a["bbox"], b["bbox"], strict=True)) > 1e-3:
            return f"box {number}: {a['bbox']} and {b['bbox']}"
        if abs(a["score"] - b["score"]) > 1e-5:
            return f"score {number}: {a['score']} and {b['score']}"
        overlap = rle.iou([a["segmentation"]], [b["segmentation"]], [False])[0][0]
        if overlap <= 0.999 and rle.area([a["segmentation"], b["segmentation"]]).any():
            return f"mask {number}: IoU {overlap}"
    return ""
