"""COCO-format data: reading, reporting what is wrong, augmenting, batching, and the synthetic `shapes`."""

import json
from collections import Counter
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as rle
from test_annotations import compressed, uncompressed
from torch.utils.data import DataLoader
from torchvision import tv_tensors
from torchvision.ops import box_iou, masks_to_boxes
from torchvision.transforms import v2
from typer.testing import CliRunner

from yolact.config import get_preset
from yolact.data import shapes
from yolact.data.batch import BrokenSample, Tolerant, collate
from yolact.data.check import check, compare_orientations, edge_contrast
from yolact.data.coco import CocoDataset, EncodedSample, Sample
from yolact.data.commands import app
from yolact.data.images import ImageError, Reading
from yolact.data.locate import ImageFolder
from yolact.data.packed import PackedMasks, pack, unpack
from yolact.data.presets import DATA_PRESETS, get_data_preset
from yolact.data.problems import KINDS, DataError, Severity, counted
from yolact.data.shapes import CLASS_NAMES, render, write_dataset
from yolact.data.sheet import contact_sheet
from yolact.data.transforms import (
    Augmentation,
    IoUCrop,
    PhotometricDistort,
    RandomQuarterTurn,
    RandomZoomAndCrop,
    training_transform,
)
from yolact.files import WriteError
from yolact.run_lengths import Grid, RunLengths, runs_of

HEIGHT, WIDTH = 60, 80
MEAN = (123.68, 116.78, 103.94)
SQUARE = [10.0, 20.0, 40.0, 20.0, 40.0, 50.0, 10.0, 50.0]  # x 10–40, y 20–50


