import type { FileLock } from '@ferry/image';
import { refuse } from './common.js';
import type { Descriptor, FileContext } from './context.js';

/** lock_get_status() of fs/locks.c: `lock:\t1: POSIX  ADVISORY  WRITE 25280 fe:00:2195598 5 14`. */
const LOCK = /^lock:\t\d+: (\w+) +(\w+) +(\w+) (-?\d+) \S+ (\d+) (\d+|EOF)$/gm;
const KINDS: Record<string, string> = {
  FLOCK: 'flock',
  POSIX: 'posix',
  OFDLCK: 'ofd',
  LEASE: 'lease',
};
/** F_RDLCK, F_WRLCK, F_UNLCK. Of a lease that is being broken, what it is to become. */
const TYPES: Record<string, number> = { READ: 0, WRITE: 1, UNLCK: 2 };

interface FoundLock extends FileLock {
  /** Who took it (of POSIX locks). */
  readonly takerHostPid: number;
}

/** The locks held through a description. fdinfo shows POSIX locks only below the descriptors of the process that holds
 *  them, so that every process's must be looked at; the others belong to the description. Processes that share a table
 *  of descriptors all show the POSIX locks of any: they are those of the one that took them, if it still lives. */
export function locksOf(
  first: Descriptor,
  holders: readonly Descriptor[],
  ctx: FileContext,
): FileLock[] {
  const locks: FileLock[] = [];
  const seen = new Set<number>();
  const orphans = new Set<string>();
  for (const holder of holders.length === 0 ? [first] : holders) {
    const { pid } = holder.process;
    if (seen.has(pid)) continue;
    seen.add(pid);
    if (!holder.info.includes('\nlock:\t')) continue;
    for (const { takerHostPid, ...lock } of parseLocks(holder, ctx)) {
      if (lock.kind !== 'posix') {
        if (holder === first) locks.push(lock);
        continue;
      }
      const isTaker = takerHostPid === holder.process.hostPid;
      const lives = ctx.processes.some(({ hostPid }) => hostPid === takerHostPid);
      const key = `${takerHostPid} ${lock.start} ${lock.length}`;
      if (isTaker || !(lives || orphans.has(key))) locks.push(lock);
      if (!lives) orphans.add(key);
    }
  }
  return locks;
}

function parseLocks(holder: Descriptor, ctx: FileContext): FoundLock[] {
  const locks: FoundLock[] = [];
  for (const match of holder.info.matchAll(LOCK)) {
    const [, word, state, mode, taker, start, end] = match as unknown as string[];
    const kind = KINDS[word!];
    const type = TYPES[mode!];
    if (kind === undefined || type === undefined || state === 'BREAKER') {
      refuse(holder, ctx, {
        code: 'file.lock',
        reason: `a lock of this kind cannot be carried (${match[0].slice(6)})`,
        remedy: 'release the lock',
      });
      continue;
    }
    locks.push({
      kind,
      type,
      breaking: state === 'BREAKING',
      pid: holder.process.pid,
      takerHostPid: Number(taker),
      fd: holder.fd,
      start: BigInt(start!),
      length: end === 'EOF' ? 0n : BigInt(end!) - BigInt(start!) + 1n,
    });
  }
  return locks;
}
