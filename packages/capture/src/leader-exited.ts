import type { Blocker } from '@ferry/core';

export const LEADER_EXITED = 'process.leaderExited';

/** The blocker of a process that runs on without its first thread: /proc shows nothing of such a process but its threads. */
export function leaderExited(pid: number, command: string): Blocker {
  return {
    code: LEADER_EXITED,
    pid,
    command,
    object: 'its first thread',
    reason: 'it has ended while others run on, which cannot be carried yet',
    remedy:
      'let the first thread wait for the others (pthread_join instead of pthread_exit in main)',
  };
}
