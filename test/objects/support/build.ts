import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { ferryRoot } from '@ferry/core';

const run = promisify(execFile);

export const objectsFolder = join(ferryRoot(), 'test/objects');
const buildFolder = join(ferryRoot(), 'test/build/objects');

const flags = [
  ...['-D_GNU_SOURCE', '-std=gnu11', '-O1', '-g', '-Wall', '-Wextra', '-Werror', '-pthread'],
];

const underWay = new Map<string, Promise<string>>();

/** Compiles test/objects/SOURCE.c once for each content; returns the program's path.
 *  Safe beside other runs: the result is renamed into place.
 *  @param linking  `static` for programs that run in a container without libraries
 *  @throws with the compiler's words when it fails */
export function build(source: string, linking: 'dynamic' | 'static' = 'dynamic'): Promise<string> {
  const file = join(objectsFolder, `${source}.c`);
  const hash = createHash('sha256').update(flags.join(' ')).update(linking);
  const support = join(objectsFolder, 'support');
  const headers = readdirSync(support).filter((name) => name.endsWith('.h'));
  for (const part of [file, ...headers.sort().map((name) => join(support, name))])
    hash.update(readFileSync(part));
  const name = `${source.replaceAll('/', '-')}-${hash.digest('hex').slice(0, 12)}`;
  const target = join(buildFolder, name);
  let building = underWay.get(target);
  if (building === undefined) {
    building = existsSync(target) ? Promise.resolve(target) : compile(file, target, linking);
    underWay.set(target, building);
  }
  return building;
}

async function compile(file: string, target: string, linking: string): Promise<string> {
  mkdirSync(buildFolder, { recursive: true });
  const temporary = `${target}.${process.pid}`;
  const link = linking === 'static' ? ['-static'] : [];
  await run('cc', [...flags, ...link, '-I', objectsFolder, '-o', temporary, file, '-lrt']);
  renameSync(temporary, target);
  return target;
}
