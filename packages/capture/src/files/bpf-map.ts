import { FerryError } from '@ferry/core';
import type { BpfMap } from '@ferry/image';
import { addressOf, ERRNO, sys } from '@ferry/linux';
import { refuse } from './common.js';
import type { Descriptor, FileCapture, FileContext } from './context.js';

/** Kinds of maps that are nothing but keys and values, alike on all processors: enum bpf_map_type. */
const CARRIED: ReadonlyMap<number, string> = new Map([
  [1, 'hash'],
  [2, 'array'],
  [9, 'LRU hash'],
]);
const BPF_MAP_LOOKUP_ELEM = 1;
const BPF_MAP_GET_NEXT_KEY = 4;
const BPF_OBJ_GET_INFO_BY_FD = 15;
const INFO_SIZE = 80;
const CONTENT_BYTES_MAX = 16 * 1024 * 1024;

/** bpf(2): maps with their content. Programs cannot be given back: the kernel tells them only after translation. */
export const bpfMapCapture: FileCapture = {
  matches: ({ link }) => /^anon_inode:\[?bpf-map\]?$/.test(link),
  capture(descriptor, ctx) {
    const value = describe(descriptor, ctx);
    return value && { $case: 'bpfMap', value };
  },
};

/** struct bpf_map_info: type, id, key and value size, entries, flags, name, … */
function describe(descriptor: Descriptor, ctx: FileContext): BpfMap | undefined {
  const fd = descriptor.dup().number;
  const info = Buffer.alloc(INFO_SIZE);
  const attributes = Buffer.alloc(64);
  attributes.writeUInt32LE(fd, 0);
  attributes.writeUInt32LE(INFO_SIZE, 4);
  attributes.writeBigUInt64LE(addressOf(info), 8);
  bpf(BPF_OBJ_GET_INFO_BY_FD, attributes);
  const type = info.readUInt32LE(0);
  const keySize = info.readUInt32LE(8);
  const valueSize = info.readUInt32LE(12);
  const map: BpfMap = {
    type,
    keySize,
    valueSize,
    maxEntries: info.readUInt32LE(16),
    mapFlags: info.readUInt32LE(20),
    name: info.toString('latin1', 24, 40).replace(/\0.*$/s, ''),
    isFrozen: /^frozen:\t1$/m.test(descriptor.info),
    entries: [],
  };
  if (!CARRIED.has(type)) {
    return refuse(descriptor, ctx, {
      code: 'file.bpf',
      reason: `BPF maps of type ${type} cannot be carried (${[...CARRIED.values()].join(', ')} can)`,
      remedy: 'unload it, or run the program that loads it outside the container',
    });
  }
  if (map.maxEntries * (keySize + valueSize) > CONTENT_BYTES_MAX) {
    return refuse(descriptor, ctx, {
      code: 'file.bpf',
      reason: `the BPF map holds up to ${map.maxEntries * (keySize + valueSize)} bytes`,
      remedy: `make it smaller: up to ${CONTENT_BYTES_MAX} bytes are carried`,
    });
  }
  if (ctx.scanning) return map;
  return { ...map, entries: entriesOf(fd, { keySize, valueSize }) };
}

function entriesOf(
  fd: number,
  { keySize, valueSize }: { keySize: number; valueSize: number },
): { key: Buffer; value: Buffer }[] {
  const entries: { key: Buffer; value: Buffer }[] = [];
  let key: Buffer | undefined;
  for (;;) {
    const next = Buffer.alloc(keySize);
    if (bpf(BPF_MAP_GET_NEXT_KEY, elementOf(fd, key, next), key ?? null) === -ERRNO.ENOENT)
      return entries;
    const value = Buffer.alloc((valueSize + 7) & ~7);
    bpf(BPF_MAP_LOOKUP_ELEM, elementOf(fd, next, value));
    entries.push({ key: next, value: value.subarray(0, valueSize) });
    key = next;
  }
}

/** The part of union bpf_attr for elements: descriptor, key, value or next key. */
function elementOf(fd: number, key: Buffer | undefined, value: Buffer): Buffer {
  const attributes = Buffer.alloc(64);
  attributes.writeUInt32LE(fd, 0);
  attributes.writeBigUInt64LE(key === undefined ? 0n : addressOf(key), 8);
  attributes.writeBigUInt64LE(addressOf(value), 16);
  return attributes;
}

/** @param kept  what the attributes point to, and nothing else may hold any more */
function bpf(command: number, attributes: Buffer, kept: Buffer | null = null): number {
  const result = sys('bpf', command, attributes, attributes.length, kept);
  if (result < 0 && result !== -ERRNO.ENOENT) {
    throw new FerryError('capture.bpf', `bpf(2) command ${command} gave ${result}`, {
      remedy: 'run as root with CAP_BPF and CAP_SYS_ADMIN',
    });
  }
  return result;
}
