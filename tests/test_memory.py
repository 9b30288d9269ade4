"""Peak memory of what has to hold a thousand objects of a large picture, measured in processes of their own."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_data import save_turned

HEIGHT, WIDTH, OBJECTS = 1944, 2592, 1000

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from /proc")

MEASURED = """
    from pathlib import Path

    def peak():
        [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
        return int(line.split()[1]) * 1024
"""


def added_megabytes(imports: str, work: str, *arguments: object) -> float:
    """How far the peak of a process rises above what it is after the imports."""
    parts = (MEASURED, imports, "import sys\nbefore = peak()", work, "print((peak() - before) / 1e6)")
    program = "\n".join(map(textwrap.dedent, parts))
    command = [sys.executable, "-W", "ignore", "-c", program, *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    print(result.stderr)
    return float(result.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A picture with 998 stars, an object as large as the picture and a crowd. EXIF turns it by 180 degrees."""
    path = tmp_path_factory.mktemp("large")
    generator = np.random.default_rng(0)
    colours = generator.integers(0, 256, (HEIGHT // 16, WIDTH // 16, 3), dtype=np.uint8)
    save_turned(path / "a.jpg", Image.fromarray(colours).resize((WIDTH, HEIGHT)), 3)
    annotations = []
    angles = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    for number in range(1, OBJECTS + 1):
        radii = generator.uniform(20, 300) * (1 + 0.3 * np.sin(5 * angles))
        x = (generator.uniform(0, WIDTH) + radii * np.cos(angles)).clip(0, WIDTH)
        y = (generator.uniform(0, HEIGHT) + radii * np.sin(angles)).clip(0, HEIGHT)
        if number == 1:
            x, y = np.array([0, WIDTH, WIDTH, 0]), np.array([0, 0, HEIGHT, HEIGHT])
        annotations.append(
            {
                "id": number,
                "image_id": 1,
                "category_id": 1,
                "iscrowd": int(number == 2),
                "segmentation": [np.stack((x, y), axis=1).ravel().tolist()],
                "bbox": [x.min(), y.min(), np.ptp(x), np.ptp(y)],
            }
        )
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": WIDTH, "height": HEIGHT}],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "star"}],
    }
    (path / "a.json").write_text(json.dumps(content, default=float))
    return path


def test_a_thousand_objects_are_checked_loaded_evaluated_and_drawn(folder, tmp_path):
    """One process does all this, because its imports take most of the time."""
    imports = """
        from yolact import coco_results
        from yolact.data.batch import Tolerant, collate
        from yolact.data.coco import CocoDataset
        from yolact.data.commands import check
        from yolact.data.transforms import Augmentation, training_transform
        from yolact.evaluation.dataset import EvaluationSet
        from yolact.evaluation.evaluate import save_worst, truth_of
        from yolact.evaluation.results import Results
        from yolact.evaluation.scores import score
        from yolact.training.board import Board
    """
    work = """
        images, output = map(Path, sys.argv[1:])
        file = images / "a.json"

        def say(what):
            print(what, round((peak() - before) / 1e6), file=sys.stderr)

        check(file, images, output / "sheet.png")
        assert (output / "sheet.png").exists()
        say("checked")

        transform = training_transform(550, (124, 117, 104), Augmentation(True, True, zoom_and_crop=False))
        transform.transforms[0].p = 1.0
        samples = Tolerant(CocoDataset(file, images), transform)
        assert len(collate([samples[0, 0]]).targets.masks) == 999
        say("loaded")

        data = EvaluationSet.read(file, images)
        results = Results(coco_results(truth_of(data, 1), 1, data.category_ids))
        [picture] = save_worst(data, results, score(data, results).quality, 1, output)
        Board(output).picture("a", data.reading.read(picture).permute(2, 0, 1), 1)
    """
    assert added_megabytes(imports, work, folder, tmp_path) < 290  # the imports take up to 700


def test_a_picture_of_twelve_megapixels_is_drawn():
    imports = "import torch\nimport yolact\nfrom yolact.models.detections import Detections, EncodedDetections"
    work = """
        height, width, count = 3000, 4000, 80
        image = torch.zeros(height, width, 3, dtype=torch.uint8)
        boxes = torch.tensor([[number * 30, number * 20, 4000, 3000] for number in range(count)])
        scores, labels = torch.linspace(1, 0.5, count), torch.arange(count)
        masks = torch.zeros(1, height, width, dtype=torch.bool)
        masks[0, :2999, :1000] = True
        counts = torch.tensor([0, *[2999, 1] * 1000, height * (width - 1000)] * count)
        offsets = torch.arange(count + 1) * 2002
        before = peak()
        for found in (
            EncodedDetections(boxes, scores, labels, scores, height, width, counts, offsets),
            Detections(boxes, scores, labels, masks.expand(count, -1, -1), scores),
        ):
            yolact.draw(image, found, ["x"] * count)
    """
    assert added_megabytes(imports, work) < 6 * 36  # the picture has 36
