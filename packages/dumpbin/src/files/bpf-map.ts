import type { BpfMap, FileObject } from '@ferry/image';
import type { DataRef, ProgramBuilder } from '../program.js';
import type { FileEmitter } from './emit.js';

const BPF_MAP_CREATE = 0;
const BPF_MAP_UPDATE_ELEM = 2;
const BPF_MAP_FREEZE = 22;
const ATTRIBUTES_SIZE = 64;
const NAME_AT = 28;

/** bpf(2): a map, its elements, and then frozen if it was. */
export const bpfMapEmitter: FileEmitter = {
  create(b, file, ctx) {
    const map = mapOf(file);
    const name = `BPF map ${file.id} (${map.name})`;
    const fd = ctx.fdOf(file.id);
    const slot = b.slotFor('file');
    const attributes = Buffer.alloc(ATTRIBUTES_SIZE);
    const { type, keySize, valueSize, maxEntries, mapFlags } = map;
    for (const [i, word] of [type, keySize, valueSize, maxEntries, mapFlags].entries()) {
      attributes.writeUInt32LE(word, i * 4);
    }
    attributes.write(map.name, NAME_AT, 15, 'latin1');
    const args = [BPF_MAP_CREATE, b.bytes(attributes), ATTRIBUTES_SIZE];
    b.sys('bpf', args, `make ${name}`, { into: slot });
    b.moveFd(slot, fd, name);
    if (map.entries.length > 0) emitEntries(b, map, fd, name);
    if (map.isFrozen) {
      b.sys('bpf', [BPF_MAP_FREEZE, withFd(b, fd), ATTRIBUTES_SIZE], `freeze ${name}`);
    }
  },
};

function mapOf(file: FileObject): BpfMap {
  if (file.kind?.$case !== 'bpfMap') throw new TypeError(`File ${file.id} is no BPF map`);
  return file.kind.value;
}

function withFd(b: ProgramBuilder, fd: number): DataRef {
  const attributes = Buffer.alloc(ATTRIBUTES_SIZE);
  attributes.writeUInt32LE(fd, 0);
  return b.bytes(attributes);
}

function emitEntries(b: ProgramBuilder, map: BpfMap, fd: number, name: string): void {
  const attributes = withFd(b, fd);
  for (const { key, value } of map.entries) {
    b.storeAddress(b.bytes(key), attributes.plus(8), `${name}: key`);
    b.storeAddress(b.bytes(value), attributes.plus(16), `${name}: value`);
    b.sys('bpf', [BPF_MAP_UPDATE_ELEM, attributes, ATTRIBUTES_SIZE], `${name}: element`);
  }
}
