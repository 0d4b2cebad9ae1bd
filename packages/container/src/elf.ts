/** The little of an ELF file that tells how it is started. Layout: elf(5). Pure. */

const ELF_MAGIC = Buffer.from('\x7fELF', 'latin1');
const CLASS_64 = 2;
const PT_DYNAMIC = 2;
const PT_INTERP = 3;
const PROGRAM_HEADER_BYTES = 56;

/** Enough of a file for its headers and the interpreter's name, where linkers put them. */
export const ELF_HEAD_BYTES = 4096;

export interface ElfHead {
  /** It has a dynamic section: it may need libraries. */
  readonly dynamic: boolean;
  /** The dynamic linker that it names; libraries name none. */
  readonly interpreter: string | undefined;
}

/** @param head  the first ELF_HEAD_BYTES of a file, or all of it
 *  @returns undefined for what is no 64-bit ELF file */
export function readElfHead(head: Buffer): ElfHead | undefined {
  if (head.length < 64 || !head.subarray(0, 4).equals(ELF_MAGIC) || head[4] !== CLASS_64)
    return undefined;
  const start = Number(head.readBigUInt64LE(32));
  const count = head.readUInt16LE(56);
  let dynamic = false;
  let interpreter: string | undefined;
  for (let index = 0; index < count; index++) {
    const at = start + index * PROGRAM_HEADER_BYTES;
    if (at + PROGRAM_HEADER_BYTES > head.length) break;
    const type = head.readUInt32LE(at);
    if (type === PT_DYNAMIC) dynamic = true;
    if (type !== PT_INTERP) continue;
    const from = Number(head.readBigUInt64LE(at + 8));
    const length = Number(head.readBigUInt64LE(at + 32));
    interpreter = head.toString('latin1', from, from + length).replace(/\0.*$/s, '');
  }
  return { dynamic, interpreter };
}
