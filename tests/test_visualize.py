"""Tests pictures and COCO results of detections."""

import itertools
import json

import numpy as np
import pytest
import torch
from conftest import CAPTIONS
from pycocotools import mask as rle
from pycocotools.coco import COCO
from torchvision.utils import draw_bounding_boxes, draw_segmentation_masks

import yolact
from yolact.models.detections import CroppedDetections, Detections, EncodedDetections
from yolact.ops.reference import run_lengths
from yolact.run_lengths import Grid, runs_of
from yolact.text import text_pixels
from yolact.visualize import class_color, draw_boxes


@pytest.fixture
def detections() -> Detections:
    masks = torch.zeros(2, 40, 60, dtype=torch.bool)
    masks[0, 5:25, 10:30] = True
    masks[1, 20:40, 35:60] = True
    return Detections(
        torch.tensor([[10.0, 5, 30, 25], [35.0, 20, 60, 40]]),
        torch.tensor([0.9, 0.5]),
        torch.tensor([7, 0]),
        masks,
        torch.tensor([0.4, 0.45]),
    )


def nothing(height: int, width: int) -> Detections:
    empty = torch.zeros(0)
    return Detections(torch.zeros(0, 4), empty, empty.long(), torch.zeros(0, height, width, dtype=torch.bool), empty)


def test_colors_are_stable_and_apart():
    assert class_color(0) == (242, 61, 61)
    colors = [class_color(label) for label in range(80)]
    assert len(set(colors)) == 80
    for a, b in itertools.pairwise(colors):
        assert sum(abs(x - y) for x, y in zip(a, b, strict=True)) > 100


def test_masks_and_boxes_are_drawn_in_their_class_color(detections):
    image = torch.full((40, 60, 3), 100, dtype=torch.uint8)
    names = [f"c{i}" for i in range(8)]
    picture = yolact.draw(image, detections, names)
    assert picture.shape == (3, 40, 60)
    assert picture.dtype == torch.uint8
    inside = picture[:, 23, 27].tolist()
    assert inside == pytest.approx([(100 + value) / 2 for value in class_color(7)], abs=1)
    assert picture[:, 2, 50].tolist() == [100, 100, 100]
    assert tuple(picture[:, 25, 12].tolist()) == class_color(7)
    assert torch.equal(image, torch.full((40, 60, 3), 100, dtype=torch.uint8))
    assert torch.equal(yolact.draw(image.permute(2, 0, 1), detections, names), picture)


def test_the_best_mask_is_on_top(detections):
    both = detections._replace(masks=detections.masks[:1].expand(2, -1, -1))
    picture = yolact.draw(torch.full((40, 60, 3), 100, dtype=torch.uint8), both, ["a"] * 8)
    assert picture[:, 23, 27].tolist() == pytest.approx([(100 + value) / 2 for value in class_color(7)], abs=1)


def in_all_forms(masks: torch.Tensor) -> list[Detections | EncodedDetections | CroppedDetections]:
    """Detections with these masks [N, H, W] bool, whose boxes reach from corner to corner."""
    count, height, width = masks.shape
    boxes = torch.tensor([[0.0, 0.0, width, height]]).expand(count, -1)
    scores, labels = torch.linspace(1, 0.5, count), torch.arange(count)
    crops = [Grid(height, width).pixels(runs) for runs in map(runs_of, texts_of(masks))]
    corners = [[x1, y1, x1 + mask.shape[1], y1 + mask.shape[0]] for x1, y1, mask in crops]
    pixels = [torch.from_numpy(mask.ravel()) for _, _, mask in crops]
    offsets = torch.tensor([0, *itertools.accumulate(map(len, pixels))])
    found = (boxes, scores, labels)
    return [
        Detections(*found, masks, scores),
        EncodedDetections(*found, scores, height, width, *run_lengths(masks)),
        CroppedDetections(*found, scores, height, width, torch.cat(pixels), torch.tensor(corners), offsets),
    ]


