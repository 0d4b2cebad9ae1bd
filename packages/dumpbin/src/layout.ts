/** The binary layout shared with the restorer (restorer/plan.h); a test compares the two. */

export const PAGE = 4096;
export const PLAN_MAGIC = 0x31306e616c507946n;
export const PLAN_VERSION = 1;
export const OP_SIZE = 72;
export const HEADER_SIZE = 208;
export const CHUNK = 1 << 20;

export const KIND = {
  syscall: 1,
  fork: 2,
  thread: 3,
  chain: 4,
  barrier: 5,
  read: 6,
  store: 7,
  jump: 8,
  leave: 9,
  return: 10,
  exit: 11,
  resumed: 12,
  makeDeath: 13,
  load: 14,
  clocks: 15,
  writeProc: 16,
  enter: 17,
  advise: 18,
} as const;

export type OpKind = keyof typeof KIND;

export const EXPECT = { success: 0, any: 1, value: 2, orErrno: 3 } as const;

export const FLAG = { root: 1, loader: 2 } as const;

/** Descriptors above the service base that belong to the restorer. */
export const SERVICE = {
  error: 0,
  folder: 1,
  self: 2,
  left: 3,
  control: 4,
  stdin: 5,
  stdout: 6,
  stderr: 7,
  groups: 8,
  proc: 9,
  objects: 16,
} as const;

/** Of struct plan_shared: how many tasks have to meet for the tree to run, how many have, and what a failure adds. */
export const FATE = { goes: 12, gone: 16, failed: 0x40000000 } as const;

/** Slots of a process's main task (restorer.h). */
export const SLOT_COUNT = 256;
