import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { FerryError, ferryRoot } from '@ferry/core';

/** The restorer's code: position independent, runs wherever it is copied. */
export interface Restorer {
  /** Code, constants, zeroed variables and stack; a multiple of the page size. */
  readonly blob: Buffer;
  /** Offset of `run_program` in it. */
  readonly runProgram: number;
}

let loaded: Restorer | undefined;

/** The restorer that the build made. Read once. */
export function restorer(): Restorer {
  if (loaded !== undefined) return loaded;
  const folder = join(ferryRoot(), 'packages', 'dumpbin', 'build');
  if (!existsSync(join(folder, 'restorer.bin'))) {
    throw new FerryError('setup.restorer', `The restorer is not built (${folder} is missing)`, {
      remedy: 'run "npm run setup" as root, then "npm run build"',
    });
  }
  const blob = readFileSync(join(folder, 'restorer.bin'));
  const symbols = readFileSync(join(folder, 'symbols.txt'), 'utf8');
  const runProgram = /^([0-9a-f]+) T run_program$/m.exec(symbols)?.[1];
  if (runProgram === undefined || blob.length % 4096 !== 0) {
    throw new FerryError('setup.restorer', 'The restorer in packages/dumpbin/build is damaged', {
      remedy: 'run "npm run build"',
    });
  }
  loaded = { blob, runProgram: Number.parseInt(runProgram, 16) };
  return loaded;
}
