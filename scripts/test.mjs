// Runs every check and every test, and ends with the line "N passed, N failed".
// Usage: node scripts/test.mjs [--long] [SUITE...]     SUITE: check unit objects programs e2e sim chaos
// Environment: CI=true makes a skipped test a failure; FERRY_TEST_GREP is given to mocha.
import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
process.chdir(root);
const long = process.argv.includes('--long');
const chosen = process.argv.slice(2).filter((argument) => !argument.startsWith('--'));

/** Name, then programs (one check each), or folders whose *.test.ts files one mocha run takes. */
const suites = [
  {
    name: 'check',
    commands: {
      'types (tsc)': ['node_modules/.bin/tsc', '--noEmit', '-p', 'tsconfig.json'],
      'format and lint (biome)': ['node_modules/.bin/biome', 'check', '--error-on-warnings', '.'],
      'promises and switches (oxlint)': [
        'node_modules/.bin/oxlint',
        '--type-aware',
        '--deny-warnings',
      ],
    },
  },
  {
    name: 'unit',
    folders: [...below('packages', 'test'), ...below('services', 'test')],
    minutes: 20,
  },
  { name: 'sim', folders: ['test/sim'], minutes: 5 },
  { name: 'objects', folders: ['test/objects'], minutes: 30 },
  { name: 'programs', folders: ['test/programs'], minutes: 8 },
  { name: 'e2e', folders: ['test/e2e'], minutes: 15 },
  { name: 'chaos', folders: ['test/chaos'], minutes: long ? 90 : 5 },
];
const slowestShown = 15;

function below(folder, name) {
  return readdirSync(folder)
    .map((entry) => join(folder, entry, name))
    .filter((path) => existsSync(path));
}

function testFiles(folders) {
  return folders
    .filter((folder) => existsSync(folder))
    .flatMap((folder) =>
      readdirSync(folder, { recursive: true })
        .filter((file) => file.endsWith('.test.ts') && (long || !file.endsWith('.long.test.ts')))
        .map((file) => join(folder, file)),
    )
    .sort();
}

/** Runs PROGRAM with its output on ours; gives its exit status as text, undefined when that was 0. A program that
 *  outlives `minutes` is told to end, then made to. */
function run(program, args, { minutes = 5, env = {} } = {}) {
  return new Promise((resolve) => {
    const child = spawn(program, args, {
      stdio: ['ignore', 1, 1],
      env: { ...process.env, ...env },
    });
    let late;
    const soft = setTimeout(() => {
      late = `did not end within ${minutes} minutes`;
      child.kill('SIGTERM');
    }, minutes * 60_000);
    const hard = setTimeout(() => child.kill('SIGKILL'), minutes * 60_000 + 20_000);
    const done = (text) => {
      clearTimeout(soft);
      clearTimeout(hard);
      resolve(late ?? text);
    };
    child.on('error', (error) => done(error.message));
    child.on('exit', (code, signal) => {
      done(code === 0 ? undefined : signal === null ? `exit status ${code}` : `ended by ${signal}`);
    });
  });
}

// Nothing here talks to servers of the world; and Node 20 reads and parses these certificates, often 140 of them, at every
// start, which takes half as long again as the start itself.
delete process.env.NODE_EXTRA_CA_CERTS;

const total = { passed: 0, failed: 0, failures: [], skipped: [], slow: [] };

function count(title, ms, failure) {
  total.slow.push({ title, ms });
  if (failure === undefined) total.passed += 1;
  else {
    total.failed += 1;
    total.failures.push(`${title}: ${failure}`);
  }
}

async function runCommands(commands) {
  for (const [title, [program, ...args]] of Object.entries(commands)) {
    const start = performance.now();
    const failure = await run(program, args);
    const ms = Math.round(performance.now() - start);
    count(title, ms, failure);
    console.log(`  ${failure === undefined ? 'ok' : 'FAILED'} ${title} (${ms} ms)`);
  }
}

async function runMocha(name, files, minutes, scratch) {
  const resultFile = join(scratch, `${name}.json`);
  const grep = process.env.FERRY_TEST_GREP;
  const failure = await run(
    process.execPath,
    [
      'node_modules/mocha/bin/mocha.js',
      ...['--reporter', join(root, 'scripts/mocha-reporter.mjs')],
      ...(grep === undefined ? [] : ['--grep', grep]),
      ...files,
    ],
    { minutes, env: { FERRY_TEST_RESULT: resultFile, ...(long ? { FERRY_LONG: '1' } : {}) } },
  );
  const result = existsSync(resultFile) ? JSON.parse(readFileSync(resultFile, 'utf8')) : undefined;
  for (const key of ['failures', 'skipped', 'slow']) total[key].push(...(result?.[key] ?? []));
  total.passed += result?.passed ?? 0;
  total.failed += result?.failed ?? 0;
  // mocha's exit status must agree with what its tests said: anything else is a crash, and a crash is a failure.
  if (result?.finished !== true || (failure !== undefined && result.failed === 0)) {
    count(`suite "${name}"`, 0, `mocha did not finish: ${failure ?? 'it wrote no result'}`);
  } else if (grep === undefined && result.passed + result.failed + result.skipped.length === 0) {
    count(`suite "${name}"`, 0, `its ${files.length} files hold no test`);
  }
}

function report(startedAt) {
  if (process.env.CI === 'true') {
    for (const title of total.skipped) count(title, 0, 'skipped, which CI does not allow');
  }
  console.log(`\nThe slowest ${slowestShown}:`);
  for (const { title, ms } of total.slow.sort((a, b) => b.ms - a.ms).slice(0, slowestShown)) {
    console.log(`  ${String(ms).padStart(7)} ms  ${title}`);
  }
  if (total.skipped.length > 0) console.log(`\nSkipped:\n  ${total.skipped.join('\n  ')}`);
  if (total.failures.length > 0) console.log(`\nFailures:\n\n${total.failures.join('\n\n')}`);
  console.log(`\n${((performance.now() - startedAt) / 60_000).toFixed(1)} minutes in all`);
  console.log(`${total.passed} passed, ${total.failed} failed`);
}

const startedAt = performance.now();
const scratch = mkdtempSync(join(tmpdir(), 'ferry-test-'));
try {
  for (const suite of suites) {
    if (chosen.length > 0 ? !chosen.includes(suite.name) : suite.long && !long) continue;
    const files = testFiles(suite.folders ?? []);
    if (suite.commands === undefined && files.length === 0) continue;
    console.log(`\n== ${suite.name} ==`);
    if (suite.commands !== undefined) await runCommands(suite.commands);
    else await runMocha(suite.name, files, suite.minutes, scratch);
  }
} finally {
  rmSync(scratch, { recursive: true, force: true });
}
if (total.passed + total.failed === 0) count('all suites', 0, 'no test ran');
report(startedAt);
process.exitCode = total.failed === 0 ? 0 : 1;
