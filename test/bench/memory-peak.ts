import { readdirSync, readFileSync, writeFileSync } from 'node:fs';

/** The most memory that an agent held: the high-water mark of its own process, and the highest sum over it and the
 *  programs that work for it (its tracers; not the containers), asked for ten times a second. Bytes. */
export interface MemoryPeak {
  readonly agentBytes: number;
  readonly withHelpersBytes: number;
}

/** Watches the process `pid`; the function that it gives ends the watch. */
export function watchMemory(pid: number): () => MemoryPeak {
  // 5 sets the high-water mark to what is held now. See proc(5), /proc/PID/clear_refs.
  writeFileSync(`/proc/${pid}/clear_refs`, '5');
  let sum = 0;
  const look = (): void => {
    const held = [pid, ...helpersOf(pid)].map((member) => field(member, 'VmRSS'));
    sum = Math.max(
      sum,
      held.reduce((total, bytes) => total + bytes, 0),
    );
  };
  look();
  const timer = setInterval(look, 100);
  return () => {
    clearInterval(timer);
    look();
    const agentBytes = field(pid, 'VmHWM');
    return { agentBytes, withHelpersBytes: Math.max(sum, agentBytes) };
  };
}

/** Descendants that run the same program, node. */
function helpersOf(pid: number): number[] {
  const children = readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .filter((child) => parentOf(child) === pid && /^Name:\s+node/m.test(status(child)));
  return children.flatMap((child) => [child, ...helpersOf(child)]);
}

function parentOf(pid: number): number {
  return Number(/^PPid:\s+(\d+)/m.exec(status(pid))?.[1]);
}

function field(pid: number, name: string): number {
  return Number(new RegExp(`^${name}:\\s+(\\d+)`, 'm').exec(status(pid))?.[1] ?? 0) * 1024;
}

function status(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/status`, 'utf8');
  } catch {
    return '';
  }
}