def rectangle(x1: int, y1: int, x2: int, y2: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
    mask[y1:y2, x1:x2] = 1
    return mask


def annotation(number: int, image_id: int = 1, category_id: int = 7, **changes) -> dict:
    return {
        "id": number,
        "image_id": image_id,
        "category_id": category_id,
        "iscrowd": 0,
        "area": 900,
        "bbox": [10, 20, 30, 30],
        "segmentation": [SQUARE],
        **changes,
    }


def content(annotations: list[dict], images: int = 1) -> dict:
    return {
        "images": [
            {"id": number, "file_name": f"{number:012d}.jpg", "width": WIDTH, "height": HEIGHT}
            for number in range(1, images + 1)
        ],
        "annotations": annotations,
        "categories": [{"id": 90, "name": "dog"}, {"id": 7, "name": "cat"}],
    }


def write(folder: Path, data: dict) -> tuple[Path, Path]:
    """The annotation file and the folder with an image for each entry."""
    images = folder / "images"
    images.mkdir(exist_ok=True)
    for entry in data["images"]:
        noise = np.random.default_rng(entry["id"]).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        Image.fromarray(noise).save(images / entry["file_name"])
    file = folder / "annotations.json"
    file.write_text(json.dumps(data))
    return file, images


@pytest.fixture
def dataset(tmp_path) -> CocoDataset:
    """Image 1 has three masks of the same square, the first of them a crowd. Image 2 has no objects."""
    square = rectangle(10, 20, 40, 50)
    crowd = annotation(1, iscrowd=1, segmentation=uncompressed(rectangle(50, 5, 70, 25)), bbox=[50, 5, 20, 20])
    objects = [
        annotation(2),
        annotation(3, category_id=90, segmentation=uncompressed(square)),
        annotation(4, segmentation=compressed(square)),
    ]
    return CocoDataset(*write(tmp_path, content([crowd, *objects], images=2)))


def test_reads_every_kind_of_mask_with_crowds_last(dataset):
    sample = dataset[0]
    assert sample["image"].shape == (3, HEIGHT, WIDTH)
    assert sample["image"].dtype == torch.uint8
    assert sample["labels"].tolist() == [0, 1, 0, -1]
    assert sample["boxes"].tolist() == [[10, 20, 40, 50]] * 3 + [[50, 5, 70, 25]]
    assert sample["boxes"].canvas_size == (HEIGHT, WIDTH)
    square = torch.from_numpy(rectangle(10, 20, 40, 50))
    assert all(torch.equal(mask, square) for mask in sample["masks"][:3])
    assert torch.equal(sample["masks"][3], torch.from_numpy(rectangle(50, 5, 70, 25)))


def test_labels_follow_category_ids_and_images_without_objects_are_samples(dataset, capsys):
    assert [category.id for category in dataset.annotations.categories] == [7, 90]
    assert dataset.class_names == ["cat", "dog"]
    assert dataset.num_classes == 2
    assert [image.id for image in dataset.annotations.images] == [1, 2]
    assert len(dataset) == 2
    empty = dataset[1]
    assert empty["boxes"].shape == (0, 4)
    assert empty["masks"].shape == (0, HEIGHT, WIDTH)
    assert empty["labels"].dtype == torch.int64
    assert capsys.readouterr().out == ""


def test_objects_without_extent_are_left_out(tmp_path):
    outside = [100.0, 100.0, 120.0, 100.0, 120.0, 120.0]
    objects = [
        annotation(1, bbox=[10, 20, 0, 30]),  # the box is computed from the mask
        annotation(2, segmentation=[outside]),
        annotation(3, segmentation=[]),
        annotation(4, bbox=[-20, 20, 60, 100]),
    ]
    sample = CocoDataset(*write(tmp_path, content(objects)))[0]
    assert sample["boxes"].tolist() == [[10, 20, 40, 50], [0, 20, 40, HEIGHT]]
    assert sample["masks"].shape == (2, HEIGHT, WIDTH)


@pytest.mark.parametrize(
    ("named", "there"),
    [
        ("COCO_train2014_000000000009.jpg", "000000000009.jpg"),
        ("000000000009.jpg", "COCO_val2014_000000000009.jpg"),
        ("train2017/000000000009.jpg", "000000000009.jpg"),
        ("a/b.jpg", "a/b.jpg"),
    ],
)
def test_finds_images_by_the_names_of_2014_and_2017(tmp_path, named, there):
    (tmp_path / there).parent.mkdir(exist_ok=True)
    (tmp_path / there).touch()
    assert ImageFolder(tmp_path).find(named).path == tmp_path / there
    assert ImageFolder(tmp_path).find("000000000001.jpg") is None


def test_refuses_missing_files(tmp_path):
    file, images = write(tmp_path, content([annotation(1)]))
    with pytest.raises(DataError, match="no such annotation file"):
        CocoDataset(tmp_path / "none.json", images)
    with pytest.raises(DataError, match="no such folder"):
        CocoDataset(file, tmp_path / "none")
    with pytest.raises(DataError, match="none of the 1 image of the annotations is there"):
        CocoDataset(file, tmp_path)


def broken_dataset(folder: Path, transform=None) -> CocoDataset:
    """Image 1 is good, 2 is missing, 3 is cut short, 4 has another size, and the mask of 5 is broken."""
    bad = {"size": [HEIGHT, WIDTH], "counts": [1]}
    file, images = write(folder, content([annotation(1), annotation(2, 5, segmentation=bad)], images=5))
    names = [f"{number:012d}.jpg" for number in range(1, 6)]
    (images / names[1]).unlink()
    (images / names[2]).write_bytes((images / names[2]).read_bytes()[:500])
    Image.new("RGB", (HEIGHT, WIDTH)).save(images / names[3])
    return CocoDataset(file, images, transform)


def test_broken_samples_are_named_and_left_out_of_batches(tmp_path):
    dataset = broken_dataset(tmp_path, training_transform(64, MEAN))
    assert [problem.kind for problem in dataset.annotations.problems] == ["missing picture", "unused class", "bad mask"]
    assert [image.id for image in dataset.annotations.images] == [1, 3, 4, 5]
    for index, message in ((1, "broken"), (2, "60×80 pixels, but its annotations are for 80×60")):
        with pytest.raises(ImageError, match=message) as caught:
            dataset[index]
        assert f"{index + 2:012d}.jpg" in str(caught.value)
    assert len(dataset[3]["labels"]) == 0
    assert isinstance(Tolerant(dataset)[1], BrokenSample)
    [batch] = DataLoader(Tolerant(dataset), batch_size=4, collate_fn=collate)
    assert batch.image_ids == [1, 5]
    assert batch.images.shape == (2, 3, 64, 64)
    assert len(batch.broken) == 2
    nothing = collate([BrokenSample("a.jpg: gone")])
    assert nothing.images.shape == (0, 3, 0, 0)
    assert nothing.targets.labels.shape == (0, 0)
    assert nothing.broken == ["a.jpg: gone"]


def scene(seed: int, count: int = 5) -> Sample:
    """Grey rectangles on black, each of one shade. The last is a crowd."""
    generator = np.random.default_rng(seed)
    height, width = 120, 160
    image, masks, boxes = np.zeros((3, height, width), np.uint8), [], []
    for number in range(count):
        x1, y1 = int(generator.integers(0, width - 40)), int(generator.integers(0, height - 40))
        x2, y2 = x1 + int(generator.integers(20, 40)), y1 + int(generator.integers(20, 40))
        mask = np.zeros((height, width), np.uint8)
        mask[y1:y2, x1:x2] = 1
        image[:, mask == 1] = 50 + 40 * number
        masks = [other * (1 - mask) for other in masks] + [mask]
        boxes.append([x1, y1, x2, y2])
    return Sample(
        image=tv_tensors.Image(torch.from_numpy(image)),
        boxes=tv_tensors.BoundingBoxes(
            torch.tensor(boxes, dtype=torch.float32).view(-1, 4), format="XYXY", canvas_size=(height, width)
        ),
        masks=tv_tensors.Mask(torch.from_numpy(np.stack(masks)) if masks else torch.zeros(0, height, width).byte()),
        labels=torch.tensor([*range(count - 1), -1] if count else [], dtype=torch.int64),
        image_id=seed,
        path="scene",
    )


@pytest.mark.parametrize(
    "transform",
    [
        RandomZoomAndCrop(200, (0, 0, 0)),
        v2.Compose([RandomZoomAndCrop(200, (0, 0, 0)), v2.RandomHorizontalFlip(1), v2.RandomVerticalFlip(1)]),
        v2.Compose([RandomZoomAndCrop(200, (0, 0, 0)), RandomQuarterTurn()]),
    ],
    ids=["zoom and crop", "flips", "turn"],
)
def test_pixels_masks_boxes_and_labels_move_together(transform):
    kept = 0
    for seed in range(40):
        torch.manual_seed(seed)
        sample = transform(scene(seed))
        assert sample["image"].shape == (3, 200, 200)
        assert len(sample["boxes"]) == len(sample["masks"]) == len(sample["labels"])
        for box, mask, label in zip(sample["boxes"], sample["masks"], sample["labels"].tolist(), strict=True):
            grey = 50 + 40 * (label if label >= 0 else 4)
            pixels = sample["image"][0][mask.bool()].float()
            # Pixels at edges are interpolated with their neighbours.
            assert ((pixels - grey).abs() < 3).float().mean() > 0.4 or len(pixels) < 60
            assert abs(pixels.median().item() - grey) < 3 or len(pixels) < 60
            inside = masks_to_boxes(mask[None])[0] + torch.tensor([0, 0, 1, 1])
            assert (inside[:2] >= box[:2] - 1).all()  # other objects may hide a part, but no pixel lies outside
            assert (inside[2:] <= box[2:] + 1).all()
            kept += 1
    assert kept > 60


def test_boxes_stay_tight_around_whole_masks():
    differences = []
    for seed in range(60):
        torch.manual_seed(seed)
        sample = RandomZoomAndCrop(200, MEAN)(scene(seed, count=2))
        for box, mask, label in zip(sample["boxes"], sample["masks"], sample["labels"], strict=True):
            if label == -1:  # it is on top, so nothing hides a part of it
                differences.append((masks_to_boxes(mask[None])[0] + torch.tensor([0, 0, 1, 1]) - box).abs().max())
    assert len(differences) > 30
    assert max(differences) <= 1


def test_zoom_out_shows_the_mean_colour():
    transform = RandomZoomAndCrop(100, MEAN)
    transform.zoom_out = v2.RandomZoomOut(side_range=(3.0, 3.0), p=1.0)
    torch.manual_seed(0)
    sample = transform(scene(0, count=0))
    fill = torch.tensor([124, 117, 104], dtype=torch.uint8).view(3, 1, 1)
    assert (sample["image"] == fill).all(dim=0).float().mean() == pytest.approx(8 / 9, abs=0.02)


def without_randomness(size: int) -> RandomZoomAndCrop:
    transform = RandomZoomAndCrop(size, MEAN)
    transform.zoom_out.p = 0.0
    transform.crop.options = [1.0]
    return transform


def test_resizing_is_the_same_as_the_detectors():
    sample = scene(1)
    sample["image"] = tv_tensors.Image(torch.randint(256, sample["image"].shape, dtype=torch.uint8))
    stretched = without_randomness(90)(sample)["image"].float()
    expected = torch.nn.functional.interpolate(sample["image"][None].float(), size=(90, 90), mode="bilinear")[0]
    assert (stretched - expected).abs().max() < 1.1


def test_small_and_invisible_objects_are_dropped():
    sample = scene(0)
    sample["boxes"][0, 2:] = sample["boxes"][0, :2] + torch.tensor([30.0, 120 * 3.9 / 550])
    sample["boxes"][1, 2:] = sample["boxes"][1, :2] + torch.tensor([30.0, 120 * 4.1 / 550])
    sample["masks"][2] = 0
    result = without_randomness(550)(sample)
    assert result["labels"].tolist() == [1, 3, -1]
    assert len(result["masks"]) == len(result["boxes"]) == 3


def test_a_crowd_does_not_influence_the_crop_and_stays_without_its_centre():
    sample = scene(0, count=2)
    sample["boxes"] = tv_tensors.wrap(torch.tensor([[10.0, 10, 50, 50], [0, 0, 160, 120]]), like=sample["boxes"])
    sample["masks"][:] = 1
    transform = RandomZoomAndCrop(100, MEAN)
    transform.zoom_out.p = 0.0
    transform.crop.options = [0.0]
    shown = Counter()
    for seed in range(30):
        torch.manual_seed(seed)
        shown[tuple(transform(deepcopy(sample))["labels"].tolist())] += 1
    assert shown == {(0, -1): 30}


def test_the_crop_has_torchvisions_distribution():
    boxes = scene(3)["boxes"]
    areas = {}
    for crop in (IoUCrop(), v2.RandomIoUCrop()):
        torch.manual_seed(0)
        draws = [crop.make_params([boxes]) for _ in range(300)]
        for draw in filter(None, draws):
            window = torch.tensor(
                [[draw["left"], draw["top"], draw["left"] + draw["width"], draw["top"] + draw["height"]]]
            )
            assert draw["is_within_crop_area"].any()
            assert 0.5 <= draw["width"] / draw["height"] <= 2
            assert box_iou(boxes.as_subclass(torch.Tensor), window.float()).shape == (5, 1)
        areas[type(crop)] = np.array([draw["width"] * draw["height"] if draw else 120 * 160 for draw in draws])
    ours, theirs = areas.values()
    assert abs(ours.mean() - theirs.mean()) < 0.1 * 120 * 160
    assert abs((ours == 120 * 160).mean() - (theirs == 120 * 160).mean()) < 0.12


def test_the_whole_augmentation_ends_in_batches():
    preset = get_preset("yolact_resnet50")
    transform = training_transform(150, preset.pixel_mean, Augmentation(vertical_flip=True, rotate=True))
    torch.manual_seed(1)
    batch = collate([transform(scene(seed, count)) for seed, count in enumerate((5, 0, 3, 1))])
    assert batch.images.shape == (4, 3, 150, 150)
    assert batch.images.dtype == torch.uint8
    boxes, labels, masks = batch.targets
    assert boxes.shape[:2] == labels.shape
    assert boxes.dtype == torch.float32
    assert 0 <= boxes.min() <= boxes.max() <= 1
    assert masks.shape == ((labels >= 0).sum(), 150, 19)
    assert masks.dtype == torch.uint8
    assert (labels[1] == -2).all()
    order = {-2: 2, -1: 1}
    ranks = [[order.get(label, 0) for label in row] for row in labels.tolist()]
    assert ranks == [sorted(row) for row in ranks]
    whole = collate([without_randomness(150)(scene(seed, 3)) for seed in range(2)])
    assert whole.targets.labels.tolist() == [[0, 1, -1]] * 2
    inner = masks_to_boxes(unpack(whole.targets.masks)) / 150
    assert (inner - whole.targets.boxes[:, :2].flatten(0, 1)).abs().amax(dim=1).min() < 0.02


def test_batches_without_any_object():
    batch = collate([without_randomness(80)(scene(seed, 0)) for seed in range(2)])
    assert batch.targets.boxes.shape == (2, 0, 4)
    assert batch.targets.labels.shape == (2, 0)
    assert batch.targets.masks.shape == (0, 80, 10)
    with pytest.raises(ValueError, match="one size"):
        collate([scene(0)])


def test_a_seed_with_the_index_fixes_the_augmentation(dataset):
    dataset.transform = training_transform(64, MEAN)
    tolerant = Tolerant(dataset)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first = tolerant[0, 11]
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(first["image"], tolerant[0, 11]["image"])
    assert not torch.equal(first["image"], tolerant[0, 12]["image"])


def encoded(sample: Sample) -> EncodedSample:
    """The sample with run lengths in place of its dense masks."""
    masks = sample["masks"].numpy()
    texts = tuple(rle.encode(np.asfortranarray(mask))["counts"] for mask in masks)
    return EncodedSample(**{**sample, "masks": RunLengths(texts, *masks.shape[1:])})


def crowded(seed: int, height: int, width: int) -> Sample:
    """Noise with masks of many kinds: blots, dust, one pixel, the whole image, nothing. Up to two are crowds."""
    generator = np.random.default_rng(seed)
    count, crowds = int(generator.integers(0, 12)), int(generator.integers(0, 3))
    masks = np.zeros((count + crowds, height, width), np.uint8)
    for mask in masks:
        y1, y2 = sorted(generator.integers(0, height + 1, 2))
        x1, x2 = sorted(generator.integers(0, width + 1, 2))
        kind = generator.integers(6)
        if kind < 3:
            mask[y1:y2, x1:x2] = generator.uniform(size=(y2 - y1, x2 - x1)) < (1, 0.8, 0.01)[kind]
        elif kind == 3:
            mask[generator.integers(height), generator.integers(width)] = 1
        elif kind == 4:
            mask[:] = 1
    corners = generator.uniform(0, 1, (count + crowds, 2, 2)) * (width, height)
    boxes = np.concatenate((corners.min(axis=1), corners.max(axis=1)), axis=1)
    return Sample(
        image=tv_tensors.Image(torch.from_numpy(generator.integers(0, 256, (3, height, width), dtype=np.uint8))),
        boxes=tv_tensors.BoundingBoxes(torch.from_numpy(boxes).float(), format="XYXY", canvas_size=(height, width)),
        masks=tv_tensors.Mask(torch.from_numpy(masks)),
        labels=torch.tensor([*range(count), *[-1] * crowds], dtype=torch.int64),
        image_id=seed,
        path="noise",
    )


@pytest.mark.parametrize(
    "size", [(120, 160), (1, 1), (7, 300), (300, 7), (431, 77), (64, 64)], ids=lambda size: "x".join(map(str, size))
)
@pytest.mark.parametrize("zoom_and_crop", [True, False])
def test_run_lengths_and_dense_masks_give_equal_batches(size, zoom_and_crop):
    """Dense masks are cut, resampled and turned by torch."""
    side = 67  # no multiple of eight
    transform = training_transform(side, MEAN, Augmentation(True, True, zoom_and_crop))
    kept = 0
    for seed in range(25):
        sample = crowded(seed, *size)
        batches = []
        for form in (sample, encoded(sample)):
            torch.manual_seed(seed)
            batches.append(collate([transform(deepcopy(form))]))
        dense, packed = batches
        assert torch.equal(dense.images, packed.images)
        for ours, expected in zip(packed.targets, dense.targets, strict=True):
            assert ours.dtype == expected.dtype
            assert torch.equal(ours, expected)
        masks = unpack(packed.targets.masks)
        assert torch.equal(pack(masks), packed.targets.masks)
        kept += len(masks)
    assert kept > 30 or size == (1, 1)


def test_run_lengths_are_read_where_a_data_set_has_no_samples_of_its_own(dataset):
    seen = []

    def transform(sample):
        seen.append(type(sample["masks"]))
        return sample

    class Own(CocoDataset):
        def __getitem__(self, index):
            seen.append("own")
            return super().__getitem__(index)

    own = Own(dataset.annotations.path, dataset.annotations.images[0].path.parent)
    Tolerant(dataset, transform)[0]
    Tolerant(own, transform)[0]
    assert seen == [RunLengths, "own", tv_tensors.Mask]
    dataset.transform = lambda sample: sample
    Tolerant(dataset, transform)[0]
    assert seen[3:] == [tv_tensors.Mask]


def test_packed_masks_are_not_turned_by_other_angles():
    with pytest.raises(ValueError, match="multiples of 90 degrees only, got 45"):
        v2.functional.rotate(PackedMasks(pack(torch.ones(1, 9, 9))), 45)


@pytest.mark.parametrize("size", [(1, 1), (67, 31), (300, 1011), (900, 640)])
def test_colours_change_as_torchvisions(size):
    image = torch.randint(0, 256, (*size, 3), dtype=torch.uint8).permute(2, 0, 1)
    changed = 0
    for seed in range(20):
        pictures = []
        for transform in (PhotometricDistort(), v2.RandomPhotometricDistort()):
            torch.manual_seed(seed)
            pictures.append(transform(tv_tensors.Image(image))[:])
        assert torch.equal(*pictures), seed
        changed += not torch.equal(pictures[0], image)
    assert changed > 10


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 50), (50, 1), (37, 53)])
def test_run_lengths_become_pixels(height, width):
    """At any rows and columns, which may repeat; the rectangle is as small as it can be if no run wraps."""
    generator = np.random.default_rng(0)
    for number in range(60):
        mask = (generator.uniform(size=(height, width)) < generator.choice((0, 0.02, 0.5, 1))).astype(np.uint8)
        runs = runs_of(rle.encode(np.asfortranarray(mask))["counts"])
        assert runs.sum() == mask.size
        rows, columns = (
            np.sort(generator.integers(0, side, generator.integers(1, 2 * side + 1))) for side in (height, width)
        )
        for grid, expected in (
            (Grid(height, width), mask),
            (Grid(height, width, rows, columns), mask[np.ix_(rows, columns)]),
        ):
            x1, y1, crop = grid.pixels(runs)
            result = np.zeros_like(expected)
            result[y1 : y1 + crop.shape[0], x1 : x1 + crop.shape[1]] = crop
            assert np.array_equal(result, expected), number
            assert grid.touches(runs) == expected.any() == bool(crop.size)
            if crop.size:
                assert crop.any(axis=0)[[0, -1]].all()


