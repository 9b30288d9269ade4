#!/bin/sh
# Shows that the operator library built once, against the newest torch in .venv, also serves another torch: makes a
# second environment with that torch (its CPU build where pip finds one), loads the same file there and runs the
# operators' tests.
#
#     scripts/check_abi.sh [TORCH_VERSION]      2.13.0 by default
set -eu
cd "$(dirname "$0")/.."
version="${1:-2.13.0}"
venv="build/torch-$version"
[ -f yolact/_ops.abi3.so ] || { echo "build the operators first: make" >&2; exit 1; }

if [ ! -x "$venv/bin/python" ]; then
    "${PYTHON:-python3}" -m venv "$venv"
    "$venv/bin/pip" install -q "torch==$version+cpu" torchvision || "$venv/bin/pip" install -q "torch==$version" torchvision
    "$venv/bin/pip" install -q numpy pillow pycocotools pytest rich safetensors typer huggingface_hub
fi
echo "built against: $(.venv/bin/python -c 'import torch; print(torch.__version__)')"
echo "loaded into:   $("$venv/bin/python" -c 'import torch; print(torch.__version__)')"
sha256sum yolact/_ops.abi3.so
"$venv/bin/python" -m pytest -q -p no:cacheprovider tests/test_ops.py tests/test_parity.py tests/test_export.py
