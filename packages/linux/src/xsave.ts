import { native } from './native.js';

/** What every XSAVE area begins with: the registers of the FPU and SSE, and a header (Intel SDM vol. 1, 13.4). */
const LEAST_BYTES = 576;
const HEADER = 512;
const LEAF = 0xd;
const SUPERVISOR = 1;
const COMPONENTS = 32;

/** Where a state component stands in the standard format. */
export interface XsaveComponent {
  readonly offset: number;
  readonly size: number;
}

/** AMX's tile data: the only component that a process must ask for (arch/x86/kernel/fpu/xstate.c:
 *  XFEATURE_MASK_USER_DYNAMIC). */
export const TILE_DATA = 18;

let known: readonly (XsaveComponent | undefined)[] | undefined;

/** The components of this processor, by number; those of the kernel left out. */
export function xsaveComponents(): readonly (XsaveComponent | undefined)[] {
  known ??= Array.from({ length: COMPONENTS }, (_, i) => {
    if (i < 2) return undefined; // the FPU and SSE
    const out = Buffer.alloc(16);
    native.cpuid(LEAF, i, out);
    const [size, offset, flags] = [0, 4, 8].map((at) => out.readUInt32LE(at));
    return size === 0 || (flags! & SUPERVISOR) !== 0 ? undefined : { size: size!, offset: offset! };
  });
  return known;
}

/** Bytes of an XSAVE area in standard format up to the last component that is in use. What is behind is as it is initially,
 *  also when it is left out.
 *
 *  The kernel gives tracers an area with room for all that the processor has. In a signal frame it takes none that is longer
 *  than the thread's own, which has no room for AMX tiles before the thread uses them: such a frame would bring back nothing
 *  but the registers of the FPU and SSE (arch/x86/kernel/fpu/signal.c: check_xstate_in_sigframe). */
export function lengthInUse(
  area: Buffer,
  components: readonly (XsaveComponent | undefined)[] = xsaveComponents(),
): number {
  if (area.length < LEAST_BYTES || area.readUInt32LE(HEADER + 4) !== 0) return area.length;
  let length = LEAST_BYTES;
  const inUse = area.readUInt32LE(HEADER) >>> 0;
  for (let i = 2; i < COMPONENTS; i++) {
    if (((inUse >>> i) & 1) === 0) continue;
    const component = components[i];
    if (component === undefined) return area.length;
    length = Math.max(length, component.offset + component.size);
  }
  return Math.min(length, area.length);
}

/** Whether there is something in AMX tiles. */
export function holdsTiles(area: Buffer): boolean {
  return area.length >= LEAST_BYTES && ((area.readUInt32LE(HEADER) >>> TILE_DATA) & 1) === 1;
}