@pytest.mark.parametrize("text", [b"/", b"\x7f", b"0P", b"5" * 3 + b"@", b"P" * 7 + b"0", b"11K"])
def test_what_is_no_run_length_is_refused(text):
    with pytest.raises(ValueError, match=r"run|text"):
        runs_of(text)


def test_borders_of_masks_on_edges_of_the_picture():
    for seed in range(10):
        sample = crowded(seed, 50, 70)
        image, masks = sample["image"].as_subclass(torch.Tensor).float(), sample["masks"].as_subclass(torch.Tensor)
        across, everywhere = [], []
        for dim in (1, 2):
            steps = image.diff(dim=dim).abs().sum(dim=0)
            across.append(steps[(masks.int().diff(dim=dim) != 0).any(dim=0)])
            everywhere.append(steps.flatten())
        border = torch.cat(across)
        expected = float(border.mean() / torch.cat(everywhere).mean()) if len(border) else 0.0
        assert edge_contrast(encoded(sample)) == pytest.approx(expected, rel=1e-5)


def planted(folder: Path) -> tuple[Path, Path, set[str]]:
    """A data set with one problem of each kind that leaves it usable, and the set of these kinds."""
    square = compressed(rectangle(10, 20, 40, 50))
    data = content(
        [
            annotation(0),  # annotation id
            annotation(1, 2),
            annotation(1, 2, segmentation=[0, 0, 9, 0, 9, 9], bbox=[0, 0, 9, 9]),  # flat polygon
            annotation(3, 2, segmentation=square),  # duplicate object: the mask of annotation 1
            annotation(4, 3, bbox=[10, 20, 0, 0]),  # bad box
            annotation(5, 4, bbox=[10, 20, 40, 39]),  # box contradicts mask
            annotation(6, 5, bbox=[70, 20, 30, 30]),  # box outside the image, and its mask
            annotation(7, 6, segmentation=[[1, 1, 2, 2]]),  # no mask
            annotation(8, 999),  # unknown image
            annotation(9, 6, category_id=3),  # unknown category
            annotation(10, 6, segmentation="x"),  # bad mask
            annotation(11, 6, segmentation=[[100, 100, 120, 100, 120, 120]]),  # empty mask
            annotation(12, 6, area=-3, bbox="x", iscrowd=False),  # bad area, crowd flag not 0 or 1
            annotation(13, 7, iscrowd=3),  # bad crowd flag
            annotation(14, 8, category_id=90),
            annotation(15, 8),  # object of two classes
            7,  # bad annotation
            annotation(16, "9", segmentation=[[[0, "0"], [0, 9], [9, 9]], [1, 1]], bbox=[0, 0, 9, 9]),  # id as text, …
            annotation(17, 10, category_id=91),
            annotation(18, 10, category_id=94, segmentation=[[0, 0, 9, 0, 9, 9]], bbox=[0, 0, 9, 9]),
        ],
        images=200,
    )
    data["categories"] += [
        {"id": 91, "name": "dog"},  # two categories of one name
        {"id": 92, "name": "yak\n"},  # class name, unused class
        {"id": 93, "name": "animals"},  # placeholder category
        {"id": 94, "name": "Dog", "supercategory": "animals"},  # similar class names
        {"id": 95},  # bad category entry
    ]
    file, images = write(folder, data)
    entries, names = data["images"], [entry["file_name"] for entry in data["images"]]
    (images / names[8]).rename(images / "nine.jpg")
    entries[8]["file_name"] = "photos\\nine.jpg"  # file name with backslashes
    (images / names[11]).write_bytes(b"no picture")  # broken picture
    Image.new("RGB", (HEIGHT, WIDTH)).save(images / names[12])  # size contradicts the picture
    (images / names[13]).write_bytes((images / names[0]).read_bytes())  # duplicate picture
    picture = Image.new("RGB", (WIDTH, HEIGHT), "red")
    exif = picture.getexif()
    exif[0x0112] = 3
    picture.save(images / names[14], exif=exif)  # EXIF orientation
    deep = np.full((HEIGHT, WIDTH), 4095, np.uint16)
    deep[0, 0] = 17
    Image.fromarray(deep).save(images / "deep.png")
    entries[15]["file_name"] = "deep.png"  # dark 16-bit picture
    (images / names[15]).unlink()
    entries[16]["width"] = "80"  # size not an integer
    del entries[17]["height"]  # size missing
    entries.append(dict(entries[18]))  # repeated entry
    entries.append({**entries[18], "id": 300})  # picture listed twice
    entries += [{**entries[18], "id": 301 + number, "file_name": f"cam{number}/{names[18]}"} for number in range(1)]
    (images / "extra.png").write_bytes(b"")
    file.write_text(json.dumps(data))
    kinds = set(KINDS) - {kind for kind, what in KINDS.items() if what.severity is Severity.FATAL}
    return file, images, kinds - {"bad image entry", "missing picture"}


