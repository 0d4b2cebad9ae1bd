import type { FileObject, TreeImage } from '@ferry/image';
import { withAttributes } from './attributes.js';
import { bpfMapEmitter } from './bpf-map.js';
import { isCovered } from './covered.js';
import { deviceEmitter } from './device.js';
import { directoryEmitter } from './directory.js';
import type { FileEmitter } from './emit.js';
import { epollEmitter, foreignTargets } from './epoll.js';
import { eventfdEmitter } from './eventfd.js';
import { externalEmitter } from './external.js';
import { fifoEmitter } from './fifo.js';
import { inetSocketEmitter } from './inet-socket.js';
import { memfdEmitter } from './memfd.js';
import { messageQueueEmitter } from './message-queue.js';
import { lostOf } from './nameless.js';
import { namespaceEmitter } from './namespace.js';
import { netlinkEmitter } from './netlink.js';
import { fanotifyEmitter, inotifyEmitter } from './notify.js';
import { packetEmitter } from './packet.js';
import { pidfdEmitter } from './pidfd.js';
import { pipeEmitter } from './pipe.js';
import { isProc, procOf } from './proc-file.js';
import { regularEmitter } from './regular.js';
import { signalfdEmitter } from './signalfd.js';
import { terminalEmitter } from './terminal.js';
import { timerfdEmitter } from './timerfd.js';
import { tunEmitter } from './tun.js';
import { unixSocketEmitter } from './unix-socket.js';

export { emitProcessLocks } from './attributes.js';
export { emitQueueNotices } from './message-queue.js';

type Kind = NonNullable<FileObject['kind']>['$case'];

const emitters: Partial<Record<Kind, FileEmitter>> = {
  regular: regularEmitter,
  directory: directoryEmitter,
  device: deviceEmitter,
  pipe: pipeEmitter,
  fifo: fifoEmitter,
  eventfd: eventfdEmitter,
  epoll: epollEmitter,
  timerfd: timerfdEmitter,
  signalfd: signalfdEmitter,
  external: externalEmitter,
  memfd: memfdEmitter,
  namespace: namespaceEmitter,
  pidfd: pidfdEmitter,
  unix: unixSocketEmitter,
  inet: inetSocketEmitter,
  terminal: terminalEmitter,
  inotify: inotifyEmitter,
  fanotify: fanotifyEmitter,
  netlink: netlinkEmitter,
  packet: packetEmitter,
  bpfMap: bpfMapEmitter,
  tun: tunEmitter,
  messageQueue: messageQueueEmitter,
};

/** How each kind of open file is recreated, by the image's case of `kind`. */
export const fileEmitters: Readonly<Record<string, FileEmitter>> = Object.fromEntries(
  Object.entries(emitters).map(([kind, emitter]) => [kind, withAttributes(emitter)]),
);

/** Kinds that one process can open for itself: nothing else in the tree needs to know of them. */
const SOLITARY: ReadonlySet<string> = new Set<Kind>([
  'regular',
  'directory',
  'device',
  'eventfd',
  'signalfd',
  'timerfd',
  'pidfd',
]);

/** Files that their only owner may create for itself. The others are created by the root: what is made together with
 *  others (deleted files of one inode), and what an epoll instance watches under a number that nobody has. */
export function solitaryFiles(image: TreeImage): Set<number> {
  const solitary = new Set<number>();
  for (const file of image.files) {
    const { id, kind } = file;
    if (!SOLITARY.has(kind?.$case ?? '')) continue;
    if (
      lostOf(file) !== undefined ||
      isCovered(file) ||
      isProc(file, image) ||
      (kind?.$case === 'pidfd' && kind.value.ended)
    )
      continue;
    solitary.add(id);
  }
  for (const file of image.files) {
    for (const target of foreignTargets(file, image)) solitary.delete(target.fileId);
  }
  return solitary;
}

/** Files that are opened by a path of the root's mount namespace, and by nothing else. */
export function filesByPath(image: TreeImage): Set<number> {
  const isByPath = (file: FileObject): boolean =>
    ['regular', 'directory'].includes(file.kind?.$case ?? '') &&
    file.mountNamespaceId === 0 &&
    lostOf(file) === undefined &&
    procOf(file) === undefined;
  return new Set(image.files.filter(isByPath).map(({ id }) => id));
}

/** The highest descriptor number that creating files uses besides those that processes end up with. */
export function highestTransientFd(image: TreeImage): number {
  let highest = 0;
  for (const file of image.files) {
    for (const { fd } of foreignTargets(file, image)) highest = Math.max(highest, fd);
  }
  return highest;
}
