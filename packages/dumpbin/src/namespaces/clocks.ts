import type { Process, TimeNamespace, TreeImage } from '@ferry/image';
import type { ProgramBuilder } from '../program.js';
import { CLONE } from './clone-flags.js';

/** struct plan_clocks (plan.h). */
export function clocks(offsets: TimeNamespace, image: TreeImage): Buffer {
  const { monotonicNs, boottimeNs } = offsets;
  const out = Buffer.alloc(40);
  out.writeBigInt64LE(monotonicNs, 0);
  out.writeBigInt64LE(boottimeNs, 8);
  out.writeBigInt64LE(image.monotonicNs + monotonicNs, 16);
  out.writeBigInt64LE(image.boottimeNs + boottimeNs, 24);
  out.writeBigInt64LE(image.realtimeNs, 32);
  return out;
}

/** The process that has made a time namespace for its children. It makes it again; others are made where they belong. */
export function makerOfTime(image: TreeImage, namespaceId: number): Process | undefined {
  return image.processes.find((process) => process.childrenTimeNamespace === namespaceId);
}

/** Makes a time namespace for the children of the caller. */
export function emitTimeForChildren(b: ProgramBuilder, image: TreeImage, id: number): void {
  const content = image.namespaces.find((namespace) => namespace.id === id)?.content;
  const step = `time namespace ${id}`;
  b.sys('unshare', [CLONE.time!], step);
  if (content?.$case === 'time')
    b.op('clocks', [b.bytes(clocks(content.value, image))], `clocks of ${step}`);
}
