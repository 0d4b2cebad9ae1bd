import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  realpathSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { run } from './shell.js';

/** Makes a root filesystem in `folder` from programs of this machine and the libraries they need, at the paths where
 *  they lie here; with the usual empty folders, and users root and nobody.
 *  @param programs  absolute paths
 *  @param extra     more files of this machine (scripts, modules), copied to the same paths */
export async function makeRootfs(
  folder: string,
  programs: readonly string[],
  extra: readonly string[] = [],
): Promise<void> {
  for (const name of ['proc', 'sys', 'dev', 'etc', 'tmp', 'run', 'data', 'usr/bin']) {
    mkdirSync(join(folder, name), { recursive: true });
  }
  chmodSync(join(folder, 'tmp'), 0o1777);
  chmodSync(join(folder, 'data'), 0o777);
  const users = 'root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n';
  writeFileSync(join(folder, 'etc/passwd'), users);
  writeFileSync(join(folder, 'etc/group'), 'root:x:0:\nnogroup:x:65534:\n');
  const files = new Set<string>([...programs, ...extra]);
  for (const program of programs) {
    for (const library of await librariesOf(program)) files.add(library);
  }
  for (const file of files) {
    const target = join(folder, file);
    mkdirSync(dirname(target), { recursive: true });
    if (!existsSync(target)) copyFileSync(realpathSync(file), target);
  }
}

/** The shared libraries of a program, the dynamic loader among them; none for a static one. See ldd(1). */
async function librariesOf(program: string): Promise<string[]> {
  const text = await run('ldd', [program]).catch((error: unknown) => {
    // ldd prints "not a dynamic executable" and ends with 1.
    if (String(error).includes('not a dynamic executable')) return '';
    throw error;
  });
  return text
    .split('\n')
    .map((line) => /(?:=>\s+)?(\/\S+)\s+\(0x/.exec(line)?.[1])
    .filter((path) => path !== undefined);
}
