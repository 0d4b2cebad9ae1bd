import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { FerryError, ferryRoot } from '@ferry/core';

/** What a system call takes: numbers and bigints by value, Buffers by address, null as 0. */
export type SyscallArgument = number | bigint | Buffer | null;

/** The native addon's functions. Raw: callers outside this package use the typed wrappers. */
export interface NativeAddon {
  syscall(nr: number, ...args: SyscallArgument[]): number;
  syscalls(calls: Buffer, first: number): void;
  syscallsAhead(room: Buffer, calls: number, fds: Buffer, out: Buffer): NativeAhead;
  syscallsAheadWait(ahead: NativeAhead, i: number): void;
  syscallsAheadEnd(ahead: NativeAhead): void;
  addressOf(buffer: Buffer): bigint;
  cpuid(leaf: number, subleaf: number, out: Buffer): void;
  hash64(buffer: Buffer): bigint;
  readPages(
    runs: Buffer,
    raw: Buffer,
    packed: Buffer,
    acceleration: number,
    lenient: number,
    pageHashes: Buffer,
    key: Buffer,
    hashed: Buffer,
  ): Promise<PageWork>;
  freeBuffer(buffer: Buffer): void;
  landlockSample(layers: number, look: (tid: number) => void): void;
  userfaultEvents(): NativeEvents;
  userfaultEventsAdd(events: NativeEvents, fd: number): number;
  userfaultEventsCount(events: NativeEvents): number;
  userfaultEventsEnd(events: NativeEvents): number;
  writePages(
    runs: Buffer,
    payload: Buffer,
    scratch: Buffer,
    encoding: number,
    hash: bigint,
  ): Promise<PageWork>;
}

declare const nativeAhead: unique symbol;
/** A thread of the addon (ahead.c). */
export type NativeAhead = { readonly [nativeAhead]: true };

declare const nativeEvents: unique symbol;
/** A thread of the addon (userfault-events.c). */
export type NativeEvents = { readonly [nativeEvents]: true };

/** Outcome of one bulk page call. `status`: 0 done, 1 damaged (nothing was written), 2 failed with `errno`. */
export interface PageWork {
  readonly status: number;
  readonly errno: number;
  readonly failedRun: number;
  readonly failedAddress: bigint;
  /** 0: the pages as they are; 1: LZ4. */
  readonly encoding: number;
  /** Bytes of the payload. */
  readonly length: number;
  readonly hash: bigint;
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
