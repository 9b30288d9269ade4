"""Tests pictures and COCO results of detections."""

import itertools
import json

import numpy as np
import pytest
import torch
from pycocotools import mask as rle
from pycocotools.coco import COCO

import yolact
from yolact.models.detections import Detections
from yolact.visualize import class_color


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


@pytest.mark.parametrize("size", [(40, 60), (1, 1)])
def test_nothing_is_drawn_without_detections(size):
    image = torch.randint(0, 256, (*size, 3), dtype=torch.uint8)
    assert torch.equal(yolact.draw(image, nothing(*size), ["a"]), image.permute(2, 0, 1))
    assert yolact.coco_results(nothing(*size), 1) == []


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
