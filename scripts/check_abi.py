"""Shows that one build of the operator library works with another torch too, and gives the same results.

    python scripts/check_abi.py            # torch 2.13.0, the CPU build if pip finds one
    python scripts/check_abi.py 2.12.1

It makes an environment with that torch under build/, loads the same library file there, runs every operator on the same
random inputs and compares the outputs bit for bit.
"""

import hashlib
import subprocess
import sys
import venv
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
LIBRARY = ROOT / "yolact" / "lib" / "libyolact_ops.so"


def outputs() -> dict[str, torch.Tensor]:
    """The outputs of all operators for random inputs that are the same in every torch."""
    torch.ops.load_library(str(LIBRARY))
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=generator)

    results = {}
    for number, (anchors, classes) in enumerate([(1, 1), (300, 4), (5000, 80)]):
        corner = random(2, anchors, 2)
        boxes = torch.cat((corner, corner + random(2, anchors, 2) * 0.5), dim=2)
        for dtype in (torch.float32, torch.float16, torch.bfloat16):
            scores = random(2, anchors, classes).to(dtype)
            for name, value in zip(
                ("indices", "classes", "scores", "counts"),
                torch.ops.yolact.fast_nms(boxes, scores, 0.5, 200, 0.05, 100),
                strict=True,
            ):
                results[f"fast_nms {number} {dtype} {name}"] = value
            logits = (random(2, anchors, 1 + classes) * 8).to(dtype)
            for name, value in zip(
                ("boxes", "scores", "classes", "indices", "counts"),
                torch.ops.yolact.detect(
                    (boxes - 0.5).to(dtype), logits, boxes[0], 0.1, 0.2, 4.0, True, 0.5, 200, 0.05, 100
                ),
                strict=True,
            ):
                results[f"detect {number} {dtype} {name}"] = value
            masks = (random(2, anchors, 9, 13) - 0.5).to(dtype)
            results[f"crop {number} {dtype}"] = torch.ops.yolact.crop(masks, boxes)
            prototypes, coefficients = random(2, 138, 138, 32).to(dtype), (random(2, anchors, 32) - 0.5).to(dtype)
            results[f"assemble_masks {number} {dtype}"] = torch.ops.yolact.assemble_masks(
                prototypes, coefficients[:, :40], boxes[:, :40], 240, 321
            )
            for kernel_size in () if dtype == torch.float16 else (1, 3):  # float16 uses torch's own convolution
                weight = (random(40, 32, kernel_size, kernel_size) - 0.5).to(dtype)
                packed = torch.ops.yolact.pack_convolution(weight, 1)
                results[f"convolution {number} {dtype} {kernel_size}"] = torch.ops.yolact.convolution(
                    (random(1, 32, 19, 21) - 0.5).to(dtype), weight, packed, random(40), None, 1, 1, 0.1
                )
            for name in ("assemble_crops", "assemble_runs"):
                operator = getattr(torch.ops.yolact, name)
                tensors = operator(prototypes, coefficients[:, :40], boxes[:, :40], 240, 321)
                results |= {f"{name} {number} {dtype} {i}": value for i, value in enumerate(tensors)}
            offsets, factors = (random(2, 9, 13, 18) - 0.5) * 6, random(2, 9, 13, 9)
            results[f"deform_columns {number} {dtype}"] = torch.ops.yolact.deform_columns(
                masks[:, 0, :, :, None].expand(-1, -1, -1, 20), offsets, factors, 3, 1, 1
            )
    return results


def environment(version: str) -> Path:
    """The Python of a virtual environment that has only that torch and NumPy."""
    folder = ROOT / "build" / f"torch-{version}"
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        venv.create(folder, with_pip=True, clear=True)
        install = [str(python), "-m", "pip", "install", "-q", "numpy"]
        if subprocess.run([*install, f"torch=={version}+cpu"]).returncode != 0:
            subprocess.run([*install, f"torch=={version}"], check=True)
        (folder / "complete").touch()
    return python


def main() -> None:
    if sys.argv[1:2] == ["--save"]:
        torch.save({"torch": str(torch.__version__), "outputs": outputs()}, sys.argv[2])
        return
    version = sys.argv[1] if len(sys.argv) > 1 else "2.13.0"
    if not LIBRARY.exists():
        sys.exit(f"{LIBRARY} is missing; build it: python setup.py build_ext --inplace")
    saved = ROOT / "build" / f"abi-{version}.pt"
    subprocess.run([environment(version), __file__, "--save", saved], check=True)
    there = torch.load(saved, weights_only=True)
    here = outputs()
    differing = [name for name, value in here.items() if not torch.equal(value, there["outputs"][name])]
    print(f"{LIBRARY.name}, SHA-256 {hashlib.sha256(LIBRARY.read_bytes()).hexdigest()}")
    print(f"in torch {torch.__version__} and in torch {there['torch']}: {len(here)} outputs, {len(differing)} differ")
    if differing:
        sys.exit("\n".join(differing))


if __name__ == "__main__":
    main()
