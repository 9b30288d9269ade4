"""Trains a model on a folder of COCO-format data: how to use the package from Python.

    python scripts/train.py DATA [--model yolact_shapes] [--epochs 40] [--output run]

DATA holds annotations/train.json, annotations/val.json and the images in train/ and val/, as `yolact data shapes DATA`
makes them. `yolact train --help` has more options.
"""

import argparse
from pathlib import Path

from yolact.config import get_preset
from yolact.data.coco import CocoDataset
from yolact.data.transforms import training_transform
from yolact.training.schedule import TrainingConfig
from yolact.training.trainer import Trainer


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

    preset = get_preset(arguments.model)
    transform = training_transform(preset.image_size, preset.pixel_mean)
    train_data = CocoDataset(arguments.data / "annotations" / "train.json", arguments.data / "train", transform)
    val_data = CocoDataset(arguments.data / "annotations" / "val.json", arguments.data / "val")
    config = TrainingConfig(epochs=arguments.epochs, batch_size=arguments.batch_size)
    trainer = Trainer(
        preset, train_data, arguments.output, config, val_data, arguments.weights, resume=arguments.resume
    )
    print(trainer.run())
    trainer.accelerator.end_training()


if __name__ == "__main__":
    main()
