#!/bin/sh
# Runs a command, and says how long it took: timed.sh NAME COMMAND...
name=$1
shift
echo "== $name"
began=$(date +%s)
"$@"
code=$?
echo "== $name: $(($(date +%s) - began)) s$([ $code -eq 0 ] || echo ", failed")"
exit $code
