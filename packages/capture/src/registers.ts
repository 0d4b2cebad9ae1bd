import type { Registers as ImageRegisters } from '@ferry/image';
import { REGISTER_NAMES, type Registers } from '@ferry/linux';

/** `orig_rax` is `origRax` in the image. */
const IMAGE_NAMES = REGISTER_NAMES.map(
  (name) =>
    [
      name,
      name.replace(/_(\w)/, (_, letter: string) => letter.toUpperCase()) as keyof ImageRegisters,
    ] as const,
);

/** Registers in the form of the image. */
export function imageRegisters(registers: Registers): ImageRegisters {
  const out: Partial<Record<keyof ImageRegisters, bigint>> = {};
  for (const [name, imageName] of IMAGE_NAMES) out[imageName] = registers.get(name);
  return out as ImageRegisters;
}
