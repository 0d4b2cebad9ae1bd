import { refuse } from './common.js';
import type { FileCapture } from './context.js';

const LINK = /^(cgroup|ipc|mnt|net|pid|time|user|uts):\[(\d+)\]$/;

/** /proc/PID/ns/*: of a namespace that the tree's root is in, or that is carried. */
export const namespaceCapture: FileCapture = {
  matches: (descriptor) => LINK.test(descriptor.link),
  capture(descriptor, ctx) {
    const type = LINK.exec(descriptor.link)![1]!;
    const namespaceId = ctx.namespaceId(descriptor.link);
    if (namespaceId !== undefined) {
      return { $case: 'namespace', value: { type, namespaceId } };
    }
    return refuse(descriptor, ctx, {
      code: 'file.namespace',
      reason: 'the tree is not in this namespace, so that it will not exist where it is restored',
      remedy: 'close the descriptor',
    });
  },
};
