import type { FileObject, TreeImage, TunQueue } from '@ferry/image';
import { emitTunInterface, parseLinks } from '../namespaces/links.js';
import { emitTunDevice } from '../namespaces/network.js';
import type { ProgramBuilder, Slot } from '../program.js';
import { openFlags } from './common.js';
import type { FileEmitter } from './emit.js';

const TUN = {
  setOffload: 0x400454d0,
  setPersist: 0x400454cb,
  setSendBuffer: 0x400454d4,
  setHeaderLength: 0x400454d8,
  setQueue: 0x400454d9,
  setLittleEndian: 0x400454dc,
  setBigEndian: 0x400454de,
} as const;
const IFF_DETACH_QUEUE = 0x400;

/** Queues of tun and tap devices. A device of a carried network namespace stands already, and persists until its queue is
 *  there; any other one is made by its first queue. */
export const tunEmitter: FileEmitter = {
  create(b, file, ctx) {
    const queue = queueOf(file);
    const slot = b.slotFor('file');
    b.sys('open', [b.cstr(queue.path), openFlags(file.flags), 0], `open ${queue.path}`, {
      into: slot,
    });
    if (queue.link.length > 0) {
      const [link] = parseLinks([queue.link]);
      const isCarried = hasCarriedNetwork(ctx.image, file.networkNamespaceId);
      const isFirst = ctx.once(`tun ${file.networkNamespaceId} ${link!.name}`);
      emitTunInterface(b, slot, link!);
      emitSettings(b, slot, queue, `queue of ${link!.name}`);
      if (isFirst && !isCarried) emitTunDevice(b, queue);
      if (isCarried !== queue.persistent) {
        const step = `persistence of ${link!.name}`;
        b.sys('ioctl', [slot, TUN.setPersist, queue.persistent ? 1 : 0], step);
      }
    }
    b.moveFd(slot, ctx.fdOf(file.id), `queue ${file.id} of a tun device`);
  },
};

function queueOf({ id, kind }: FileObject): TunQueue {
  if (kind?.$case !== 'tun') throw new TypeError(`File ${id} is no queue of a tun device`);
  return kind.value;
}

/** @param id  Namespace.id; 0: the root's, which may be carried or given */
function hasCarriedNetwork(image: TreeImage, id: number): boolean {
  if (id !== 0) return true;
  const root = image.processes.find(({ pid }) => pid === image.rootPid);
  return image.namespaces.some(
    (space) => space.type === 'net' && root?.namespaceIds.includes(space.id),
  );
}

function emitSettings(b: ProgramBuilder, slot: Slot, queue: TunQueue, step: string): void {
  const set = (command: number, value: number, what: string): void => {
    const word = Buffer.alloc(4);
    word.writeUInt32LE(value);
    b.sys('ioctl', [slot, command, b.bytes(word)], `${step}: ${what}`);
  };
  set(TUN.setSendBuffer, queue.sendBuffer, 'send buffer');
  if (queue.headerLength > 0) set(TUN.setHeaderLength, queue.headerLength, 'header');
  if (queue.littleEndian) set(TUN.setLittleEndian, 1, 'little endian');
  if (queue.bigEndian) set(TUN.setBigEndian, 1, 'big endian');
  if (queue.offload !== 0)
    b.sys('ioctl', [slot, TUN.setOffload, queue.offload], `${step}: offload`);
  if (!queue.detached) return;
  const request = Buffer.alloc(40);
  request.writeUInt16LE(IFF_DETACH_QUEUE, 16);
  b.sys('ioctl', [slot, TUN.setQueue, b.bytes(request)], `${step}: detach`);
}
