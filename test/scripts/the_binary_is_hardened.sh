#!/bin/bash
# What the release build promises of its binary, as readelf sees it.
# usage: the_binary_is_hardened.sh CONVOY
set -euo pipefail
convoy=$1
expect() { # WHAT PATTERN READELF-OPTIONS…
  local what=$1 pattern=$2
  shift 2
  readelf -W "$@" "$convoy" 2>/dev/null | grep -E "$pattern" >/dev/null || { echo "no $what"; exit 1; }
}
expect "position-independent code" 'Type: +DYN' -h
expect "read-only relocations" GNU_RELRO -l
expect "binding at start" 'BIND_NOW|FLAGS.*NOW' -d
expect "guarded stacks" __stack_chk_fail --dyn-syms
expect "checked library calls" '__(mem|str|read|v?snprintf)[a-z]*_chk' --dyn-syms
expect "name of the file with its symbols" '[.]gnu_debuglink' -S
readelf -W -S "$convoy" | grep -E '\.debug_info' >/dev/null && { echo "symbols are in the binary"; exit 1; }
readelf -W -S "$convoy.debug" 2>/dev/null | grep -E '\.debug_(info|line)' >/dev/null || { echo "no symbols in $convoy.debug"; exit 1; }
