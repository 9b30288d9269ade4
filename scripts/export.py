"""Writes a preset or a checkpoint file as one file that LibTorch runs without Python.

    python scripts/export.py yolact_resnet50 model.pt
    python scripts/export.py weights/mine.safetensors model.pt

A checkpoint file needs --preset if it does not say which preset it belongs to.
"""

import argparse

import yolact


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a preset's name or a checkpoint file")
    parser.add_argument("output", help="the file to write")
    parser.add_argument("--preset", help="preset of a checkpoint file that does not say it")
    arguments = parser.parse_args()
    detector = yolact.load(arguments.model, preset=arguments.preset)
    yolact.export(detector, arguments.output)
    print(f"{arguments.output}: {arguments.model} with {len(detector.class_names)} classes")


if __name__ == "__main__":
    main()
