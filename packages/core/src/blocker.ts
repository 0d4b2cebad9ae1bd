/** Something that cannot be carried, found before anything is frozen. */
export interface Blocker {
  /** Stable, for programs: `file.ioUring`, `memory.userfaultfd`, `process.traced`. */
  readonly code: string;
  /** As the host numbers it: what an operator finds with ps. */
  readonly pid: number;
  readonly command: string;
  /** What it is: `descriptor 7 -> anon_inode:[io_uring]`, `mapping 7f0000000000-7f0000001000 (/dev/fb0)`. */
  readonly object: string;
  readonly reason: string;
  /** What the operator can do about it: a setting, an environment variable, a flag. */
  readonly remedy: string;
}

/** One line for people. */
export function blockerText(blocker: Blocker): string {
  const { pid, command, object, reason, remedy } = blocker;
  return `Process ${pid} (${command}), ${object}: ${reason}. Remedy: ${remedy}`;
}
