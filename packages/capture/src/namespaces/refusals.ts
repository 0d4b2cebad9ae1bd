import type { Blocker } from '@ferry/core';
import { readProc } from '@ferry/linux';

/** Why something of a namespace is not carried, before it is said of which process. */
export type Found = Omit<Blocker, 'pid' | 'command'>;

export function outsideBlocker(type: string, link: string): Found {
  return {
    code: `namespace.${type}`,
    object: `${type} namespace ${link}`,
    reason: 'it is a namespace outside the tree, which the root of the tree has left',
    remedy: 'start the program after its parent has made its namespaces, or dump it by itself',
  };
}

export function nestedBlocker(type: string, link: string): Found {
  return {
    code: `namespace.${type}`,
    object: `${type} namespace ${link}`,
    reason: 'namespaces of this type nested inside the tree are not carried yet',
    remedy: 'run that program without namespaces of its own, or in a container of its own',
  };
}

export function namedBlocker(of: { link: string; mountpoint: string; isUsed: boolean }): Found {
  const { link, mountpoint, isUsed } = of;
  return {
    code: 'mount.namespace',
    object: `mount at ${mountpoint}`,
    reason: isUsed
      ? `it is a name of ${link} (ip netns add), which is not carried yet`
      : `it alone keeps ${link} (ip netns add) for the tree, which is not carried yet`,
    remedy: isUsed
      ? 'unmount it (ip netns del); the namespace lives on with its processes'
      : 'unmount it (ip netns del), and make it again afterwards',
  };
}

/** System V shared memory of a nested IPC namespace. */
export function nestedSegments(link: string): Found[] {
  const [, ...rows] = readProc('/proc/sysvipc/shm').trim().split('\n');
  if (rows.length === 0) return [];
  return [
    {
      code: 'namespace.ipc',
      object: `ipc namespace ${link}: ${rows.length} segments of System V shared memory`,
      reason: 'those of a nested IPC namespace are not carried yet',
      remedy:
        'remove them (ipcrm -m), let the program use the IPC namespace of the tree, or POSIX shared ' +
        'memory (PostgreSQL: shared_memory_type=mmap)',
    },
  ];
}
