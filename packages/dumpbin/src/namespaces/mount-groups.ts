import type { Mount } from '@ferry/image';
import type { CompileContext } from '../compile-context.js';
import type { ProgramBuilder } from '../program.js';
import { emitPropagation, type FdOfMount } from './mounts.js';

const MS = { unbindable: 0x20000, slave: 0x80000, shared: 0x100000 } as const;
const AT_EMPTY_PATH = 0x1000;
const OPEN_TREE_CLONE_CLOEXEC = 0o2000001;
/** MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH | MOVE_MOUNT_SET_GROUP (Linux 5.15) */
const SET_GROUP = 0x144;

/** Members outside of peer groups that reach into the tree, each once, with the descriptor for it. */
export function outerGroups(
  ctx: CompileContext,
  mounts: readonly Mount[],
): { path: string; fd: number }[] {
  const reaching = mounts.filter(({ outerPeerPath }) => outerPeerPath !== '');
  const paths = new Set(reaching.map((mount) => mount.outerPeerPath));
  return [...paths].map((path, i) => ({ path, fd: ctx.peerFd(i) }));
}

/** Shared, slave and unbindable mounts, when all of them stand and are private (mount_namespaces(7)). */
export function emitGroups(
  b: ProgramBuilder,
  ctx: CompileContext,
  mounts: readonly Mount[],
  fd: FdOfMount,
): void {
  const outer = new Map(outerGroups(ctx, mounts).map((peer) => [peer.path, peer.fd]));
  /** Of each group a descriptor of a member that stands. */
  const members = new Map<number, number>();
  for (const mount of mounts) {
    const peer = outer.get(mount.outerPeerPath);
    if (peer === undefined) continue;
    const group = mount.masterGroup === 0 ? mount.sharedGroup : mount.masterGroup;
    members.set(group, peer);
  }
  const left = mounts.filter(
    ({ sharedGroup, masterGroup }) => sharedGroup !== 0 || masterGroup !== 0,
  );
  left.sort((a, b) => a.root.length - b.root.length);
  while (left.length > 0) {
    const ready = left.findIndex(
      ({ masterGroup, sharedGroup }) =>
        members.has(sharedGroup) ||
        masterGroup === 0 ||
        members.has(masterGroup) ||
        !left.some((other) => other.sharedGroup === masterGroup),
    );
    const [mount] = left.splice(Math.max(0, ready), 1);
    emitGroup(b, mount!, members, fd(mount!));
  }
  for (const peer of outer.values()) b.sys('close', [peer], 'close a peer');
  for (const mount of mounts.filter(({ unbindable }) => unbindable)) {
    emitPropagation(b, fd(mount), MS.unbindable, `${mount.mountpoint} unbindable`);
  }
}

function emitGroup(
  b: ProgramBuilder,
  mount: Mount,
  members: Map<number, number>,
  fd: number,
): void {
  const { sharedGroup, masterGroup, mountpoint } = mount;
  const empty = b.cstr('');
  const peer = sharedGroup === 0 ? undefined : members.get(sharedGroup);
  if (peer !== undefined) {
    b.sys('move_mount', [peer, empty, fd, empty, SET_GROUP], `${mountpoint} in its peer group`);
    return;
  }
  const master = masterGroup === 0 ? undefined : members.get(masterGroup);
  if (master !== undefined) {
    const slot = b.slotFor('mount');
    const flags = OPEN_TREE_CLONE_CLOEXEC | AT_EMPTY_PATH;
    b.sys('open_tree', [master, empty, flags], `copy of the master of ${mountpoint}`, {
      into: slot,
    });
    const slave = b.words(0, 0, MS.slave, 0);
    b.sys('mount_setattr', [slot, empty, AT_EMPTY_PATH, slave, 32], `slave for ${mountpoint}`);
    b.sys('move_mount', [slot, empty, fd, empty, SET_GROUP], `${mountpoint} a slave`);
    b.sys('close', [slot], `close the slave for ${mountpoint}`);
  }
  if (sharedGroup !== 0) {
    emitPropagation(b, fd, MS.shared, `${mountpoint} shared`);
    members.set(sharedGroup, fd);
  }
}
