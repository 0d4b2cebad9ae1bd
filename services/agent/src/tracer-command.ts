import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { TracerCommand } from '@ferry/migration';

/** The tracer program beside this one: bundled, or as source. */
export function tracerCommand(): TracerCommand {
  const folder = dirname(fileURLToPath(import.meta.url));
  const source = join(folder, 'tracer-main.ts');
  if (existsSync(source)) return { execArgv: ['--import', 'tsx'], script: source };
  return {
    execArgv: [],
    script: join(folder, 'ferry-tracer.mjs'),
  };
}
