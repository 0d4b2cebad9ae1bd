import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { FerryError } from './errors.js';

/** The project's root folder, found upwards from this module, from sources and from bundles alike (both lie below
 *  the folder with `package.json` and `proto/`). `FERRY_ROOT` overrides it for installations laid out otherwise. */
export function ferryRoot(): string {
  const fixed = process.env.FERRY_ROOT;
  if (fixed !== undefined && fixed !== '') return fixed;
  let folder = dirname(fileURLToPath(import.meta.url));
  while (!existsSync(join(folder, 'proto', 'ferry'))) {
    const parent = dirname(folder);
    if (parent === folder) {
      throw new FerryError('setup.root', 'The Ferry installation folder was not found', {
        remedy: 'set FERRY_ROOT to the folder that holds package.json and proto/',
      });
    }
    folder = parent;
  }
  return folder;
}
