import { FerryError } from '@ferry/core';
import type { Process, Thread, TreeImage } from '@ferry/image';
import type { Argument, ProgramBuilder } from './program.js';

/** PID namespaces below the root's that a process is in. */
export function depthOf({ innerPids }: Process): number {
  return innerPids.length;
}

/** What a process calls itself. */
export function ownPid({ pid, innerPids }: Process): number {
  return innerPids.at(-1) ?? pid;
}

/** What a thread calls itself. */
export function ownTid({ tid, innerTids }: Thread): number {
  return innerTids.at(-1) ?? tid;
}

/** What a process calls its own group; 0 when that is led from outside of its PID namespace. */
export function ownGroup({ pgid, innerPgids }: Process): number {
  return innerPgids.length === 0 ? pgid : innerPgids.at(-1)!;
}

/** Likewise its session. */
export function ownSession({ sid, innerSids }: Process): number {
  return innerSids.length === 0 ? sid : innerSids.at(-1)!;
}

/** What `viewer` calls another process: one in its PID namespace, or in one below that.
 *  @throws FerryError dumpbin.pidNamespace when it has no number there */
export function numberFor(viewer: Process, seen: Process): number {
  const depth = depthOf(viewer);
  const number = depth === 0 ? seen.pid : seen.innerPids[depth - 1];
  if (number !== undefined) return number;
  throw invisible(viewer, `process ${seen.pid} (${seen.comm})`);
}

/** As `numberFor`, for what may be a process, thread, group or session by its number in the root's namespace. */
export function translate(image: TreeImage, viewer: Process, pid: number): number {
  if (depthOf(viewer) === 0 || pid === 0) return pid;
  const level = depthOf(viewer) - 1;
  for (const process of image.processes) {
    const { innerPids, innerPgids, innerSids, pgid, sid, threads } = process;
    const found =
      (process.pid === pid ? innerPids[level] : undefined) ??
      threads.find(({ tid }) => tid === pid)?.innerTids[level] ??
      (pgid === pid ? innerPgids[level] : undefined) ??
      (sid === pid ? innerSids[level] : undefined);
    if (found !== undefined && found !== 0) return found;
  }
  throw invisible(viewer, `number ${pid}`);
}

/** What clone3(2) takes as set_tid: numbers from the innermost namespace outward. */
function setTid(pid: number, inner: readonly number[]): number[] {
  return [...inner].reverse().concat(pid === 0 ? [] : [pid]);
}

/** Further arguments of `fork` and `thread` for what has numbers in nested PID namespaces. */
export function numberArguments(
  b: ProgramBuilder,
  pid: number,
  inner: readonly number[],
): Argument[] {
  if (inner.length === 0) return [];
  if (inner.includes(0)) {
    throw new FerryError(
      'dumpbin.pidNamespace',
      `What had PID ${pid} and has ended was outside of the PID namespace of those it has left behind`,
      { remedy: 'let the leader of a group or session live as long as its members' },
    );
  }
  const numbers = setTid(pid, inner);
  return [b.bytes(Buffer.from(Uint32Array.from(numbers).buffer), 4), numbers.length];
}

function invisible({ pid, comm }: Process, what: string): FerryError {
  return new FerryError(
    'dumpbin.pidNamespace',
    `Process ${pid} (${comm}) has to do with ${what}, which its PID namespace does not show`,
    { remedy: 'end the process that holds on to one outside of its PID namespace' },
  );
}
