#!/bin/sh
# Runs a command, says what it does and how long it took, and keeps its output in build/setup.log, of which the last
# lines are shown if it fails. With V=1 the output is shown instead.
#
#     scripts/step.sh "Compiling the operators" python setup.py build_ext --inplace
set -u
log=build/setup.log
title=$1
shift

if [ -n "${V:-}" ]; then
    echo "$title"
    exec "$@"
fi
mkdir -p build
printf '%s … ' "$title"
printf '\n=== %s: %s\n' "$title" "$*" >>"$log"
before=$(wc -c <"$log")
start=$(date +%s)
"$@" >>"$log" 2>&1
code=$?
if [ $code -eq 0 ]; then
    echo "$(($(date +%s) - start)) s"
else
    echo "failed"
    tail -c "+$((before + 1))" "$log" | tail -n 20
    echo "The whole output is in $log; \`make V=1\` shows it as it comes." >&2
fi
exit $code
