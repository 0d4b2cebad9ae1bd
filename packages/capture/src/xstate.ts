/** Where the XSAVE header says which components are not in their initial state (Intel SDM, volume 1, 13.4.2). */
const XSTATE_BV = 512;
const HEADER_END = 576;
/** Ends of the components in the standard format: x87 and SSE in the legacy area, AVX, the three of AVX-512, PKRU. They
 *  stand there on every processor that has AVX-512; AMX and others have no place that is the same everywhere. */
const ENDS: Readonly<Record<number, number>> = {
  0: HEADER_END,
  1: HEADER_END,
  2: 832,
  5: 1152,
  6: 1664,
  7: 2688,
  9: 2696,
};
/** Where MPX was, or nothing is. */
const SPARSE = new Set([3, 4, 8]);

/** The part of an XSAVE area that says something: what is behind it is in its initial state. A processor with fewer
 *  components takes it, one with a smaller area would take only the legacy part of a longer one
 *  (arch/x86/kernel/fpu/signal.c: check_xstate_in_sigframe). */
export function neededXstate(xstate: Buffer): Buffer {
  if (xstate.length < HEADER_END) return xstate;
  const used = xstate.readBigUInt64LE(XSTATE_BV);
  let end = HEADER_END;
  for (let component = 0; component < 64; component++) {
    if (!(used & (1n << BigInt(component)))) continue;
    const known = SPARSE.has(component) ? undefined : ENDS[component];
    if (known === undefined || known > xstate.length) return xstate;
    end = Math.max(end, known);
  }
  return xstate.subarray(0, end);
}
