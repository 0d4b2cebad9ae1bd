// Writes docs/coverage.md. Usage: npm run coverage [-- --resume | --results-only]
// Runs the object programs first, in the ways that the page shows: about an hour on two processors. --resume goes on with
// a run that was cut off; --results-only takes the results as they are.
import { spawnSync } from 'node:child_process';
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { ferryRoot } from '@ferry/core';
import { programs } from '../table.js';
import { blockersIn } from './blockers.js';
import { renderCoverage } from './render.js';
import { readResults } from './results.js';

const root = ferryRoot();
const resultsFile = join(root, 'test/build/objects-results.json');

/** The comment at the beginning of a source, as one paragraph. */
function aboutOf(source: string): string {
  const lines = readFileSync(join(root, 'test/objects', `${source}.c`), 'utf8').split('\n');
  const end = lines.findIndex((line) => !line.startsWith('//'));
  return lines
    .slice(0, end)
    .map((line) => line.slice(2).trim())
    .join(' ');
}

if (!process.argv.includes('--results-only')) {
  const mocha = join(root, 'node_modules/mocha/bin/mocha.js');
  if (!process.argv.includes('--resume')) rmSync(resultsFile, { force: true });
  const own = { FERRY_OBJECTS_RESULTS: resultsFile, FERRY_OBJECTS_COVERAGE: '1' };
  const env = { ...process.env, ...own };
  spawnSync(process.execPath, [mocha, 'test/objects/objects.test.ts'], {
    ...{ cwd: root, env, stdio: 'inherit' },
  });
}
const results = readResults(resultsFile);
if (Object.keys(results).length === 0) {
  console.error(`There are no results in ${resultsFile}: run "npm run coverage"`);
  process.exitCode = 1;
} else {
  const blockers = blockersIn([join(root, 'packages'), join(root, 'services')]);
  const text = renderCoverage({ programs, results, blockers, aboutOf });
  writeFileSync(join(root, 'docs/coverage.md'), text);
  console.log(`docs/coverage.md: ${programs.length} programs, ${blockers.length} blockers`);
}
