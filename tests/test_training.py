"""Tests the training loop: sampling, schedule, checkpoints, resuming, signals, broken input and several processes."""

import hashlib
import io
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import yolact
from yolact import cli
from yolact.config import PRESETS, Anchors, get_preset
from yolact.data.coco import CocoDataset
from yolact.data.images import Reading
from yolact.data.packed import pack
from yolact.data.problems import DataError
from yolact.data.shapes import CLASS_NAMES, write_dataset
from yolact.data.targets import Targets
from yolact.data.transforms import Augmentation
from yolact.files import WriteError
from yolact.models.deformable import DeformConv2d
from yolact.models.fpn import FPN
from yolact.models.inference import PRECISIONS, Precision
from yolact.models.yolact import Yolact
from yolact.precision import slow_training
from yolact.training import loop
from yolact.training.board import Board
from yolact.training.checkpoints import CheckpointFolder
from yolact.training.commands import DataFiles, read_data_file
from yolact.training.health import TrainingError
from yolact.training.initial import initialise
from yolact.training.logs import read_metrics
from yolact.training.loop import TrainingResult, train
from yolact.training.sampling import ShareSampler, mixed_seed
from yolact.training.settings import FREE_ON_RESUME, TrainingSettings
from yolact.training.step import TrainingStep
from yolact.weights.checkpoints import CheckpointError, load_weights, read_checkpoint, save_weights
from yolact.weights.download import DownloadError
from yolact.weights.layouts import name_in_original

PRESET = replace(
    get_preset("yolact_shapes"),
    name="tiny",
    backbone="shufflenet_v2_x0_5",
    image_size=96,  # at 64, P6 is one pixel, whose bf16 weight gradients torch 2.14 gets wrong on the CPU
    anchors=Anchors(scales=((6,), (12,), (20,), (32,), (48,))),
    fpn_channels=16,
    num_prototypes=4,
)
SETTINGS = TrainingSettings(
    batch_size=4, iterations=6, learning_rate=2e-3, log_every=1, checkpoint_every=2, workers=0, warmup_iterations=0
)