def test_check_finds_every_planted_problem(tmp_path):
    file, images, expected = planted(tmp_path)
    report = check(file, images)
    assert {problem.kind for problem in report.problems} == expected
    assert report.usable
    assert report.unlisted_files == 1
    assert report.errors == sum(KINDS[problem.kind].severity is Severity.ERROR for problem in report.problems)
    sheet = tmp_path / "sheet.png"
    result = CliRunner().invoke(app, ["check", str(file), str(images), "--examples", "1", "--sheet", str(sheet)])
    assert result.exit_code == 1
    assert sheet.exists()
    assert all(f": {kind}, " in result.output for kind in expected)
    result = CliRunner().invoke(app, ["check", str(file), str(images), "--sheet", str(tmp_path)])
    assert isinstance(result.exception, WriteError)
    assert all(f": {kind}, " in result.output for kind in expected)
    assert all(str(problem.text.count("\n")) == "0" for problem in report.problems)


def test_a_sheet_has_names_in_any_script(tmp_path):
    drawn = []
    for name in ("猫", "犬", "\U0001f431", "\U0001f436"):
        data = content([annotation(1)])
        data["categories"] = [{"id": data["annotations"][0]["category_id"], "name": name}]
        drawn.append(contact_sheet(CocoDataset(*write(tmp_path, data))))
    assert not torch.equal(drawn[0], drawn[1])
    assert torch.equal(drawn[2], drawn[3])  # the font has neither


