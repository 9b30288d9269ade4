"""The demonstration: a picture through Python and through the C++ program."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import torch

from yolact.api import load
from yolact.config import get_preset
from yolact.data.images import read_image
from yolact.data.problems import counted
from yolact.data.shapes import render
from yolact.evaluation.coco import coco_results
from yolact.export import export
from yolact.files import make_folder, write_picture
from yolact.models.detections import Detections
from yolact.visualize import draw
from yolact.weights.download import cached_file

PHOTO = Path(__file__).parent / "assets" / "coffee.jpg"
SCENE = 7, 3, 480  # seed, number and pixels of a scene of the data set `shapes`
SHAPES_MODEL, PHOTO_MODEL = "yolact_shapes", "yolact_resnet50"
SCORE_THRESHOLD = 0.3


def run(folder: Path, program: Path | None) -> bool:
    """Writes pictures and exported models into `folder` and prints whether Python and C++ agree.

    The bundled model segments a rendered scene. A photograph needs weights that were trained on COCO, so it is
    segmented only if these are on this machine.

    Args:
        folder: created if missing.
        program: yolact-segment; None for the one on the PATH.

    Returns:
        False if they disagree.

    Raises:
        RuntimeError: if the C++ program fails.
    """
    make_folder(folder)
    seed, number, size = SCENE
    scene = folder / "scene.png"
    write_picture(scene, torch.from_numpy(render(seed, number, size, "val")[0]).permute(2, 0, 1))
    print(f"{scene}: a rendered scene, for the bundled model {SHAPES_MODEL}")
    agree = _segment(SHAPES_MODEL, scene, folder, program)
    publication = get_preset(PHOTO_MODEL).publication
    if cached_file(get_preset(PHOTO_MODEL)) is not None:
        print(f"{PHOTO}: a photograph, for {PHOTO_MODEL}")
        return _segment(PHOTO_MODEL, PHOTO, folder, program) and agree
    print(
        f"For photographs take weights trained on COCO: `yolact predict {PHOTO} --model {PHOTO_MODEL}` fetches them "
        f"once from {publication.address}; without a network, fetch that file elsewhere and give its path as --model."
    )
    return agree


def _segment(name: str, path: Path, folder: Path, program: Path | None) -> bool:
    """One picture in Python and in C++; False if they disagree."""
    detector = load(name).optimize()
    detector.score_threshold = SCORE_THRESHOLD
    image = read_image(path)
    detections = detector(image)
    picture = folder / f"{path.stem}-python.png"
    write_picture(picture, draw(image, detections, detector.class_names))
    print(f"  Python: {counted(len(detections.labels), 'detection')}, {picture}")

    executable = program or shutil.which("yolact-segment")
    if executable is None:
        print("  C++: no yolact-segment on the PATH; `make demo` builds and runs it too")
        return True
    model = folder / f"{name}.pt"
    export(detector, model)
    results = folder / "cpp" / "detections.json"
    command = [str(executable), str(model), str(path), "-o", str(folder / "cpp"), "--json", str(results)]
    finished = subprocess.run([*command, "--score-threshold", str(SCORE_THRESHOLD)], capture_output=True, text=True)
    if finished.returncode != 0:
        raise RuntimeError(f"{executable} failed: {finished.stderr.strip()}")
    entries = json.loads(results.read_text())
    print(f"  C++: {counted(len(entries), 'detection')}, {folder / 'cpp' / path.with_suffix('.png').name}")
    difference = disagreement(detections, entries)
    print(f"  Python and C++ disagree: {difference}" if difference else "  Python and C++ agree.")
    return not difference


def disagreement(detections: Detections, entries: list[dict[str, Any]]) -> str:
    """The first difference between COCO results of the C++ program and Python's detections; empty if there is none.

    Labels must be equal. Boxes may differ by 1e-3 pixels and scores by 1e-5, and the IoU of masks must be above 0.999.
    """
    from pycocotools import mask as rle

    ours = coco_results(detections, image_id=1)
    if [entry["category_id"] for entry in ours] != [entry["category_id"] for entry in entries]:
        return f"other labels ({len(ours)} detections and {len(entries)})"
    for number, (a, b) in enumerate(zip(ours, entries, strict=True)):
        if max(abs(x - y) for x, y in zip(a["bbox"], b["bbox"], strict=True)) > 1e-3:
            return f"box {number}: {a['bbox']} and {b['bbox']}"
        for key in ("score", "box_score"):
            if abs(a[key] - b[key]) > 1e-5:
                return f"{key} {number}: {a[key]} and {b[key]}"
        overlap = rle.iou([a["segmentation"]], [b["segmentation"]], [False])[0][0]
        if overlap <= 0.999 and rle.area([a["segmentation"], b["segmentation"]]).any():
            return f"mask {number}: IoU {overlap}"
    return ""
