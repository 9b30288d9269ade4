"""Trains a model on a folder of COCO-format data. It is an example of how to use the package from Python.

    python scripts/train.py DATA [--model yolact_shapes] [--epochs 40] [--output run]

DATA has annotations/train.json and annotations/val.json, with the images in train/ and val/; `yolact data shapes DATA`
makes such a folder. `yolact train --help` shows more options.
"""

import argparse
from pathlib import Path

from yolact.config import get_preset
from yolact.data.coco import CocoDataset
from yolact.training.loop import train
from yolact.training.settings import TrainingSettings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="yolact_resnet50")
    parser.add_argument("--weights", default="imagenet")
    parser.add_argument("--epochs", type=float, default=40)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--output", type=Path, default=Path("yolact-run"))
    parser.add_argument("--resume", action="store_true")
    arguments = parser.parse_args()

    train_data = CocoDataset(arguments.data / "annotations" / "train.json", arguments.data / "train")
    val_data = CocoDataset(arguments.data / "annotations" / "val.json", arguments.data / "val")
    settings = TrainingSettings(epochs=arguments.epochs, batch_size=arguments.batch_size)
    preset = get_preset(arguments.model)
    print(train(preset, train_data, arguments.output, settings, val_data, arguments.weights, arguments.resume))


if __name__ == "__main__":
    main()