def test_check_refuses_what_training_refuses(tmp_path):
    file, images = write(tmp_path, content([annotation(1, segmentation=[])]))
    sheet = tmp_path / "sheet.png"
    result = CliRunner().invoke(app, ["check", str(file), str(images), "--sheet", str(sheet)])
    assert result.exit_code == 1
    assert "error: only boxes, 1 time – the file is refused" in result.output
    assert "2 errors, 1 warning, no notes" in result.output
    assert not sheet.exists()


def test_numbers_agree_with_their_nouns():
    assert counted(1, "error") == "1 error"
    assert counted(0, "error") == "no errors"
    assert counted(64, "class", "classes") == "64 classes"


def save_turned(path: Path, picture: Image.Image, orientation: int) -> None:
    exif = picture.getexif()
    exif[0x0112] = orientation
    picture.save(path, exif=exif)


@pytest.mark.parametrize("orientation", [2, 3, 4, 6])
def test_masks_of_stored_pixels_are_noticed(tmp_path, orientation):
    """EXIF turns a square picture, so its size is the same either way."""
    picture = Image.new("RGB", (80, 80), "gray")
    picture.paste("red", (10, 20, 40, 50))
    data = content([annotation(1)])
    data["images"][0].update(width=80, height=80, file_name="a.png")
    file, images = write(tmp_path, data)
    save_turned(images / "a.png", picture, orientation)

    for ignore_exif in (False, True):
        dataset = CocoDataset(file, images, reading=Reading(ignore_exif))
        sample = dataset[0]
        covered = sample["image"].as_subclass(torch.Tensor)[:, sample["masks"][0].bool()]
        assert (covered == torch.tensor([255, 0, 0], dtype=torch.uint8)[:, None]).all() == ignore_exif
        assert compare_orientations(dataset, [1]) == ((1, 0) if ignore_exif else (0, 1))
    sheet = tmp_path / "sheet.png"
    result = CliRunner().invoke(app, ["check", str(file), str(images), "--sheet", str(sheet)])
    assert ": give --ignore-exif" in result.output
    with Image.open(sheet) as picture:
        assert picture.size[0] == 2 * 324 + 4  # both ways, side by side
    result = CliRunner().invoke(app, ["check", str(file), str(images), "--sheet", str(sheet), "--ignore-exif"])
    assert "fit 0 of them better as EXIF turns them, and 1 of them better as they are stored. They" in result.output
    assert "They are read as stored" in result.output


