import { readFileSync } from 'node:fs';
import { FerryError } from '@ferry/core';
import { livingTask } from '@ferry/linux';

/** Finds processes of a container by their PID inside it. Only PIDs of its own cgroup can be found, whatever a peer
 *  asks for. */
export class ContainerPids {
  readonly #hostPids: ReadonlyMap<number, number>;

  /** @param hostPids  of the container's cgroup */
  constructor(hostPids: readonly number[]) {
    const numbers = hostPids.map((hostPid) => numbersOf(hostPid));
    // The first process of the container is in no PID namespace further in.
    const level = Math.min(
      ...numbers.filter(({ length }) => length > 0).map(({ length }) => length),
    );
    const byPid = new Map<number, number>();
    for (const [i, hostPid] of hostPids.entries()) {
      const pid = numbers[i]?.[level - 1];
      if (pid !== undefined) byPid.set(pid, livingTask(hostPid));
    }
    this.#hostPids = byPid;
  }

  /** @throws FerryError restore.noProcess */
  hostPid(pid: number): number {
    const found = this.#hostPids.get(pid);
    if (found !== undefined) return found;
    throw new FerryError('restore.noProcess', `The restored container has no process ${pid}`);
  }
}

/** NSpid of proc_pid_status(5), our own number first; none when the process is gone. */
function numbersOf(hostPid: number): number[] {
  let status: string;
  try {
    status = readFileSync(`/proc/${hostPid}/status`, 'utf8');
  } catch {
    return [];
  }
  return /^NSpid:\s+(.*)$/m.exec(status)?.[1]?.trim().split(/\s+/).map(Number) ?? [];
}
