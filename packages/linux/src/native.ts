import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { FerryError, ferryRoot } from '@ferry/core';

/** What a system call takes: numbers and bigints by value, Buffers by address, null as 0. */
export type SyscallArgument = number | bigint | Buffer | null;

/** The native addon's functions. Raw: callers outside this package use the typed wrappers. */
export interface NativeAddon {
  syscall(nr: number, ...args: SyscallArgument[]): number;
  addressOf(buffer: Buffer): bigint;
  hash64(buffer: Buffer): bigint;
}

function load(): NativeAddon {
  const path = join(ferryRoot(), 'packages', 'linux', 'build', 'addon.node');
  if (!existsSync(path)) {
    throw new FerryError('setup.addon', `The native addon is not built (${path} is missing)`, {
      remedy: 'run "npm run setup" as root, then "npm run build"',
    });
  }
  return createRequire(import.meta.url)(path) as NativeAddon;
}

export const native: NativeAddon = load();
