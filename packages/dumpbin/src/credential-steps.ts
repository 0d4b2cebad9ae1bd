import type { Credentials } from '@ferry/image';
import type { ProgramBuilder } from './program.js';

// prctl(2), include/uapi/linux/securebits.h
const PR = {
  capBsetDrop: 24,
  setSecurebits: 28,
  setNoNewPrivs: 38,
  capAmbient: 47,
  setDumpable: 4,
  setPdeathsig: 1,
} as const;
const AMBIENT = { raise: 2, clearAll: 4 } as const;
const SECBIT_NO_SETUID_FIXUP = 1 << 2;
const CAPABILITY_VERSION_3 = 0x20080522;
const CAP_LAST = 40;
const EPERM = 1;

/** Identity, groups and bounding set, while all capabilities are still there; `emitCapabilities` takes them away. */
export function emitIdentity(b: ProgramBuilder, credentials: Credentials, who: string): void {
  const c = credentials;
  b.sys('prctl', [PR.setSecurebits, SECBIT_NO_SETUID_FIXUP], `${who}: keep capabilities`);
  const groups = Buffer.alloc(c.groups.length * 4);
  c.groups.forEach((gid, i) => {
    groups.writeUInt32LE(gid, i * 4);
  });
  // A user namespace may forbid it: then they are those that it was made with.
  b.sys('setgroups', [c.groups.length, b.bytes(groups)], `${who}: groups`, {
    expect: { orErrno: EPERM },
  });
  b.sys('setresgid', [c.gid, c.egid, c.sgid], `${who}: group ids`);
  b.sys('setfsgid', [c.fsgid], `${who}: file system group id`, { expect: 'any' });
  b.sys('setresuid', [c.uid, c.euid, c.suid], `${who}: user ids`);
  b.sys('setfsuid', [c.fsuid], `${who}: file system user id`, { expect: 'any' });
  emitBounding(b, c, who);
}

/** What `emitIdentity` does that entering a user namespace undoes (kernel/user_namespace.c: set_cred_user_ns). */
export function emitIdentityInside(b: ProgramBuilder, credentials: Credentials, who: string): void {
  b.sys('prctl', [PR.setSecurebits, SECBIT_NO_SETUID_FIXUP], `${who}: keep capabilities`);
  emitBounding(b, credentials, who);
}

function emitBounding(b: ProgramBuilder, credentials: Credentials, who: string): void {
  const c = credentials;
  for (let cap = 0; cap <= CAP_LAST; cap++) {
    if (c.capBounding & (1n << BigInt(cap))) continue;
    b.sys('prctl', [PR.capBsetDrop, cap], `${who}: drop capability ${cap} from the bounding set`);
  }
  if (c.noNewPrivs) b.sys('prctl', [PR.setNoNewPrivs, 1, 0, 0, 0], `${who}: no_new_privs`);
}

/** The capability sets as they were; nothing that needs a privilege may follow. */
export function emitCapabilities(b: ProgramBuilder, credentials: Credentials, who: string): void {
  const c = credentials;
  b.sys('prctl', [PR.capAmbient, AMBIENT.clearAll, 0, 0, 0], `${who}: clear ambient capabilities`);
  b.sys('prctl', [PR.setSecurebits, c.securebits], `${who}: securebits`);
  const header = b.bytes(Buffer.from(Uint32Array.of(CAPABILITY_VERSION_3, 0).buffer));
  const sets = Buffer.alloc(24);
  const half = (mask: bigint, high: boolean): number =>
    Number((high ? mask >> 32n : mask) & 0xffffffffn);
  for (const high of [false, true]) {
    const at = high ? 12 : 0;
    sets.writeUInt32LE(half(c.capEffective, high), at);
    sets.writeUInt32LE(half(c.capPermitted, high), at + 4);
    sets.writeUInt32LE(half(c.capInheritable, high), at + 8);
  }
  b.sys('capset', [header, b.bytes(sets)], `${who}: capabilities`);
  for (let cap = 0; cap <= CAP_LAST; cap++) {
    if (!(c.capAmbient & (1n << BigInt(cap)))) continue;
    b.sys('prctl', [PR.capAmbient, AMBIENT.raise, cap, 0, 0], `${who}: ambient capability ${cap}`);
  }
}

/** What a change of identity resets (commit_creds in kernel/cred.c): the dumpable flag and the parent-death signal. */
export function emitAfterIdentity(
  b: ProgramBuilder,
  state: { dumpable: number; parentDeathSignal: number },
  who: string,
): void {
  if (state.dumpable <= 1) b.sys('prctl', [PR.setDumpable, state.dumpable], `${who}: dumpable`);
  b.sys('prctl', [PR.setPdeathsig, state.parentDeathSignal], `${who}: parent-death signal`);
}
