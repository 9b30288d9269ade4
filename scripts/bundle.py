"""Turns the weights of a run into bundled weights: in half precision, with notes on the run as metadata.

    python scripts/bundle.py run/best.safetensors yolact/assets/yolact_shapes.safetensors \\
        --note "command=yolact train …" --note "mask_ap=61.2 on yolact data shapes fresh --train 0 --val 1000 --seed 1"

Half precision halves the size of the file. Loading it turns the weights into float32 again.
"""

import argparse

import safetensors

from yolact.weights.checkpoints import read_checkpoint, write_safetensors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", help="the safetensors file of a run")
    parser.add_argument("output", help="the file to write")
    parser.add_argument("--note", action="append", default=[], metavar="KEY=TEXT", help="more metadata")
    arguments = parser.parse_args()
    checkpoint = read_checkpoint(arguments.weights)
    with safetensors.safe_open(arguments.weights, framework="pt") as file:
        metadata = file.metadata()
    metadata.update(note.split("=", 1) for note in arguments.note)
    state = {name: value.half() if value.is_floating_point() else value for name, value in checkpoint.state.items()}
    write_safetensors(arguments.output, state, metadata)


if __name__ == "__main__":
    main()