@pytest.fixture(scope="session")
def shapes(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shapes"
    write_dataset(folder, train=12, val=4, size=96)
    return folder


def data_of(folder: Path, split: str = "train") -> CocoDataset:
    return CocoDataset(folder / "annotations" / f"{split}.json", folder / split)


def run(folder: Path, output: Path, settings: TrainingSettings = SETTINGS, **options) -> TrainingResult:
    options = {"weights": "scratch", "cpu": True, "console": Console(quiet=True), **options}
    return train(PRESET, data_of(folder), output, settings, **options)


def newest_checkpoint(output: Path) -> dict:
    return CheckpointFolder(output / "checkpoints", 3).load()


def totals(output: Path) -> list[float]:
    return [record["loss"]["total"] for record in read_metrics(output / "metrics.jsonl") if "loss" in record]


@pytest.fixture(scope="session")
def unbroken(shapes, tmp_path_factory) -> Path:
    """A complete run with `SETTINGS`."""
    output = tmp_path_factory.mktemp("runs") / "unbroken"
    result = run(shapes, output, val_data=data_of(shapes, "val"))
    assert result.finished
    assert result.iteration == 6
    return output


# Settings, schedule and sampling


def test_the_published_schedule():
    settings = TrainingSettings()
    total = settings.total_iterations(118_000)
    assert total == 800_000
    assert settings.rate_at(0, total) == 1e-4
    assert settings.rate_at(250, total) == pytest.approx(5.5e-4)
    for iteration, factor in (
        (500, 1),
        (279_999, 1),
        (280_000, 0.1),
        (600_000, 1e-2),
        (700_000, 1e-3),
        (799_999, 1e-4),
    ):
        assert settings.rate_at(iteration, total) == pytest.approx(1e-3 * factor)


def test_the_batch_size_scales_rate_and_length():
    settings = TrainingSettings(batch_size=16)
    assert settings.total_iterations(118_000) == 400_000
    assert settings.rate_at(139_999, 400_000) == pytest.approx(2e-3)
    assert settings.rate_at(140_000, 400_000) == pytest.approx(2e-4)
    assert TrainingSettings(batch_size=16, epochs=2.5).total_iterations(100) == 16
    cosine = TrainingSettings(schedule="cosine")
    assert cosine.rate_at(500, 10_500) == pytest.approx(1e-3)
    assert cosine.rate_at(5_500, 10_500) == pytest.approx(5e-4)


NAN = float("nan")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1, got 0"),
        ({"batch_size": 4.0}, "batch_size must be a whole number of at least 1, got 4.0"),
        ({"workers": True}, "workers must be a whole number of at least 0, got True"),
        ({"seed": -1}, "seed must be a whole number from 0 to 9223372036854775807, got -1"),
        ({"iterations": 3, "epochs": 1}, "give iterations or epochs, not both: got 3 and 1"),
        ({"iterations": 0}, "iterations must be a whole number of at least 1, got 0"),
        ({"epochs": -1}, "epochs must be a number above 0, got -1"),
        ({"learning_rate": NAN}, "learning_rate must be a number above 0, got nan"),
        ({"learning_rate": -1e-3}, "learning_rate must be a number above 0, got -0.001"),
        ({"learning_rate": float("inf")}, "learning_rate must be a number above 0, got inf"),
        ({"learning_rate": "1e-3"}, "learning_rate must be a number above 0, got '1e-3'"),
        ({"weight_decay": -1}, "weight_decay must be a number of at least 0, got -1"),
        ({"average_decay": 1.5}, "average_decay must be a number from 0 to 1, got 1.5"),
        ({"momentum": NAN}, "momentum must be a number from 0 to 1, got nan"),
        ({"max_gradient_norm": 0}, "max_gradient_norm must be a number above 0, got 0"),
        ({"precision": "no"}, "precision must be one of fp32, bf16, fp16, got 'no'"),
        ({"optimizer": "adam"}, "optimizer must be one of sgd, adamw, got 'adam'"),
        ({"compile": 1}, "compile must be one of True, False, got 1"),
        ({"augmentation": {"rotate": True}}, "augmentation must be an Augmentation, got {'rotate': True}"),
    ],
)
def test_settings_out_of_range_are_refused(wrong, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        TrainingSettings(**wrong)
    with pytest.raises(ValueError, match="^augmentation.rotate must be True or False, got 'yes'$"):
        Augmentation(rotate="yes")


def test_settings_are_read_back_from_json():
    settings = replace(SETTINGS, average_decay=0.9, augmentation=Augmentation(rotate=True, zoom_and_crop=False))
    values = json.loads(json.dumps(asdict(settings)))
    assert TrainingSettings.from_dict(values) == settings
    assert TrainingSettings.from_dict({"seed": 3}) == TrainingSettings(seed=3)
    with pytest.raises(ValueError, match=r"no setting called leaning_rate; there are batch_size, .*learning_rate"):
        TrainingSettings.from_dict({"leaning_rate": 1})
    with pytest.raises(
        ValueError, match=r"no setting called augmentation\.flip; there are augmentation\.vertical_flip"
    ):
        TrainingSettings.from_dict({"augmentation": {"flip": True}})


def test_precisions_are_those_of_inference():
    assert get_args(Precision) == tuple(PRECISIONS)


def test_every_setting_decides_or_is_free():
    values = asdict(TrainingSettings(epochs=2))
    assert values.keys() > FREE_ON_RESUME
    deciding = TrainingSettings(epochs=2).deciding(images=100)
    assert deciding["iterations"] == TrainingSettings(iterations=25).deciding(images=100)["iterations"] == 25
    expected = values.keys() - FREE_ON_RESUME - {"epochs", "augmentation"}
    assert deciding.keys() == expected | {f"augmentation.{name}" for name in values["augmentation"]}


def test_mixed_seeds_are_the_same_everywhere():
    assert mixed_seed(0, 1) == int.from_bytes(hashlib.sha256(bytes(8) + b"\1" + bytes(7)).digest()[:8], "little") // 2
    assert mixed_seed(3, 40) == 8071692792306240672
    assert len({mixed_seed(seed, number) for seed in range(20) for number in range(20)}) == 400


def test_shares_divide_each_batch_and_go_on_anywhere():
    whole = [index for share in ShareSampler(10, 4, 0, 10, seed=3) for index in share]
    assert sorted(index for index, _ in whole[:10]) == list(range(10))
    assert [index for index, _ in whole[:10]] != [index for index, _ in whole[10:20]]
    assert len({seed for _, seed in whole}) == 40
    assert [index for index, _ in whole[:10]] == [3, 7, 2, 1, 9, 6, 8, 5, 4, 0]
    later = [index for share in ShareSampler(10, 4, 7, 10, seed=3) for index in share]
    assert later == whole[28:]
    shared = [list(ShareSampler(10, 4, 0, 10, seed=3, processes=2, rank=rank, accumulation=2)) for rank in range(2)]
    for iteration in range(10):
        parts = [index for rank in shared for share in rank[2 * iteration : 2 * iteration + 2] for index in share]
        assert parts == whole[4 * iteration : 4 * iteration + 4]
    with pytest.raises(ValueError, match="divided evenly"):
        ShareSampler(10, 4, 0, 1, processes=3)


# Starting


def test_a_checkpoint_of_another_class_count_starts_the_heads_at_random(tmp_path):
    source = Yolact(PRESET, 3)
    save_weights(source, tmp_path / "three.safetensors", ["a", "b", "c"])
    network = Yolact(PRESET, 5)
    said = initialise(network, tmp_path / "three.safetensors")
    assert "3 classes instead of 5" in said
    assert "head.logits.weight" in said
    own, other = network.state_dict(), source.state_dict()
    for name in own:
        if not name.startswith(("head.logits", "semantic")):
            assert own[name].equal(other[name]), name
    with pytest.raises(CheckpointError, match="another network"):
        initialise(Yolact(replace(PRESET, fpn_channels=8)), tmp_path / "three.safetensors")


@pytest.mark.parametrize(("name", "size"), [("yolact_darknet53", 64), ("yolact_plus_resnet50", 256)])
def test_a_step_of_the_other_networks(name, size):
    """Every parameter has a gradient, the step lowers the loss, and the offsets of deformable convolutions change."""
    network = Yolact(replace(get_preset(name), image_size=size), 3)
    step = TrainingStep(network, freeze_batch_norm=True)
    boxes = torch.tensor([[[0.1, 0.1, 0.6, 0.7], [0.5, 0.4, 0.9, 0.9]]])
    masks = torch.zeros(2, size, size, dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(masks, (boxes[0] * size).int().tolist(), strict=True):
        mask[y1:y2, x1:x2] = True
    targets = Targets(boxes, torch.tensor([[0, 2]]), pack(masks))
    images = torch.randint(0, 256, (1, 3, size, size), dtype=torch.uint8)
    matches = step.match(targets)
    deformable = [module.conv_offset_mask for module in network.modules() if isinstance(module, DeformConv2d)]
    assert all((parameter == 0).all() for conv in deformable for parameter in conv.parameters())
    optimizer = torch.optim.SGD([p for p in step.parameters() if p.requires_grad], lr=1e-4)
    losses = []
    for _ in range(2):
        sums = step(images, targets, matches)
        assert (sums[4] > 0) == network.preset.rescores_masks
        optimizer.zero_grad()
        (sums.sum() / matches.positive.sum()).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in step.parameters() if p.requires_grad)
        optimizer.step()
        losses.append(sums.sum().item())
    assert losses[1] < losses[0]
    assert all((conv.bias != 0).any() for conv in deformable)


def test_plain_weights_start_a_deformable_backbone(tmp_path):
    import torchvision

    plain = torchvision.models.resnet50()
    torch.save(plain.state_dict(), tmp_path / "resnet50.pth")
    network = Yolact(get_preset("yolact_plus_resnet50"), 3)
    initialise(network, tmp_path / "resnet50.pth")
    conv = network.backbone.layer2[0].conv2
    assert conv.weight.equal(plain.layer2[0].conv2.weight)
    assert (conv.conv_offset_mask.weight == 0).all()
    assert (conv.bias == 0).all()
    save_weights(Yolact(get_preset("yolact_resnet50"), 3), tmp_path / "plain.safetensors", ["a", "b", "c"])
    with pytest.raises(CheckpointError, match=r"of another network than yolact_plus_resnet50.*imagenet"):
        initialise(network, tmp_path / "plain.safetensors")


def test_the_originals_darknet_starts_a_backbone(tmp_path):
    network = Yolact(get_preset("yolact_darknet53"), 3)
    with pytest.raises(ValueError, match="torchvision has no weights of darknet53"):
        initialise(network, "imagenet")
    theirs = {
        name_in_original(f"backbone.{name}").removeprefix("backbone."): torch.full_like(value, 2)
        for name, value in network.backbone.state_dict().items()
    }
    assert "_preconv.0.weight" in theirs
    torch.save(theirs, tmp_path / "darknet53.pth")
    initialise(network, tmp_path / "darknet53.pth")
    assert all((value == 2).all() for value in network.backbone.state_dict().values())


def test_weights_of_the_backbone_alone_from_a_file(tmp_path):
    import torchvision

    classifier = torchvision.models.shufflenet_v2_x0_5()
    torch.save(classifier.state_dict(), tmp_path / "backbone.pth")
    network = Yolact(PRESET)
    initialise(network, tmp_path / "backbone.pth")
    assert network.state_dict()["backbone.body.conv1.0.weight"].equal(classifier.state_dict()["conv1.0.weight"])
    torch.save({"conv1.0.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="not the weights of a shufflenet"):
        initialise(network, tmp_path / "other.pth")


def test_without_a_network_the_error_has_the_address_and_the_way_around(tmp_path, monkeypatch):
    from urllib.error import URLError

    def unreachable(*arguments, **options):
        raise URLError("no route")

    monkeypatch.setattr("torch.hub.download_url_to_file", unreachable)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(DownloadError, match=r"https://download\.pytorch\.org/models/shufflenet.*--weights FILE"):
        initialise(Yolact(PRESET), "imagenet")
    with pytest.raises(ValueError, match="not a file, not a preset"):
        initialise(Yolact(PRESET), "nonsense")


def test_a_data_file_names_the_data(tmp_path):
    (tmp_path / "data.json").write_text(json.dumps({"train_annotations": "a.json", "train_images": "a"}))
    assert read_data_file(tmp_path / "data.json") == DataFiles(tmp_path / "a.json", tmp_path / "a")
    (tmp_path / "known.json").write_text(json.dumps({"name": "shapes", "folder": "s"}))
    assert read_data_file(tmp_path / "known.json").val_images == tmp_path / "s" / "val"
    for content, message in (('{"train": 1}', "train is unknown"), ("{", "readable"), ("{}", "name the data")):
        (tmp_path / "wrong.json").write_text(content)
        with pytest.raises(ValueError, match=message):
            read_data_file(tmp_path / "wrong.json")


def test_shapes_classes_are_those_of_the_preset():
    assert get_preset("yolact_shapes").class_names == CLASS_NAMES


# Runs


def test_a_run_leaves_its_records_and_weights(unbroken):
    names = {path.name for path in unbroken.iterdir()}
    assert names == {
        "best.safetensors", "checkpoints", "config.json", "curves.png", "metrics.jsonl", "report.json", "report.md",
        "tensorboard", "weights.safetensors",
    }  # fmt: skip
    assert [iteration for iteration, _ in CheckpointFolder(unbroken / "checkpoints", 3).saved()] == [3, 4, 6]
    records = read_metrics(unbroken / "metrics.jsonl")
    assert [record["iteration"] for record in records if "evaluation" in record] == [3, 6]
    losses = [record for record in records if "loss" in record]
    assert set(losses[0]["loss"]) == {"boxes", "classes", "masks", "semantic", "total"}
    assert "circle" in (unbroken / "report.md").read_text()
    checkpoint = read_checkpoint(unbroken / "weights.safetensors")
    assert checkpoint.class_names == CLASS_NAMES
    load_weights(Yolact(PRESET), checkpoint)


def test_the_folder_of_another_run_is_not_overwritten(shapes, unbroken):
    with pytest.raises(ValueError, match="--resume"):
        run(shapes, unbroken)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 2}, "batch_size 4 (now 2)"),
        ({"learning_rate": 1e-3, "seed": 1}, "learning_rate 0.002 (now 0.001); seed 0 (now 1)"),
        ({"iterations": None, "epochs": 1}, "iterations 6 (now 3)"),
        ({"precision": "bf16"}, "precision fp32 (now bf16)"),
        ({"augmentation": Augmentation(vertical_flip=True)}, "augmentation.vertical_flip False (now True)"),
        ({"accumulation": 2}, "images of a share 4 (now 2)"),
    ],
)
def test_a_run_is_not_resumed_with_other_settings(shapes, unbroken, change, message):
    with pytest.raises(ValueError, match=f"holds another run, with .*{re.escape(message)}.*: resume it with the same"):
        run(shapes, unbroken, replace(SETTINGS, **change), resume=True)


