import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const HEADER_BYTES = 52;
const SEGMENT_BYTES = 32;
const ADDRESS = 0x10000;
/** mov $1, %eax; xor %ebx, %ebx; int $0x80: exit(0). */
const CODE = [0xb8, 1, 0, 0, 0, 0x31, 0xdb, 0xcd, 0x80];

/** Whether 32-bit programs run here: kernels may be built without them, and some hypervisors (PVM) refuse them whatever the
 *  kernel says. Tried with one that does nothing. */
export function runs32BitPrograms(): boolean {
  const folder = mkdtempSync(join(tmpdir(), 'ferry-compat-'));
  try {
    const path = join(folder, 'program');
    writeFileSync(path, program(), { mode: 0o755 });
    return spawnSync(path).status === 0;
  } finally {
    rmSync(folder, { recursive: true });
  }
}

/** elf(5): one segment, mapped whole, executable. */
function program(): Buffer {
  const start = HEADER_BYTES + SEGMENT_BYTES;
  const bytes = Buffer.alloc(start + CODE.length);
  Buffer.from([0x7f, 0x45, 0x4c, 0x46, 1, 1, 1]).copy(bytes);
  bytes.writeUInt16LE(2, 16); // ET_EXEC
  bytes.writeUInt16LE(3, 18); // EM_386
  bytes.writeUInt32LE(1, 20);
  bytes.writeUInt32LE(ADDRESS + start, 24);
  bytes.writeUInt32LE(HEADER_BYTES, 28);
  bytes.writeUInt16LE(HEADER_BYTES, 40);
  bytes.writeUInt16LE(SEGMENT_BYTES, 42);
  bytes.writeUInt16LE(1, 44);
  const segment = [1, 0, ADDRESS, ADDRESS, bytes.length, bytes.length, 5, 4096];
  segment.forEach((word, i) => {
    bytes.writeUInt32LE(word, HEADER_BYTES + i * 4);
  });
  Buffer.from(CODE).copy(bytes, start);
  return bytes;
}
