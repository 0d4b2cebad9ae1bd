import { readLink } from '@ferry/linux';
import { refuse } from './common.js';
import type { FileCapture } from './context.js';

const LINK = /^(cgroup|ipc|mnt|net|pid|time|user|uts):\[(\d+)\]$/;

/** /proc/PID/ns/*: carried when it is a namespace that the tree itself is in. */
export const namespaceCapture: FileCapture = {
  matches: (descriptor) => LINK.test(descriptor.link),
  capture(descriptor, ctx) {
    const type = LINK.exec(descriptor.link)![1]!;
    const root = ctx.processes[0]!.hostPid;
    if (readLink(`/proc/${root}/ns/${type}`) === descriptor.link) {
      return { $case: 'namespace', value: { type } };
    }
    return refuse(descriptor, ctx, {
      code: 'file.namespace',
      reason: 'the tree is not in this namespace, so that it will not exist where it is restored',
      remedy: 'close the descriptor',
    });
  },
};
