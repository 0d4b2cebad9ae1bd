import { readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';

const root = fileURLToPath(new URL('../../../..', import.meta.url));

/** The sources of a service as a program that starts in a third of the time; gone when this
 *  process ends.
 *  @returns path of its main file */
export async function bundled(service: string): Promise<string> {
  const outdir = join(root, service, 'build', `test-${process.pid}`);
  const names = readdirSync(join(root, 'packages'));
  const alias = names.map((name) => [
    `@ferry/${name}`,
    join(root, 'packages', name, 'src/index.ts'),
  ]);
  const machine = join(root, 'packages/migration/src/controller-machine.ts');
  alias.push(['@ferry/migration/controller-machine', machine]);
  await build({
    entryPoints: [join(root, service, 'src/main.ts')],
    ...{ bundle: true, platform: 'node', target: 'node20', format: 'esm', splitting: true },
    ...{ outdir, outExtension: { '.js': '.mjs' }, packages: 'external', logLevel: 'warning' },
    alias: Object.fromEntries(alias),
  });
  process.once('exit', () => rmSync(outdir, { recursive: true, force: true }));
  return join(outdir, 'main.mjs');
}
