import { FerryError } from '@ferry/core';
import type { Process, TreeImage } from '@ferry/image';
import type { CompileContext } from '../compile-context.js';
import { emitIdentity } from '../credential-steps.js';
import { emitLimits } from '../process-steps.js';
import type { ProgramBuilder } from '../program.js';
import { emitScheduling } from '../thread-steps.js';
import { CLONE } from './clone-flags.js';

const PR_SET_DUMPABLE = 4;
/** Limits that would stand in the way of what follows. */
const LATER: ReadonlySet<number> = new Set([6, 7]);

/** The user namespace below the root's that a process is in; 0: the root's. */
export function userSpaceOf(image: TreeImage, { namespaceIds }: Process): number {
  const ofRoot = new Set(image.processes[0]?.namespaceIds);
  return (
    image.namespaces.find(
      ({ id, type }) => type === 'user' && namespaceIds.includes(id) && !ofRoot.has(id),
    )?.id ?? 0
  );
}

/** Enters the user namespace of a process, which may have one thread only. It gives all capabilities there and takes those
 *  outside: what needs them is done first, and so is what is told in numbers from outside. */
export function emitEnterUser(b: ProgramBuilder, process: Process, ctx: CompileContext): void {
  const space = userSpaceOf(ctx.image, process);
  if (space === 0) return;
  const { pid, comm, fsOwnerPid, threads } = process;
  const shares = ctx.image.processes.some((other) => other.fsOwnerPid === pid);
  if (fsOwnerPid !== 0 || shares) {
    throw new FerryError(
      'dumpbin.userNamespace',
      `Process ${pid} (${comm}) in a user namespace shares its working directory with another one`,
      { remedy: 'run it without sharing (CLONE_FS)' },
    );
  }
  const leader = threads[0]!;
  const who = `process ${pid}`;
  emitScheduling(b, leader, who);
  emitLimits(b, { rlimits: process.rlimits.filter(({ resource }) => !LATER.has(resource)) });
  emitIdentity(b, leader.credentials!, who);
  b.sys('setns', [ctx.spaceFd(space), CLONE.user!], `${who}: enter user namespace ${space}`);
  // So that it may use what /proc has of it.
  b.sys('prctl', [PR_SET_DUMPABLE, 1], `${who}: dumpable meanwhile`);
}
