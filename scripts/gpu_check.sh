#!/bin/sh
# Runs everything that needs a GPU, on a machine with a GPU. It builds the operators with CUDA and runs every test
# marked `cuda`, the benchmark, and the tests of the operators under compute-sanitizer.
#
# It needs torch >= 2.11, torchvision, numpy, pillow, rich, typer, safetensors, huggingface_hub, pytest, ninja and nvcc.
# It needs no network connection and no virtual environment. Without pycocotools it leaves out the tests of the C++
# side.
#
#     scripts/gpu_check.sh [FILE]      writes the figures as JSON to FILE (default: build/benchmark-cuda.json), and
#                                      those of larger batches and of other presets beside it
set -eu
cd "$(dirname "$0")/.."
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
python="${PYTHON:-python3}"
figures="${1:-build/benchmark-cuda.json}"
mkdir -p "$(dirname "$figures")"

nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
"$python" -c 'import torch; assert torch.cuda.is_available(), "torch finds no CUDA device"'
YOLACT_CUDA=1 "$python" setup.py build_ext --inplace
if PYTHON="$python" scripts/system_packages.sh >/dev/null 2>&1 && command -v cmake >/dev/null; then
    cmake -S . -B build/cmake -G Ninja -DYOLACT_CUDA=ON -DYOLACT_PYTHON_EXECUTABLE="$(command -v "$python")"
    cmake --build build/cmake
else
    echo "the C++ side is left out: it needs libjpeg-dev, libpng-dev and cmake"
fi
"$python" -m pytest -q -m cuda
"$python" scripts/benchmark.py --device cuda --rounds 50 --json "$figures"
"$python" scripts/benchmark.py network detector --device cuda --batch 8 32 64 --rounds 20 \
    --json "${figures%.json}-batches.json"
for model in yolact_base yolact_plus_resnet50 yolact_plus_base; do
    "$python" scripts/benchmark.py network detector training --model "$model" --device cuda --rounds 15 \
        --json "${figures%.json}-$model.json"
done

# compute-sanitizer may be beside nvcc and not on the PATH. It checks only our kernels, because all would take hours.
nvcc=$(command -v nvcc || echo "${CUDA_HOME:-/usr/local/cuda}/bin/nvcc")
sanitizer=$(command -v compute-sanitizer || echo "$(dirname "$(readlink -f "$nvcc")")/compute-sanitizer")
if [ -x "$sanitizer" ]; then
    for tool in memcheck racecheck; do
        # Without torch's cache every tensor is a separate allocation, so memcheck knows where it ends.
        PYTORCH_NO_CUDA_MEMORY_CACHING=1 "$sanitizer" --tool "$tool" --kernel-name kns=yolact \
            --error-exitcode 1 "$python" -m pytest -q -m cuda tests/test_ops.py tests/test_convolution.py
    done
else
    echo "compute-sanitizer is neither on the PATH nor beside nvcc: memory and races are not checked"
fi