def first_object(change: Callable[[dict], object]) -> Callable[[dict], object]:
    return lambda content: change(content["annotations"][0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content["annotations"].pop(), "data of 12 images with {} objects (now of 12 images with {} "),
        (first_object(lambda entry: entry.update(bbox=[1, 1, 90, 90])), "data with other boxes (12 images with {} "),
        (first_object(lambda entry: entry.update(iscrowd=1)), "data with other crowds (12 images with {} objects, as"),
        (
            first_object(lambda entry: entry.update(segmentation=[[1, 1, 9, 1, 9, 9]])),
            "data with other masks (12 images",
        ),
        (
            first_object(lambda entry: entry.update(category_id=entry["category_id"] % 10 + 1)),
            "data with other classes of objects (12 images",
        ),
        (lambda content: content["images"].reverse(), "data with other names or ids of images, "),
    ],
)
@pytest.mark.parametrize("split", ["train", "val"])
def test_a_run_is_not_resumed_with_other_annotations(shapes, unbroken, tmp_path, split, change, message):
    folder = tmp_path / "data"
    shutil.copytree(shapes, folder)
    objects = len(data_of(shapes, split).annotations.objects)
    rewrite(folder / "annotations" / f"{split}.json", change)
    name = "training" if split == "train" else "validation"
    message = message.format(objects, objects - 1).replace("12 images", f"{len(data_of(shapes, split))} images")
    with pytest.raises(ValueError, match=f"holds another run, with {name} {re.escape(message)}[^;]*: resume it with"):
        run(folder, unbroken, val_data=data_of(folder, "val"), resume=True)


