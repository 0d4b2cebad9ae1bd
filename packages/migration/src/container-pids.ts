import { readFileSync } from 'node:fs';
import { FerryError } from '@ferry/core';

/** Finds processes of a container by their PID inside it. Only PIDs of its own cgroup can be found, whatever a peer
 *  asks for. */
export class ContainerPids {
  readonly #hostPids: ReadonlyMap<number, number>;

  /** @param hostPids  of the container's cgroup */
  constructor(hostPids: readonly number[]) {
    const byPid = new Map<number, number>();
    for (const hostPid of hostPids) {
      const pid = innerPid(hostPid);
      if (pid !== undefined) byPid.set(pid, hostPid);
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

/** The last number of NSpid, proc_pid_status(5); undefined when the process is gone. */
function innerPid(hostPid: number): number | undefined {
  let status: string;
  try {
    status = readFileSync(`/proc/${hostPid}/status`, 'utf8');
  } catch {
    return undefined;
  }
  const numbers = /^NSpid:\s+(.*)$/m.exec(status)?.[1]?.split(/\s+/);
  return numbers === undefined ? undefined : Number(numbers.at(-1));
}
