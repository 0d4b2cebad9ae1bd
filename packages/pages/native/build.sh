#!/bin/sh
# Builds the pager. Run by scripts/build.mjs (native).
set -eu
cd "$(dirname "$0")/.."
mkdir -p build
cc -std=gnu11 -O2 -Wall -Wextra -Wconversion -Wno-sign-conversion -Werror \
  native/pager.c native/spaces.c native/page-set.c -llz4 -o build/ferry-pager