def test_a_run_is_not_resumed_with_pictures_read_in_another_way(shapes, unbroken):
    data = CocoDataset(shapes / "annotations" / "train.json", shapes / "train", reading=Reading(True, "scale"))
    with pytest.raises(ValueError, match=r"ignore_exif False \(now True\); sixteen_bit high \(now scale\)"):
        train(PRESET, data, unbroken, SETTINGS, weights="scratch", resume=True, cpu=True, console=Console(quiet=True))


def test_a_run_may_move_with_its_data_and_get_a_validation(shapes, tmp_path):
    settings = replace(SETTINGS, iterations=1)
    run(shapes, tmp_path / "old", settings)
    shutil.copytree(shapes, tmp_path / "data")
    shutil.move(tmp_path / "old", tmp_path / "new")
    folder = tmp_path / "data"
    assert run(folder, tmp_path / "new", settings, val_data=data_of(folder, "val"), resume=True).best_ap is not None
    with pytest.raises(ValueError, match=r"validation data of 4 images with \d+ objects \(now none\)"):
        run(folder, tmp_path / "new", settings, resume=True)


def test_config_json_holds_the_settings(shapes, tmp_path):
    settings = replace(SETTINGS, iterations=1, augmentation=Augmentation(rotate=True), freeze_batch_norm=True)
    assert run(shapes, tmp_path, settings).finished
    content = json.loads((tmp_path / "config.json").read_text())
    assert (content["preset"], content["class_names"], content["total"]) == ("tiny", list(CLASS_NAMES), 1)
    assert TrainingSettings.from_dict(content["settings"]) == settings
    # Settings that do not affect the result may change. Shares may change too, since batch norms are frozen.
    other = {
        "accumulation": 2, "channels_last": False, "workers": 1, "log_every": 5, "checkpoint_every": 7,
        "keep_checkpoints": 1, "evaluate_every": 9, "pictures": 0, "max_skipped_steps": 2, "max_broken": 0.5,
    }  # fmt: skip
    assert other.keys() == FREE_ON_RESUME - {"compile"}
    changed = replace(settings, **other)
    assert run(shapes, tmp_path, changed, resume=True).finished
    content = json.loads((tmp_path / "config.json").read_text())
    assert TrainingSettings.from_dict(content["settings"]) == changed


