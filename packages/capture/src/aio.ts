import type { AioRing, Vma } from '@ferry/image';
import { readMemory } from '@ferry/linux';

const AIO_RING_MAGIC = 0xa10a10a1;

/** What the rings of a stopped process say of themselves (fs/aio.c: struct aio_ring: id, nr, head, tail, magic). */
export function aioRings(hostPid: number, vmas: readonly Vma[]): AioRing[] {
  return vmas
    .filter((vma) => vma.kind === 'aio')
    .flatMap((vma) => {
      const header = readMemory(hostPid, vma.start, 32);
      if (header.readUInt32LE(16) !== AIO_RING_MAGIC) return [];
      return [{ address: vma.start, index: header.readUInt32LE(0), tail: header.readUInt32LE(12) }];
    });
}
