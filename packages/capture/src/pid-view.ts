import { ProcStatus, tryReadProc } from '@ferry/linux';

export type NumberName = 'NStgid' | 'NSpgid' | 'NSsid';

/** The numbers that processes, groups and sessions have in the PID namespace of the tree's root and in those nested in
 *  it. /proc/PID/status lists them from ours inward (proc_pid_status(5)). Lives for one look at the tree, in which none of
 *  them changes. */
export class PidView {
  readonly #statuses = new Map<number, ProcStatus>();
  /** How far inward the root's number stands. */
  readonly #level: number;

  constructor(rootHostPid: number) {
    const { length } = this.#list(rootHostPid, 'NStgid').trim().split(/\s+/);
    this.#level = length - 1;
  }

  /** What the image calls a process; 0 when the root's namespace has no number for it. */
  outer(hostPid: number, name: NumberName = 'NStgid'): number {
    return this.split(this.#list(hostPid, name)).outer;
  }

  /** Its numbers in the namespaces below the root's, the innermost last. */
  inner(hostPid: number, name: NumberName = 'NStgid'): number[] {
    return this.split(this.#list(hostPid, name)).inner;
  }

  /** Both for what a status file says of a task ("4242 17"). */
  split(list: string): { outer: number; inner: number[] } {
    const numbers = list === '' ? [] : list.trim().split(/\s+/).map(Number);
    return { outer: numbers[this.#level] ?? 0, inner: numbers.slice(this.#level + 1) };
  }

  #list(hostPid: number, name: NumberName): string {
    return this.status(hostPid).get(name) ?? '';
  }

  /** What /proc/PID/status says, the first time that it is asked; nothing of a process that is gone. */
  status(hostPid: number): ProcStatus {
    let status = this.#statuses.get(hostPid);
    if (status === undefined) {
      status = new ProcStatus(tryReadProc(`/proc/${hostPid}/status`) ?? '');
      this.#statuses.set(hostPid, status);
    }
    return status;
  }
}
