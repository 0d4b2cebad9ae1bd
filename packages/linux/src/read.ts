import { SysError } from '@ferry/core';
import { cString } from './fd.js';
import { call, sys, sysError } from './sys.js';

const O_RDONLY_CLOEXEC = 0o2000000;
/** For a read of a file of /proc/sys the kernel allocates, and zeroes, as much as is asked for, and refuses more than it
 *  allocates at once (fs/proc/proc_sysctl.c: proc_sys_call_handler). */
const READ_MAX = 1 << 20;
const SETTINGS = '/proc/sys/';
const SETTING_BYTES = 4096;
let scratch = Buffer.allocUnsafeSlow(256 * 1024);

/** Reads a small file (of /proc) whole, as Latin-1 text. Raw system calls: node:fs costs several times as much a file.
 *  @throws SysError ENOENT or ESRCH when the process is gone */
export function readProc(path: string): string {
  // First the reading, which may put a larger buffer in place of this one.
  const length = readIntoScratch(path);
  return scratch.toString('latin1', 0, length);
}

/** As readProc, as bytes: a copy of its own. */
export function readProcBytes(path: string): Buffer {
  const length = readIntoScratch(path);
  return Buffer.from(scratch.subarray(0, length));
}

function readIntoScratch(path: string): number {
  const fd = sys('open', cString(path), O_RDONLY_CLOEXEC, 0);
  if (fd < 0) throw sysError('open', -fd, path);
  let length = 0;
  try {
    if (path.startsWith(SETTINGS)) {
      const n = sys('pread64', fd, scratch, SETTING_BYTES, 0);
      // A longer one is read at once: of some kinds the kernel gives nothing but the beginning.
      if (n >= 0 && n < SETTING_BYTES) return n;
    }
    for (;;) {
      if (length === scratch.length) grow();
      const rest = length === 0 ? scratch : scratch.subarray(length);
      const n = sys('read', fd, rest, Math.min(rest.length, READ_MAX));
      if (n < 0) throw sysError('read', -n, path);
      if (n === 0) return length;
      length += n;
    }
  } finally {
    sys('close', fd);
  }
}

function grow(): void {
  const larger = Buffer.allocUnsafeSlow(scratch.length * 4);
  scratch.copy(larger);
  scratch = larger;
}

/** As readProc; undefined when the file or its process is gone. */
export function tryReadProc(path: string): string | undefined {
  try {
    return readProc(path);
  } catch (error) {
    if (error instanceof SysError && ['ENOENT', 'ESRCH', 'EINVAL'].includes(error.errno)) {
      return undefined;
    }
    throw error;
  }
}

const link = Buffer.allocUnsafeSlow(4096);

/** readlink(2), as Latin-1 text (a path's bytes, one character each). */
export function readLink(path: string): string {
  const n = sys('readlink', cString(path), link, link.length);
  if (n < 0) throw sysError('readlink', -n, path);
  return link.toString('utf8', 0, n);
}

/** The names in a directory, in the kernel's order. */
export function listDirectory(path: string): string[] {
  const fd = sys('open', cString(path), 0o2200000 /* O_DIRECTORY | O_CLOEXEC */, 0);
  if (fd < 0) throw sysError('open', -fd, path);
  const names: string[] = [];
  const entries = Buffer.alloc(32768);
  try {
    for (;;) {
      const n = call('getdents64', fd, entries, entries.length);
      if (n === 0) return names;
      for (let at = 0; at < n; at += entries.readUInt16LE(at + 16)) {
        const end = entries.indexOf(0, at + 19);
        const name = entries.toString('utf8', at + 19, end);
        if (name !== '.' && name !== '..') names.push(name);
      }
    }
  } finally {
    sys('close', fd);
  }
}
