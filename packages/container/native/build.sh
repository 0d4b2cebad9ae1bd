#!/bin/sh
# Builds the container shim. Run by scripts/build.mjs (native).
set -eu
cd "$(dirname "$0")/.."
mkdir -p build
cc -std=gnu11 -O2 -Wall -Wextra -Wconversion -Wno-sign-conversion -Werror native/shim.c -o build/ferry-shim
