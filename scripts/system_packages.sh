#!/bin/sh
# Looks for the few system packages that the build needs and PyPI does not have. It installs missing ones with
# apt-get if it can (as root, or with sudo without a password), or with Homebrew on macOS. Otherwise it says what to install.
set -eu

python="${PYTHON:-python3}"
missing=""
if command -v brew >/dev/null; then
    export CPATH="$(brew --prefix)/include${CPATH:+:$CPATH}"
fi

has_header() {
    printf '#include <stddef.h>\n#include <stdio.h>\n#include <%s>\n' "$1" | "${CXX:-c++}" -E -x c++ - >/dev/null 2>&1
}

command -v "${CXX:-c++}" >/dev/null || missing="$missing g++"
command -v "$python" >/dev/null || missing="$missing python3"
if [ -z "$missing" ]; then
    has_header jpeglib.h || missing="$missing libjpeg-dev"
    has_header png.h || missing="$missing libpng-dev"
    "$python" -c 'import ensurepip, venv' 2>/dev/null || missing="$missing python3-venv"
    include=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
    [ -f "$include/Python.h" ] || missing="$missing python3-dev"
fi
[ -n "$missing" ] || exit 0

echo "missing system packages:$missing"
if command -v apt-get >/dev/null; then
    if [ "$(id -u)" = 0 ]; then
        export DEBIAN_FRONTEND=noninteractive
        apt-get update -q && apt-get install -q -y --no-install-recommends $missing && exit 0
    elif sudo -n true 2>/dev/null; then
        sudo apt-get update -q && sudo apt-get install -q -y --no-install-recommends $missing && exit 0
    fi
elif command -v brew >/dev/null; then
    brew install --quiet $(echo "$missing" | sed 's/libjpeg-dev/jpeg-turbo/; s/libpng-dev/libpng/') && exit 0
fi
echo "install them first; on Debian and Ubuntu: sudo apt-get install$missing" >&2
exit 1
