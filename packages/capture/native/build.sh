#!/bin/sh
# Builds the program that captures are rehearsed with. Run by scripts/build.mjs (native).
set -eu
cd "$(dirname "$0")/.."
mkdir -p build
cc -std=gnu11 -O2 -Wall -Wextra -Wconversion -Wno-sign-conversion -Werror -pthread native/rehearsal.c -o build/rehearsal
