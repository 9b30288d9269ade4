#!/bin/sh
# Makes an environment with torch, torchvision and the tools that compile the operators. By default torch is PyPI's
# build. YOLACT_TORCH=cpu installs the small build without CUDA from PyTorch's own index. If YOLACT_TORCH is not set, a
# torch that is already installed stays.
#
#     scripts/install_torch.sh python3 .venv
set -eu
python="$1"
pip="$2/bin/pip"
chosen="$2/.torch" # pypi or cpu: the build that this environment has

was=$(cat "$chosen" 2>/dev/null || true)
wish="${YOLACT_TORCH:-${was:-pypi}}"
case "$wish" in
    pypi) index="" ;;
    cpu) index="--index-url https://download.pytorch.org/whl/cpu" ;;
    *)
        echo "YOLACT_TORCH=$wish: give cpu (the build without CUDA) or pypi (the default)" >&2
        exit 1
        ;;
esac
"$python" -m venv "$2"
rm -f "$chosen"
if [ -n "$was" ] && [ "$was" != "$wish" ]; then
    "$pip" uninstall -y torch torchvision # otherwise pip would keep them
fi
"$pip" install $index torch torchvision
"$pip" install "setuptools>=77" ninja
echo "$wish" >"$chosen"
