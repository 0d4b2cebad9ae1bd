#!/bin/sh
# Builds the restorer: a flat, position independent binary without libc and without relocations.
set -eu
cd "$(dirname "$0")"
out=../build
mkdir -p "$out"
cc -std=gnu11 -O2 -Wall -Wextra -Werror -ffreestanding -nostdlib -fPIC -fvisibility=hidden -fno-stack-protector \
  -U_FORTIFY_SOURCE -mno-sse -mno-mmx -fcf-protection=none -fno-asynchronous-unwind-tables -fno-builtin \
  -fno-jump-tables -fno-tree-loop-distribute-patterns -static -Wl,-T,link.ld -Wl,--build-id=none -Wl,-z,norelro \
  -Wl,--no-warn-rwx-segments -o "$out/restorer.elf" start.c run.c verify.c namespaces.c
if [ -n "$(nm -u "$out/restorer.elf")" ] || readelf -r "$out/restorer.elf" | grep -q R_X86; then
  echo "restorer: undefined symbols or relocations" >&2
  exit 1
fi
objcopy -O binary "$out/restorer.elf" "$out/restorer.bin"
nm "$out/restorer.elf" > "$out/symbols.txt"