def texts_of(masks: torch.Tensor) -> list[bytes]:
    return [rle.encode(np.asfortranarray(mask.numpy().view(np.uint8)))["counts"] for mask in masks]


@pytest.mark.parametrize("opacity", [0.0, 0.3, 0.5, 1.0])
def test_every_form_of_masks_gives_the_same_picture(opacity):
    """Equal to torchvision's blending, with each pixel in its best mask only."""
    height, width = 90, 130
    generator = torch.Generator().manual_seed(0)
    masks = torch.zeros(7, height, width, dtype=torch.bool)
    masks[0, 10:40, 20:70] = True
    masks[1] = torch.rand(height, width, generator=generator) < 0.3
    masks[3, height - 1, width - 1] = True  # mask 2 is empty
    masks[4, 0, 0] = True
    masks[5, 50, :] = True
    masks[6] = True
    image = torch.randint(0, 256, (height, width, 3), dtype=torch.uint8, generator=generator)
    before = image.clone()
    visible = masks & (masks.cumsum(dim=0) == 1)
    colors = [class_color(label) for label in range(7)]
    expected = draw_segmentation_masks(image.permute(2, 0, 1), visible, alpha=opacity, colors=colors)
    inside = (slice(None), slice(30, -1), slice(60, -1))  # without boxes and captions
    for detections in in_all_forms(masks):
        picture = yolact.draw(image, detections, [""] * 7, opacity)
        assert torch.equal(picture[inside], expected[inside]), type(detections).__name__
        assert torch.equal(image, before)


def test_detections_of_another_image_are_refused():
    for detections in in_all_forms(torch.ones(1, 40, 60, dtype=torch.bool)):
        with pytest.raises(ValueError, match="an image of 60×40 pixels, but this one has 40×60"):
            yolact.draw(torch.zeros(60, 40, 3, dtype=torch.uint8), detections, [""])


@pytest.mark.parametrize("size", [(40, 60), (1, 1)])
def test_nothing_is_drawn_without_detections(size):
    image = torch.randint(0, 256, (*size, 3), dtype=torch.uint8)
    assert torch.equal(yolact.draw(image, nothing(*size), ["a"]), image.permute(2, 0, 1))
    assert yolact.coco_results(nothing(*size), 1) == []


def test_captions_of_ascii_are_torchvisions():
    picture = torch.randint(0, 256, (3, 90, 130), dtype=torch.uint8)
    boxes = torch.tensor([[5.7, 6.2, 60, 50], [-20, -9, 200, 100], [70, 60, 129, 89], [100, 3, 140, 30]])
    names, scores = ["cat", "", "a very long name " * 20, "two\nlines"], [" 0.50", " 0.25", " 1.00", ""]
    colors = [class_color(label) for label in range(4)]
    captions = [name + score for name, score in zip(names, scores, strict=True)]
    for line in (1, 3):
        expected = draw_bounding_boxes(picture, boxes, captions, colors, width=line, fill_labels=True)
        assert torch.equal(draw_boxes(picture, boxes, names, colors, line, scores), expected)


