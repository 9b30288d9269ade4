#!/bin/sh
# Makes an environment with torch and torchvision and what compiles for them: torch is the build that PyPI gives, or with
# YOLACT_TORCH=cpu the small one without CUDA from PyTorch's own index. Without YOLACT_TORCH a torch that is there stays.
#
#     scripts/install_torch.sh python3 .venv
set -eu
python="$1"
pip="$2/bin/pip"
chosen="$2/.torch" # pypi or cpu: which one this environment has

was=$(cat "$chosen" 2>/dev/null || true)
wish="${YOLACT_TORCH:-${was:-pypi}}"
case "$wish" in
    pypi) index="" ;;
    cpu) index="--index-url https://download.pytorch.org/whl/cpu" ;;
    *)
        echo "YOLACT_TORCH=$wish: give cpu, the build without CUDA, or pypi, the default" >&2
        exit 1
        ;;
esac
"$python" -m venv "$2"
rm -f "$chosen"
if [ -n "$was" ] && [ "$was" != "$wish" ]; then
    "$pip" uninstall -y torch torchvision # or pip would be content with them
fi
"$pip" install $index torch torchvision
"$pip" install "setuptools>=77" ninja
echo "$wish" >"$chosen"