def test_the_settings_say_how_images_are_varied(shapes, tmp_path):
    settings = replace(SETTINGS, iterations=1)
    for name, augmentation in (("whole", Augmentation(zoom_and_crop=False)), ("cropped", Augmentation())):
        run(shapes, tmp_path / name, replace(settings, augmentation=augmentation))
    assert totals(tmp_path / "whole") != totals(tmp_path / "cropped")


def test_a_resumed_run_is_an_unbroken_one(shapes, unbroken, tmp_path, monkeypatch):
    take_step = loop.take_step

    def interrupted(state, *arguments):
        if state.progress.iteration == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        take_step(state, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "take_step", interrupted)
        result = run(shapes, tmp_path / "run", replace(SETTINGS, workers=1))
    assert not result.finished
    assert result.iteration == 3
    # An unfinished checkpoint, as a kill leaves it, and a record of a step that the checkpoint does not have.
    (tmp_path / "run" / "checkpoints" / ".checkpoint-0000004.pt.1.part").write_bytes(b"half")
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"iteration": 4, "loss": {"total": 0}}\n{"iterat')
    torch.manual_seed(99)
    assert run(shapes, tmp_path / "run", resume=True).finished
    assert totals(tmp_path / "run") == totals(unbroken)
    ours, theirs = (read_checkpoint(folder / "weights.safetensors").state for folder in (tmp_path / "run", unbroken))
    for name in ours:
        assert ours[name].equal(theirs[name]), name


def test_a_broken_checkpoint_is_not_used(tmp_path):
    folder = CheckpointFolder(tmp_path, 2)
    for iteration in (1, 2, 3):
        folder.save(iteration, {"value": iteration})
    assert [iteration for iteration, _ in folder.saved()] == [2, 3]
    (tmp_path / "checkpoint-0000003.pt").write_bytes(b"broken")
    with pytest.warns(UserWarning, match="broken and not used"):
        assert folder.load()["value"] == 2


@pytest.mark.parametrize("content", [b"", b"broken", b"PK\3\4", b"another format"])
def test_a_run_without_a_whole_checkpoint_is_neither_resumed_nor_overwritten(shapes, unbroken, tmp_path, content):
    output = tmp_path / "run"
    shutil.copytree(unbroken, output)
    for _, path in CheckpointFolder(output / "checkpoints", 3).saved():
        path.write_bytes(content)
        if content == b"another format":
            torch.save([1], path)
    before = contents(output)
    names = ", ".join(f"checkpoint-000000{number}.pt" for number in (3, 4, 6))
    message = (
        f"{output}/checkpoints: the run cannot be resumed, because none of its checkpoints can be read \\({names}\\)"
    )
    with pytest.warns(UserWarning, match="not used"), pytest.raises(CheckpointError, match=message):
        run(shapes, output, val_data=data_of(shapes, "val"), resume=True)
    with pytest.raises(ValueError, match="holds a run already"):
        run(shapes, output)
    assert contents(output) == before


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_second_run_in_the_folder_is_refused(shapes, tmp_path, monkeypatch):
    take_step, refused = loop.take_step, []

    def meanwhile(state, *arguments):
        for resume in (False, True):
            with pytest.raises(
                ValueError, match=f"^{tmp_path}/checkpoints: another run is writing into this folder"
            ) as e:
                run(shapes, tmp_path, resume=resume)
            refused.append(e)
        take_step(state, *arguments)

    monkeypatch.setattr(loop, "take_step", meanwhile)
    settings = replace(SETTINGS, iterations=1)
    assert run(shapes, tmp_path, settings).finished
    assert len(refused) == 2
    monkeypatch.undo()
    assert run(shapes, tmp_path, settings, resume=True).finished


def test_the_checkpoint_of_a_run_without_an_evaluation_is_a_model(shapes, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(PRESETS, PRESET.name, PRESET)
    take_step = loop.take_step

    def interrupted(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        take_step(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "take_step", interrupted)
        settings = replace(SETTINGS, average_decay=0.5)
        assert not run(shapes, tmp_path / "run", settings, val_data=data_of(shapes, "val")).finished
    saved = newest_checkpoint(tmp_path / "run")
    [(_, file)] = CheckpointFolder(tmp_path / "run" / "checkpoints", 3).saved()
    assert saved["progress"]["evaluated_at"] == 0
    assert not saved["network"]["head.shared.weight"].equal(saved["average"]["head.shared.weight"])
    detector = yolact.load(file)
    assert detector.class_names == list(CLASS_NAMES)
    assert detector.model.head.shared.weight.equal(saved["average"]["head.shared.weight"])

    def command(*arguments) -> None:
        monkeypatch.setattr(sys, "argv", ["yolact", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        assert not caught.value.code, capsys.readouterr().err

    data = ["--annotations", shapes / "annotations" / "val.json", "--images", shapes / "val"]
    command("evaluate", "--model", file, *data)
    command("predict", shapes / "val" / "000000.jpg", "--model", file, "-o", tmp_path / "out")
    command("export", file, "-o", tmp_path / "model.pt")
    command("convert", file, tmp_path / "converted.safetensors", "--to", "yolact")
    converted = read_checkpoint(tmp_path / "converted.safetensors")
    assert converted.class_names == CLASS_NAMES
    network = Yolact(PRESET)
    assert initialise(network, file) == f"from {file}, all weights"
    for name, value in network.state_dict().items():
        assert value.equal(converted.state[name]), name
    run(shapes, tmp_path / "plain", replace(SETTINGS, iterations=1))
    plain = newest_checkpoint(tmp_path / "plain")
    weights = yolact.load(tmp_path / "plain" / "checkpoints" / "checkpoint-0000001.pt").model.head.shared.weight
    assert weights.equal(plain["network"]["head.shared.weight"])


@pytest.mark.parametrize("accumulation", [2, 4])
def test_accumulated_shares_equal_the_whole_batch(shapes, tmp_path, accumulation):
    settings = replace(SETTINGS, iterations=2, freeze_batch_norm=True)
    run(shapes, tmp_path / "whole", settings)
    run(shapes, tmp_path / "shares", replace(settings, accumulation=accumulation))
    assert totals(tmp_path / "shares") == pytest.approx(totals(tmp_path / "whole"), rel=1e-4)


def test_mixed_precision_averaging_and_clipping(shapes, tmp_path):
    settings = replace(
        SETTINGS, iterations=2, precision="bf16", average_decay=0.9, max_gradient_norm=1.0, optimizer="adamw"
    )
    said = io.StringIO()
    console = Console(file=said, soft_wrap=True)
    assert run(shapes, tmp_path, settings, val_data=data_of(shapes, "val"), console=console).finished
    slow = slow_training("bf16", torch.device("cpu"))
    assert slow in said.getvalue()
    saved, kept = newest_checkpoint(tmp_path), read_checkpoint(tmp_path / "weights.safetensors").state
    assert not saved["network"]["head.shared.weight"].equal(kept["head.shared.weight"])
    assert saved["average"]["head.shared.weight"].equal(kept["head.shared.weight"])
    assert saved["network"]["head.shared.weight"].dtype == torch.float32


def test_steps_that_are_not_finite_are_skipped_and_named(shapes, tmp_path, monkeypatch):
    settings = replace(SETTINGS, iterations=12, checkpoint_every=1, max_skipped_steps=3)
    run(shapes, tmp_path / "good", replace(settings, iterations=1))
    forward = FPN.forward
    monkeypatch.setattr(FPN, "forward", lambda self, features: [level * NAN for level in forward(self, features)])
    with pytest.raises(TrainingError, match="3 steps in a row were not finite.*lower learning rate"):
        run(shapes, tmp_path / "bad", settings)
    saved = newest_checkpoint(tmp_path / "bad")
    assert saved["iteration"] == 2
    torch.manual_seed(mixed_seed(SETTINGS.seed, 0))
    for name, value in Yolact(PRESET).state_dict().items():
        assert value.equal(saved["network"][name]), name
    good = newest_checkpoint(tmp_path / "good")["network"]
    assert not good["head.shared.weight"].equal(saved["network"]["head.shared.weight"])
    skipped = [record for record in read_metrics(tmp_path / "bad" / "metrics.jsonl") if "skipped" in record]
    assert len(skipped) == 3
    assert "boxes" in skipped[0]["skipped"]
    assert len(skipped[0]["images"]) == 4
    assert all(Path(image).exists() for image in skipped[0]["images"])


def copy_of(shapes: Path, folder: Path, broken: int) -> Path:
    shutil.copytree(shapes, folder)
    for path in sorted((folder / "train").iterdir())[:broken]:
        path.write_bytes(path.read_bytes()[:-400])  # its header can be read
    return folder


def rewrite(file: Path, change: Callable[[dict], object]) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def test_odd_data_are_trained_on_validated_with_and_saved(shapes, tmp_path):
    """Class names with line breaks, an annotation without a mask, and a picture that breaks behind its header."""
    folder = tmp_path / "data"
    shutil.copytree(shapes, folder)
    for split in ("train", "val"):
        file = folder / "annotations" / f"{split}.json"
        rewrite(file, lambda content: [entry.update(name=f" {entry['name']}\n") for entry in content["categories"]])
        rewrite(file, lambda content: content["annotations"][0].update(segmentation=[[1, 1, 5, 5]], area="3"))
    picture = sorted((folder / "val").iterdir())[1]
    picture.write_bytes(picture.read_bytes()[:-400])
    console = Console(record=True, width=300, file=io.StringIO())
    settings = replace(SETTINGS, iterations=2)
    result = run(folder, tmp_path / "run", settings, val_data=data_of(folder, "val"), console=console)
    assert result.finished
    text = console.export_text()
    assert text.count("class name (10 times)") == text.count("no mask: annotations[0]") == 2
    assert text.count(f"left out: {picture}") == 1
    checkpoint = read_checkpoint(tmp_path / "run" / "weights.safetensors")
    assert checkpoint.class_names == CLASS_NAMES


@pytest.mark.parametrize("split", ["train", "val"])
def test_nothing_to_learn_or_to_compare_with_is_refused_before_the_first_step(shapes, tmp_path, split):
    folder = tmp_path / "data"
    shutil.copytree(shapes, folder)
    rewrite(folder / "annotations" / f"{split}.json", lambda content: content["annotations"].clear())
    with pytest.raises(DataError, match=f"{split}.json: there is nothing to .*: it has no annotation"):
        run(folder, tmp_path / "run", val_data=data_of(folder, "val"))
    assert not (tmp_path / "run").exists()


def test_a_broken_image_is_reported_once_and_left_out(shapes, tmp_path):
    console = Console(record=True, width=200, file=io.StringIO())
    folder = copy_of(shapes, tmp_path / "data", 1)
    name = sorted((folder / "train").iterdir())[0].name
    # 12 batches of one image, of which one is missing.
    assert run(folder, tmp_path / "run", replace(SETTINGS, batch_size=1, iterations=12), console=console).finished
    assert console.export_text().count("left out") == 1
    assert run(folder, tmp_path / "other", SETTINGS, console=console).finished  # two epochs
    text = console.export_text()
    assert text.count("left out") == text.count(name) == 1
    [broken] = newest_checkpoint(tmp_path / "other")["progress"]["broken"]
    assert name in broken


def test_many_broken_images_end_the_run(shapes, tmp_path):
    folder = copy_of(shapes, tmp_path / "data", 4)
    with pytest.raises(TrainingError, match="of 12 training images cannot be read, more than 1%"):
        run(folder, tmp_path / "run")


# Several processes, and processes that are killed: each runs as a program of its own

PROGRAM = """
import sys
sys.path.insert(0, {tests!r})
from dataclasses import replace
from pathlib import Path
from test_training import SETTINGS, run
run(Path({folder!r}), Path({output!r}), replace(SETTINGS, {changes}), resume=True)
"""


def program(folder: Path, output: Path, changes: str) -> str:
    return PROGRAM.format(tests=str(ROOT / "tests"), folder=str(folder), output=str(output), changes=changes)


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def without_objects(shapes: Path, folder: Path, images: set[int]) -> Path:
    """A copy of the data set in which the images at some positions have no objects."""
    shutil.copytree(shapes, folder)
    path = folder / "annotations" / "train.json"
    content = json.loads(path.read_text())
    empty = {content["images"][index]["id"] for index in images}
    content["annotations"] = [entry for entry in content["annotations"] if entry["image_id"] not in empty]
    path.write_text(json.dumps(content))
    return folder


GATHERING = """
from yolact.evaluation.results import Results
from yolact.training import processes

processes.IMAGES_GATHERED = 3
both = processes.Processes(cpu=True)
assert both.count == 2
image_ids = range(100, 117)
entries = [{"image_id": i, "number": n} for i in image_ids for n in range(i % 4)]
mine = image_ids[both.rank :: 2]
own = Results(entry for entry in entries if entry["image_id"] in mine)
gathered = sorted(both.gather_results(own, image_ids), key=lambda entry: entry["image_id"])
assert gathered == (entries if both.main else [])
assert both.of_main(both.rank) == 0
"""


def test_two_processes_gather_results_and_learn_what_one_does_with_unequal_shares(shapes, tmp_path):
    # The second process, which gets the second half of each batch, has no object in the first two steps.
    batches = list(ShareSampler(12, SETTINGS.batch_size, 0, 3, seed=SETTINGS.seed))
    folder = without_objects(shapes, tmp_path / "data", {index for batch in batches[:2] for index, _ in batch[2:]})
    changes = {"iterations": 3, "freeze_batch_norm": True}
    run(folder, tmp_path / "one", replace(SETTINGS, **changes))
    script = tmp_path / "two.py"
    # Their results come together too; a test of its own would start two more processes.
    learning = program(folder, tmp_path / "two", ", ".join(f"{k}={v}" for k, v in changes.items()))
    script.write_text(GATHERING + learning)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    finished = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=240)
    assert finished.returncode == 0, finished.stderr[-3000:]
    one, two = totals(tmp_path / "one"), totals(tmp_path / "two")
    assert two[0] == pytest.approx(one[0], rel=1e-5)
    # Rounding differs from the second step on, and may make another anchor a hard negative.
    assert two == pytest.approx(one, rel=2e-3)
    one, two = (read_checkpoint(tmp_path / name / "weights.safetensors").state for name in ("one", "two"))
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-2, atol=1e-3)


def test_a_killed_run_loses_only_what_followed_its_last_checkpoint(shapes, tmp_path):
    """It does not keep its folder from the next run either, although its loader processes live on for some seconds."""
    output = tmp_path / "run"
    checkpoints = CheckpointFolder(output / "checkpoints", 3)
    script = tmp_path / "run.py"
    script.write_text(program(shapes, output, "checkpoint_every=1, iterations=100_000, workers=1"))
    chance = random.Random(0)
    reached = 0
    for _ in range(2):
        running = subprocess.Popen([sys.executable, str(script)], env=environment(), stderr=subprocess.PIPE)
        deadline = time.time() + 120
        while not (saved := checkpoints.saved()) or saved[-1][0] <= reached:
            assert running.poll() is None, running.stderr.read()
            assert time.time() < deadline
            time.sleep(0.02)
        time.sleep(chance.uniform(0, 0.5))
        with pytest.raises(ValueError, match="another run is writing into this folder"):
            run(shapes, output)
        running.kill()
        running.wait()
        with pytest.raises(ValueError, match=r"holds another run, with iterations 100000 \(now 6\)"):
            run(shapes, output, resume=True)
        running.stderr.close()
        newest = checkpoints.saved()[-1][0]
        assert checkpoints.load()["iteration"] == newest > reached
        reached = newest
    assert totals(output)  # only the last line may be broken


def test_tensorboard_reads_what_a_board_writes(tmp_path):
    picture = torch.randint(0, 256, (3, 20, 30), dtype=torch.uint8)
    board = Board(tmp_path)
    board.scalar("loss", 2.5, 7)
    board.picture("a picture", picture, 7)
    board.close()
    events = EventAccumulator(str(tmp_path)).Reload()
    [number], [shown] = events.Scalars("loss"), events.Images("a picture")
    assert (number.step, number.value) == (7, 2.5)
    assert (shown.step, shown.width, shown.height) == (7, 30, 20)
    decoded = np.asarray(Image.open(io.BytesIO(shown.encoded_image_string)))
    assert np.array_equal(decoded, picture.permute(1, 2, 0).numpy())


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize("supported", [True, False])
def test_training_in_a_slow_precision_is_named(supported, machine, monkeypatch):
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: supported)
    monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: False)
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert slow_training("fp32", cpu) == slow_training("fp16", cpu) == slow_training("bf16", gpu) == ""
    named = machine == "x86_64" and not supported
    assert (
        "neither AVX512_BF16 nor AMX; on a similar one, a step took about seven" in slow_training("bf16", cpu)
    ) == named


@pytest.mark.parametrize("name", ["best.safetensors", "weights.safetensors", "curves.png", "report.md", "config.json"])
def test_what_is_in_the_way_at_the_end_is_said_at_the_start(name, shapes, tmp_path):
    (tmp_path / name).mkdir()
    with pytest.raises(WriteError, match=f"{name}: cannot be written: this is a folder"):
        run(shapes, tmp_path)
    assert not list((tmp_path / "checkpoints").glob("checkpoint-*"))
    assert not (tmp_path / "metrics.jsonl").exists()
