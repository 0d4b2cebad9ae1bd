import type { Registers as ImageRegisters } from '@ferry/image';
import { REGISTER_NAMES, type Registers } from '@ferry/linux';

/** Registers in the form of the image. */
export function imageRegisters(registers: Registers): ImageRegisters {
  const out: Record<string, bigint> = {};
  for (const name of REGISTER_NAMES) {
    out[name.replace(/_(\w)/, (_, letter: string) => letter.toUpperCase())] = registers.get(name);
  }
  return out as unknown as ImageRegisters;
}
