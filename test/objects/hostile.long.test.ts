import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { chmodSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { FerryError } from '@ferry/core';
import { compileSkeleton, compileTree, restorer } from '@ferry/dumpbin';
import { decodeTree, decodeTreeFile, encodeTreeFile, TREE_FILE, TreeImage } from '@ferry/image';
import { dumpOf } from './support/direct.js';
import { dumpAway, inTrial, startProgram } from './support/flavours.js';
import { Dice, mutateBytes, mutateMessage } from './support/mutate.js';
import { marked } from './support/processes.js';
import { programs } from './table.js';

// FERRY_SEED=n   other mutations than those of seed 1
const seed = Number(process.env.FERRY_SEED ?? 1);
const treesPerProgram = 1200;
const binaries = 2000;
const binaryTimeoutMs = 10_000;
const growthMax = 1 << 30;
/** Programs whose images together have most kinds of objects. */
const sources = [
  ...['unix-more', 'tcp-established', 'descriptors-more', 'terminals', 'files-deleted'],
  ...['memory-hugetlb-memfd', 'posix-timers', 'seccomp', 'sessions', 'notify', 'mqueue-unnamed'],
];

/** What an image from outside may come to: it is compiled, or refused with words. */
function compileHostile(decode: () => TreeImage): 'refused' | 'compiled' {
  try {
    const image = decode();
    compileTree(image, { pages: 'embedded', restorer: restorer() });
    compileSkeleton(image, { restorer: restorer() });
    return 'compiled';
  } catch (error) {
    if (error instanceof FerryError) return 'refused';
    throw error;
  }
}

/** Some numbers do not fit into their fields: then the message stays as it is, but for its first bytes. */
function mutatedMessage(bytes: Buffer, dice: Dice): Uint8Array {
  const image = TreeImage.decode(bytes);
  mutateMessage(image, dice);
  try {
    return TreeImage.encode(image).finish();
  } catch {
    return mutateBytes(bytes, dice);
  }
}

/** Goes on after a failure, to tell how many there are of each kind. */
function collect(failures: Map<string, string>, label: string, body: () => void): void {
  try {
    body();
  } catch (error) {
    const { message, stack = '' } = error as Error;
    if (process.env.FERRY_STACK !== undefined)
      console.log(stack.split('\n').slice(0, 8).join('\n'));
    const place = /\((?:file:\/\/)?([^()]*packages[^()]*)\)/.exec(stack)?.[1] ?? message;
    if (!failures.has(place)) failures.set(place, `${label}: ${message}`);
  }
}

function report(failures: ReadonlyMap<string, string>): void {
  const lines = [...failures].map(([place, what]) => `${what}\n    ${place}`);
  assert.equal(failures.size, 0, `${failures.size} kinds of failures:\n${lines.join('\n')}`);
}

describe('hostile images', function () {
  this.timeout(15 * 60_000);

  for (const name of sources) {
    it(`${name}: ${treesPerProgram} mutations of its image are compiled or refused`, () => {
      const program = programs.find((candidate) => candidate.name === name)!;
      return inTrial(`hostile ${name}`, async (trial) => {
        await startProgram(trial, program);
        if (trial.has('result')) return { skipped: trial.read('result') };
        await dumpAway(trial);
        const good = decodeTreeFile(readFileSync(join(trial.image, TREE_FILE)), 'good');
        assert.equal(
          compileHostile(() => good),
          'compiled',
        );
        const bytes = Buffer.from(TreeImage.encode(good).finish());
        const failures = new Map<string, string>();
        const before = process.memoryUsage().rss;
        for (let i = 0; i < treesPerProgram; i++) {
          const dice = new Dice(seed * 1_000_003 + i);
          collect(failures, `seed ${seed}, mutation ${i}`, () => {
            compileHostile(() => {
              if (i % 2 === 0) return decodeTree(mutateBytes(bytes, dice), 'hostile');
              return decodeTree(mutatedMessage(bytes, dice), 'hostile');
            });
          });
        }
        report(failures);
        const grown = process.memoryUsage().rss - before;
        assert.ok(grown < growthMax, `the memory has grown by ${grown} bytes`);
        return {};
      });
    });
  }

  it('a file of an image that was changed anywhere is refused', () =>
    inTrial('hostile file', async (trial) => {
      await startProgram(trial, programs.find(({ name }) => name === 'unix-pairs')!);
      await dumpAway(trial);
      const good = readFileSync(join(trial.image, TREE_FILE));
      assert.deepEqual(encodeTreeFile(decodeTreeFile(good, 'good')), good);
      for (let i = 0; i < treesPerProgram; i++) {
        const bad = mutateBytes(good, new Dice(seed * 7_000_003 + i));
        if (!bad.equals(good)) assert.throws(() => decodeTreeFile(bad, 'bad'), FerryError);
      }
      return {};
    }));

  it(`${binaries} changed dump binaries start nothing`, () =>
    inTrial('hostile binaries', async (trial) => {
      await startProgram(trial, programs.find(({ name }) => name === 'fork-tree')!);
      await dumpAway(trial);
      const path = dumpOf(trial);
      const good = readFileSync(path);
      const env = { FERRY_TRIAL: trial.directory };
      const failures = new Map<string, string>();
      for (let i = 0; i < binaries; i++) {
        const bad = mutateBytes(good, new Dice(seed * 9_000_011 + i));
        if (bad.equals(good)) continue;
        writeFileSync(path, bad);
        chmodSync(path, 0o700);
        const outcome = spawnSync(path, ['--detach'], { env, timeout: binaryTimeoutMs });
        collect(failures, `seed ${seed}, mutation ${i}`, () => {
          const { status, signal, error } = outcome;
          assert.notEqual(status, 0, 'it was started');
          const hung = (error as NodeJS.ErrnoException | undefined)?.code === 'ETIMEDOUT';
          assert.ok(!hung, `it did not end: ${signal}`);
          assert.deepEqual(marked(trial.directory), [], 'processes are left');
        });
      }
      report(failures);
      return {};
    }));
});
