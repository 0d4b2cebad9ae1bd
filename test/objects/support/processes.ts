import { readdirSync, readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';

/** One process for as long as it lives: a pid alone may be given to another one. */
export interface Identity {
  readonly pid: number;
  /** Field 22 of /proc/PID/stat, clock ticks since boot. */
  readonly startTime: string;
}

/** The fields of /proc/PID/stat after the name, so that index 0 is field 3 (state). */
export function statFields(pid: number | string): string[] | undefined {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, 'latin1');
    return text.slice(text.lastIndexOf(')') + 2).split(' ');
  } catch {
    return undefined;
  }
}

export function identify(pid: number): Identity | undefined {
  const fields = statFields(pid);
  return fields === undefined ? undefined : { pid, startTime: fields[19] ?? '' };
}

/** Whether it still runs. A zombie is over, and somebody else has to reap it, unless only its first thread has ended. */
export function isAlive({ pid, startTime }: Identity): boolean {
  const fields = statFields(pid);
  if (fields === undefined || fields[19] !== startTime) return false;
  return fields[0] !== 'Z' || entries(`/proc/${pid}/task`).length > 1;
}

/** The pids of a tree, root first, depth first. Empty when the root is gone. */
export function treeOf(root: number): number[] {
  const pids: number[] = [];
  const visit = (pid: number) => {
    if (statFields(pid) === undefined) return;
    pids.push(pid);
    for (const tid of entries(`/proc/${pid}/task`)) {
      for (const child of text(`/proc/${pid}/task/${tid}/children`).split(' ')) {
        if (child !== '') visit(Number(child));
      }
    }
  };
  visit(root);
  return pids;
}

/** Every living process that a trial in `directory` has started: all of them, and all that they
 *  start, have FERRY_TRIAL in their environment. */
export function marked(directory: string): Identity[] {
  const found: Identity[] = [];
  for (const name of entries('/proc')) {
    const pid = Number(name);
    if (!Number.isInteger(pid) || pid === process.pid) continue;
    const identity = identify(pid);
    const thread = entries(`/proc/${pid}/task`).at(-1) ?? pid;
    const variables = text(`/proc/${pid}/task/${thread}/environ`).split('\0');
    if (!variables.includes(`FERRY_TRIAL=${directory}`)) continue;
    if (identity !== undefined && isAlive(identity)) found.push(identity);
  }
  return found;
}

/** Kills exactly these, or sends them another signal; those only that are still the same process. */
export function killExactly(
  processes: readonly Identity[],
  signal: NodeJS.Signals = 'SIGKILL',
): void {
  for (const identity of processes) {
    if (!isAlive(identity)) continue;
    try {
      process.kill(identity.pid, signal);
    } catch {
      // It ended between the look and the kill.
    }
  }
}

/** Waits until `condition` gives a value other than undefined or false.
 *  @throws when it has not within `timeoutMs`, naming `what` */
export async function until<T>(
  what: string,
  timeoutMs: number,
  condition: () => T | undefined | false,
): Promise<T> {
  const deadline = performance.now() + timeoutMs;
  for (let waitMs = 2; ; waitMs = Math.min(waitMs * 2, 50)) {
    const value = condition();
    if (value !== undefined && value !== false) return value;
    if (performance.now() > deadline) throw new Error(`Waited ${timeoutMs} ms in vain for ${what}`);
    await sleep(waitMs);
  }
}

function entries(path: string): string[] {
  try {
    return readdirSync(path);
  } catch {
    return [];
  }
}

function text(path: string): string {
  try {
    return readFileSync(path, 'latin1');
  } catch {
    return '';
  }
}