def test_captions_that_are_not_ascii():
    """They lie where others lie, and are clipped at the border."""
    picture = torch.full((3, 60, 100), 255, dtype=torch.uint8)
    color = (250, 10, 20)
    drawn = draw_boxes(picture, torch.tensor([[10, 20, 90, 50]]), ["猫"], [color], 2, [" 0.50"])
    ink = text_pixels("猫 0.50")
    ground = torch.tensor(color)[:, None, None].expand(3, 18, ink.shape[1] + 2).clone()
    ground[:, 1:17, 1:-1][:, torch.from_numpy(ink)] = 0
    assert torch.equal(drawn[:, 22:40, 12 : 12 + ink.shape[1] + 2], ground)
    for box in ([-5, -5, 40, 40], [80, 50, 99, 59], [200, 200, 300, 300]):
        for name in CAPTIONS.values():
            clipped = draw_boxes(picture, torch.tensor([box]), [name], [color])
            wide = torch.nn.functional.pad(picture, (20, 300, 20, 300), value=255)
            whole = draw_boxes(wide, torch.tensor([box]) + 20, [name], [color])
            assert torch.equal(clipped, whole[:, 20:80, 20:120])


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("cafe\u0301", ["café"]),
        ("e\u0323\u0302", ["ệ"]),
        ("\u1112\u1161\u11ab", ["한"]),
        ("אב", ["ב", "א"]),
        ("אב 1.5", ["1.5", " ", "ב", "א"]),
        ("א (ב)", ["(", "ב", ")", " ", "א"]),
        ("dog אב 12", ["dog ", "12", " ", "ב", "א"]),
        ("אב dog", ["dog", " ", "ב", "א"]),
        ("ببب", ["\ufe90", "\ufe92", "\ufe91"]),
        ("بَب", ["\ufe90", "\ufe91\u064e"]),
        ("اب", ["\ufe8f", "\ufe8d"]),
        ("بلا", ["\ufefc", "\ufe91"]),
        ("ب\u200cب", ["ب", "ب"]),
        ("ب\u200d", ["\ufe91"]),
        ("🐱\u0378\ue000\ud800", ["\ufffd"] * 4),
        ("猫\n\t猫", ["猫  猫"]),
        ("\u202e猫\x00\u200b\ufe0f\x7f猫\u00ad", ["猫猫"]),
        ("\u200b", []),
    ],
)
def test_text_is_set(text, parts):
    assert np.array_equal(text_pixels(text), text_pixels(*parts))


@pytest.mark.parametrize(
    ("text", "base", "width"), [("कि", "क", 16), ("ที่", "ท", 8), ("x\u0301", "x", 8), ("1\u20dd", "1", 16)]
)
def test_marks_lie_over_their_letter(text, base, width):
    pixels, letter = text_pixels(text), text_pixels(base)
    assert pixels.shape[1] == width
    start = (width - letter.shape[1]) // 2
    assert pixels[:, start : start + letter.shape[1]][letter].all()
    assert pixels.sum() > letter.sum()


def test_glyphs():
    lines = ["".join(".#"[pixel] for pixel in row) for row in text_pixels("Я猫").astype(int)]
    assert lines == [
        "................#...#...",
        ".........#...#..#...#...",
        "..........#.#.#########.",
        "...........#....#...#...",
        "..#####...#.#...#...#...",
        ".#....#..#..#...........",
        ".#....#.#...#..#######..",
        ".#....#.....#..#..#..#..",
        "..#####....##..#..#..#..",
        "...#..#...#.#..#..#..#..",
        "..#...#..#..#..#######..",
        "..#...#.#...#..#..#..#..",
        ".#....#.....#..#..#..#..",
        ".#....#.....#..#..#..#..",
        ".........#.#...#######..",
        "..........#....#.....#..",
    ]


def test_coco_results_are_what_pycocotools_reads(detections, tmp_path):
    results = yolact.coco_results(detections, image_id=17, category_ids=list(range(100, 108)))
    assert [entry["category_id"] for entry in results] == [107, 100]
    assert results[0]["bbox"] == [10, 5, 20, 20]
    for entry, mask in zip(results, detections.masks, strict=True):
        assert np.array_equal(rle.decode(entry["segmentation"]).astype(bool), mask.numpy())
    truth = {
        "images": [{"id": 17, "width": 60, "height": 40}],
        "categories": [{"id": 100, "name": "a"}, {"id": 107, "name": "b"}],
        "annotations": [],
        "info": {},
    }
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    (tmp_path / "results.json").write_text(json.dumps(results))
    loaded = COCO(str(tmp_path / "truth.json")).loadRes(str(tmp_path / "results.json"))
    assert len(loaded.anns) == 2
    assert loaded.anns[1]["area"] == 400
    assert yolact.coco_results(detections, 1)[0]["category_id"] == 8
