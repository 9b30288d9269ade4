#!/bin/sh
# Runs a command and says what it does and how long it took. Its output goes to build/setup.log; if the command fails,
# the last lines are shown. With V=1 all output is shown and nothing goes to the log.
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
    echo "The whole output is in $log; \`make V=1\` shows it while it runs." >&2
fi
exit $code
