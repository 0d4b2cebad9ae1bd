import type { Blocker } from '@ferry/core';
import type { FileObject } from '@ferry/image';
import type { OwnedFd } from '@ferry/linux';
import type { PidView } from '../pid-view.js';
import type { SocketNetworks } from './socket-networks.js';

/** A process of the tree, as the capture of its descriptors sees it. */
export interface FileOwnerProcess {
  /** Pid in the PID namespace of the tree's root (what the image stores). */
  readonly pid: number;
  /** Pid in our own namespace: for /proc and pidfd_open. */
  readonly hostPid: number;
  readonly command: string;
}

/** One descriptor of one process. */
export interface Descriptor {
  readonly process: FileOwnerProcess;
  readonly fd: number;
  /** readlink of /proc/PID/fd/FD: a path, `pipe:[1234]`, `socket:[99]`, `anon_inode:[eventpoll]`. */
  readonly link: string;
  readonly stat: DescriptorStat;
  /** /proc/PID/fdinfo/FD: the text, and what every kind has in it. */
  readonly info: string;
  readonly position: bigint;
  /** F_GETFL flags, O_CLOEXEC excluded. */
  readonly flags: number;
  readonly closeOnExec: boolean;
  /** A duplicate in our process (pidfd_getfd), made on first use, closed by the tree's capture. */
  dup(): OwnedFd;
}

/** stat(2) of the open file. */
export interface DescriptorStat {
  readonly device: bigint;
  readonly inode: bigint;
  readonly mode: number;
  readonly rdev: bigint;
  readonly size: bigint;
  readonly mtimeNs: bigint;
  readonly links: number;
  readonly uid: number;
  readonly gid: number;
}

/** What a file capture may ask about the rest of the tree. */
export interface FileContext {
  /** The tree, parents before children. */
  readonly processes: readonly FileOwnerProcess[];
  /** How the tree's PID namespaces number processes. */
  readonly pids: PidView;
  /** True in the scan before the freeze: nothing that changes or consumes state may be done, and content need not be
   *  read. The result is thrown away; only blockers count. */
  readonly scanning: boolean;
  /** Inodes of pipes that are known to lead to whoever started the tree (a container's log). */
  readonly externalInodes: readonly bigint[];
  /** Which network namespaces sockets belong to. */
  readonly networks: Pick<SocketNetworks, 'of'>;
  /** What the image calls a namespace ("net:[4026531840]"): 0 when the root is in it, undefined when it is not carried. */
  namespaceId(link: string): number | undefined;
  /** The file object id of a descriptor of the tree (kcmp-identified); undefined when that process has no such fd.
   *  Used for epoll targets and the like. All descriptors are identified before the first capture. */
  idOf(pid: number, fd: number): number | undefined;
  /** All descriptors of the tree, one per open file description (the first that was found). */
  readonly descriptions: readonly { id: number; descriptor: Descriptor }[];
  /** How many descriptors in the tree refer to a description. */
  referencesTo(id: number): number;
  /** The first descriptor of a description. */
  descriptorOf(id: number): Descriptor;
  /** All descriptors of the tree that refer to a description; none for an adopted one. */
  holdersOf(id: number): readonly Descriptor[];
  /** Descriptions of one inode, as stat(2) numbers it: both ends of a pipe, a file opened twice. */
  idsOfInode(device: bigint, inode: bigint): readonly number[];
  /** Allocates an id for a description found elsewhere than in a descriptor table (in flight in a UNIX socket). */
  adopt(descriptor: Descriptor): number;
  /** Registers something that must be undone when the tree is thawed or killed (TCP_REPAIR off). `killed`: the tree
   *  is gone and only the duplicate is left. */
  onRelease(action: (outcome: 'thawed' | 'killed') => void): void;
  /** One value per capture, made on first use (socket tables from sock_diag). */
  shared<T>(key: string, make: () => T): T;
  /** Has something looked at once the image is there, on which it does not depend: what blocks then is told like the rest,
   *  before anything that was restored may run. */
  checkLater(check: () => void): void;
  /** Reports what cannot be carried. */
  block(blocker: Omit<Blocker, 'pid' | 'command'>, descriptor: Pick<Descriptor, 'process'>): void;
  /** Tells that something of a description cannot be carried which a program does not rely on: messages that it has not
   *  read and that nobody can send again, of kinds that may be lost anyway. It gets a moment to read them first, unless
   *  that does not help. */
  lose(what: string, descriptor: Descriptor, options?: { readonly passes: boolean }): void;
  /** Id of the shared memory object behind a memfd or shared file: for `Memfd`. */
  sharedMemoryId(device: bigint, inode: bigint, kind: string, name: string, fd: OwnedFd): number;
}

/** Captures one kind of open file description. */
export interface FileCapture {
  /** Is this descriptor of my kind? */
  matches(descriptor: Descriptor): boolean;
  /** What it is; undefined after `ctx.block`. Must leave the object as it was found (peek, never read), or register
   *  an undo. In a scan nothing is stopped: be quick and change nothing. */
  capture(descriptor: Descriptor, ctx: FileContext): FileObject['kind'];
}