def test_a_turned_size_names_the_option(tmp_path):
    file, images = write(tmp_path, content([annotation(1)]))
    save_turned(images / "000000000001.jpg", Image.new("RGB", (WIDTH, HEIGHT)), 6)
    [text] = [problem.text for problem in check(file, images).problems if problem.severity is Severity.ERROR]
    assert "has 60×80 pixels, but the file says 80×60" in text
    assert text.endswith("give --ignore-exif")
    assert all(problem.severity < Severity.ERROR for problem in check(file, images, reading=Reading(True)).problems)


def test_data_of_twelve_bits_in_sixteen(tmp_path):
    data = content([annotation(1)])
    data["images"][0]["file_name"] = "a.png"
    file, images = write(tmp_path, data)
    values = np.random.default_rng(0).integers(0, 4096, (HEIGHT, WIDTH)).astype(np.uint16)
    values[0, 0] = 4095
    Image.fromarray(values).save(images / "a.png")
    for headers_only in (False, True):
        [text] = [p.text for p in check(file, images, headers_only).problems if p.kind == "dark 16-bit picture"]
        assert "12 of 16 bits, so that its brightest pixel is 15 of 255" in text
    scaled = Reading(sixteen_bit="scale")
    assert "dark 16-bit picture" not in {problem.kind for problem in check(file, images, reading=scaled).problems}
    picture = CocoDataset(file, images, reading=scaled)[0]["image"]
    assert np.array_equal(picture[0].numpy(), np.round(values * (255 / 4095)).astype(np.uint8))


