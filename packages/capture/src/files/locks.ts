import type { FileLock } from '@ferry/image';
import { refuse } from './common.js';
import type { Descriptor, FileContext } from './context.js';

/** lock_get_status() of fs/locks.c: `lock:\t1: POSIX  ADVISORY  WRITE 25280 fe:00:2195598 5 14`. */
const LOCK = /^lock:\t\d+: (\w+) +(\w+) +(\w+) -?\d+ \S+ (\d+) (\d+|EOF)$/gm;
const KINDS: Record<string, string> = {
  FLOCK: 'flock',
  POSIX: 'posix',
  OFDLCK: 'ofd',
  LEASE: 'lease',
};
const F_RDLCK = 0;
const F_WRLCK = 1;

/** The locks held through a description. fdinfo shows POSIX locks only below the descriptors of the process that holds
 *  them, so that every process's must be looked at; the others belong to the description. */
export function locksOf(
  first: Descriptor,
  holders: readonly Descriptor[],
  ctx: FileContext,
): FileLock[] {
  const locks: FileLock[] = [];
  const seen = new Set<number>();
  for (const holder of holders.length === 0 ? [first] : holders) {
    const { pid } = holder.process;
    if (seen.has(pid)) continue;
    seen.add(pid);
    if (!holder.info.includes('\nlock:\t')) continue;
    for (const lock of parseLocks(holder, ctx)) {
      if (lock.kind === 'posix' || holder === first) locks.push(lock);
    }
  }
  return locks;
}

function parseLocks(holder: Descriptor, ctx: FileContext): FileLock[] {
  const locks: FileLock[] = [];
  for (const match of holder.info.matchAll(LOCK)) {
    const [, word, state, mode, start, end] = match as unknown as string[];
    const kind = KINDS[word!];
    const type = mode === 'READ' ? F_RDLCK : mode === 'WRITE' ? F_WRLCK : undefined;
    if (kind === undefined || type === undefined || state === 'BREAKING') {
      refuse(holder, ctx, {
        code: 'file.lock',
        reason: `a lock of this kind cannot be carried (${match[0].slice(6)})`,
        remedy: 'release the lock, or try again when the lease break is over',
      });
      continue;
    }
    locks.push({
      kind,
      type,
      pid: holder.process.pid,
      fd: holder.fd,
      start: BigInt(start!),
      length: end === 'EOF' ? 0n : BigInt(end!) - BigInt(start!) + 1n,
    });
  }
  return locks;
}