def test_check_counts_what_is_there(tmp_path):
    crowd = annotation(3, 2, iscrowd=1, segmentation=compressed(rectangle(0, 0, 60, 60)), bbox=[0, 0, 60, 60])
    file, images = write(tmp_path, content([annotation(1), annotation(2, 2, 90), crowd], images=3))
    for headers_only in (False, True):
        report = check(file, images, headers_only)
        assert report.problems == []
        assert report.turned == frozenset()
        assert (report.images, report.empty_images, report.unlisted_files) == (3, 1, 0)
        cat, dog = report.classes
        assert (cat.name, cat.objects, cat.images, cat.small, cat.crowds) == ("cat", 1, 2, 1, 1)
        assert (dog.name, dog.objects, dog.images) == ("dog", 1, 1)


@pytest.fixture(scope="module")
def shapes_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("shapes") / "set"
    arguments = ["shapes", str(folder), "--train", "12", "--val", "4", "--size", "128", "--seed", "5"]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    return folder


def test_shapes_are_a_clean_data_set(shapes_folder, tmp_path):
    preset = get_data_preset("shapes").under(shapes_folder)
    sheet = tmp_path / "sheet.png"
    arguments = ["check", str(preset.train_annotations), str(preset.train_images), "--sheet", str(sheet)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "12 images (0 without objects)" in result.output
    with Image.open(sheet) as picture:
        assert min(picture.size) > 900
    dataset = CocoDataset(preset.val_annotations, preset.val_images)
    assert len(dataset) == 4
    assert tuple(dataset.class_names) == preset.class_names == CLASS_NAMES
    _, objects = render(5, 2, 128, "val")
    sample = dataset[2]
    assert sample["labels"].tolist() == [label for label, _ in objects]
    assert np.array_equal(sample["masks"].numpy(), np.stack([mask for _, mask in objects]))


def test_shapes_do_not_depend_on_the_number_of_processes(shapes_folder, tmp_path):
    again = tmp_path / "again"
    write_dataset(again, train=12, val=4, size=128, seed=5, workers=2)
    files = sorted(path.relative_to(shapes_folder) for path in shapes_folder.rglob("*") if path.is_file())
    assert len(files) == 18
    assert all((again / file).read_bytes() == (shapes_folder / file).read_bytes() for file in files)
    image = render(5, 0, 128)[0]
    assert not np.array_equal(image, render(5, 0, 128, "val")[0])
    assert not np.array_equal(image, render(6, 0, 128)[0])
    assert not np.array_equal(image, render(5, 1, 128)[0])


def test_shapes_appear_whole_or_not_at_all(shapes_folder, tmp_path, monkeypatch):
    with pytest.raises(DataError, match="not an empty folder"):
        write_dataset(shapes_folder, train=1, val=0)

    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(shapes, "_write_scene", fail)
    with pytest.raises(KeyboardInterrupt):
        write_dataset(tmp_path / "out", train=1, val=0, size=64)
    assert list(tmp_path.iterdir()) == []


def test_shapes_show_every_class_and_enough_of_each_object():
    seen: Counter[int] = Counter()
    size = 128
    for index in range(40):
        image, objects = render(0, index, size)
        assert image.shape == (size, size, 3)
        assert 1 <= len(objects) <= 10
        masks = np.stack([mask for _, mask in objects])
        assert masks.sum(axis=0).max() == 1  # each pixel belongs only to its topmost object
        assert masks.sum(axis=(1, 2)).min() >= 60 * (size / 320) ** 2 - 1
        seen.update(label for label, _ in objects)
    assert set(seen) == set(range(len(CLASS_NAMES)))
    with pytest.raises(ValueError, match="at least 64"):
        render(0, 0, 32)
    with pytest.raises(ValueError, match="split"):
        render(0, 0, 128, "test")


@pytest.mark.parametrize("name", CLASS_NAMES)
def test_outlines_fill_the_unit_circle_and_differ(name):
    axis = np.linspace(-1.5, 1.5, 121, dtype=np.float32)
    x, y = np.broadcast_arrays(axis, axis[:, None])
    for variation in (0.0, 1.0):
        distance = shapes._OUTLINES[name](x, y, variation)
        reach = np.hypot(x, y)[distance < 0].max()
        assert 0.85 < reach < 1.2
        slope = np.hypot(*np.gradient(distance, axis[1] - axis[0]))[np.abs(distance) < 0.1]
        assert 0.5 < np.median(slope) < 1.5  # it must be a distance in pixels, or edges would be blurred or jagged


def test_data_presets():
    assert DATA_PRESETS["coco2017"].class_names[0] == "person"
    coco = get_data_preset("coco2014").under(Path("data"))
    assert coco.train_annotations == Path("data/annotations/instances_train2014.json")
    assert get_data_preset("pascal_sbd").class_names == get_preset("yolact_resnet50_pascal").class_names
    with pytest.raises(ValueError, match="shapes"):
        get_data_preset("lvis")
