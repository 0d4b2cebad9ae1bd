import assert from 'node:assert/strict';
import { chmodSync, existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { build } from './support/build.js';
import { DirectRestore, dumpOf, exeOf } from './support/direct.js';
import { describeOutcome, ferry, ferryCommand, type Outcome, run } from './support/engine.js';
import { dumpAway, inTrial, sourceOf, startProgram } from './support/flavours.js';
import { identify, marked, statFields, until } from './support/processes.js';
import type { Trial } from './support/trial.js';
import { type ObjectProgram, programs } from './table.js';

const testTimeoutMs = 90_000;
const direct = programs.filter((program) => program.isDirect ?? false);

/** Dumps a program away; returns what its executable was called. */
async function dumped(trial: Trial, program: ObjectProgram): Promise<string> {
  await startProgram(trial, program);
  const original = exeOf(trial.pid);
  assert.ok(original !== undefined, 'the program runs before the dump');
  await dumpAway(trial);
  return original;
}

async function dumpedSimple(trial: Trial): Promise<string> {
  return dumped(trial, programs.find((program) => program.name === 'memory-private')!);
}

describe('dump binaries, executed directly', function () {
  this.timeout(testTimeoutMs);

  for (const program of direct) {
    it(`restores ${program.name}, forwards its signal, ends with its status`, () =>
      inTrial(`direct ${program.name}`, async (trial) => {
        const original = await dumped(trial, program);
        await using restored = await DirectRestore.start(trial, original);
        assert.notEqual(restored.pid, trial.pid, 'the dump binary got another pid of its own');
        await trial.verdict(restored.pid);
        assert.deepEqual(await restored.ended(), { code: 0, signal: null });
        await trial.nothingLeft();
        return {};
      }));
  }

  it('ends as the restored process ends when a signal kills it', () =>
    inTrial('direct killed', async (trial) => {
      const original = await dumpedSimple(trial);
      await using restored = await DirectRestore.start(trial, original);
      restored.signal('SIGTERM');
      const { code, signal } = await restored.ended();
      const asExpected = signal === 'SIGTERM' || code === 128 + 15;
      assert.ok(asExpected, `the proxy ended with ${signal ?? code}, want SIGTERM or 143`);
      await trial.nothingLeft();
      return {};
    }));

  it('ends as the restored process ends when it is killed from elsewhere', () =>
    inTrial('direct killed elsewhere', async (trial) => {
      const original = await dumpedSimple(trial);
      await using restored = await DirectRestore.start(trial, original);
      const identity = identify(trial.pid);
      assert.ok(identity !== undefined);
      process.kill(identity.pid, 'SIGKILL');
      const { code, signal } = await restored.ended();
      assert.ok(signal === 'SIGKILL' || code === 128 + 9, `the proxy ended with ${signal ?? code}`);
      return {};
    }));

  it('tells what it holds with --info', () =>
    inTrial('direct info', async (trial) => {
      const original = await dumpedSimple(trial);
      const outcome = await run([dumpOf(trial), '--info'], trial.log);
      assert.equal(outcome.code, 0, describeOutcome('--info', outcome));
      assert.match(outcome.stdout, new RegExp(`\\b${trial.pid}\\b`), 'the pid');
      const name = original.slice(original.lastIndexOf('/') + 1, original.lastIndexOf('/') + 16);
      assert.ok(outcome.stdout.includes(name), `${outcome.stdout} names ${name}`);
      assert.equal(statFields(trial.pid), undefined, '--info started nothing');
      return {};
    }));

  it('finds itself intact with --verify', () =>
    inTrial('direct verify', async (trial) => {
      await dumpedSimple(trial);
      const outcome = await run([dumpOf(trial), '--verify'], trial.log);
      assert.equal(outcome.code, 0, describeOutcome('--verify', outcome));
      assert.equal(statFields(trial.pid), undefined, '--verify started nothing');
      return {};
    }));
});

/** Places in a dump binary, as shares of its length; the file's first page and last byte too. */
const damages: readonly { readonly where: string; readonly at: (length: number) => number }[] = [
  { where: 'the ELF header', at: () => 24 },
  { where: 'the program headers', at: () => 64 + 16 },
  ...[1, 5, 10, 25, 50, 75, 90, 99].map((percent) => ({
    where: `${percent} % of the file`,
    at: (length: number) => Math.floor((length * percent) / 100),
  })),
  { where: 'the last page', at: (length) => length - 2000 },
];

function flipByte(path: string, at: number): void {
  const content = readFileSync(path);
  content[at] = (content[at] ?? 0) ^ 0x40;
  writeFileSync(path, content);
  chmodSync(path, 0o700);
}

/** The kernel or the file itself refuses; either way a status that is not 0. */
async function attempt(trial: Trial, args: readonly string[]): Promise<Outcome> {
  return run([dumpOf(trial), ...args], trial.log).catch((error: NodeJS.ErrnoException) => {
    assert.equal(error.code, 'ENOEXEC', `only the kernel may refuse to start it: ${error.message}`);
    return {
      code: 126,
      signal: null,
      stdout: '',
      stderr: 'the kernel: exec format error at header',
    };
  });
}

describe('a damaged dump binary', function () {
  this.timeout(testTimeoutMs);

  for (const { where, at } of damages) {
    it(`with a wrong byte in ${where} says so and starts nothing`, () =>
      inTrial(`damage ${where}`, async (trial) => {
        await dumpedSimple(trial);
        const position = at(readFileSync(dumpOf(trial)).length);
        flipByte(dumpOf(trial), position);
        trial.note(`flipped a bit of byte ${position}`);
        for (const args of [['--verify'], []]) {
          const outcome = await attempt(trial, args);
          assert.notEqual(outcome.code, 0, describeOutcome(`${args} with a wrong byte`, outcome));
          assert.equal(statFields(trial.pid), undefined, 'nothing was started');
          assert.deepEqual(marked(trial.directory), [], 'nothing is left running');
          if (outcome.signal === null) {
            const words = outcome.stdout + outcome.stderr;
            assert.match(words, /damage|hash|header|page|state|program|corrupt/i, 'says where');
          }
        }
        return {};
      }));
  }

  it('is refused by ferry restore as well', () =>
    inTrial('damage restore', async (trial) => {
      await dumpedSimple(trial);
      const file = dumpOf(trial);
      flipByte(file, Math.floor(readFileSync(file).length / 2));
      const command = [...ferryCommand(), 'restore', trial.image, '--detach'];
      const outcome = await run(command, trial.log);
      assert.notEqual(outcome.code, 0, describeOutcome('restore of a damaged dump', outcome));
      assert.equal(statFields(trial.pid), undefined, 'nothing was started');
      return {};
    }));

  it('of a child keeps the whole tree from starting', () =>
    inTrial('damage child', async (trial) => {
      const program = programs.find((each) => each.name === 'fork-tree')!;
      await startProgram(trial, program);
      const children = trial.tree().slice(1);
      await dumpAway(trial);
      const last = children.at(-1)!;
      const file = dumpOf(trial, last.pid);
      flipByte(file, readFileSync(file).length - 2000);
      const outcome = await attempt(trial, []);
      assert.notEqual(outcome.code, 0, describeOutcome('a tree with a damaged child', outcome));
      assert.deepEqual(marked(trial.directory), [], 'nothing is left running');
      return {};
    }));
});

describe('ferry dump and ferry restore, used wrongly', function () {
  this.timeout(testTimeoutMs);

  it('names the holder of a pid that is taken', () =>
    inTrial('taken pid', async (trial) => {
      const program = programs.find((each) => each.name === 'memory-private')!;
      await startProgram(trial, program);
      const target = ['--pid', `${trial.pid}`, '--out', trial.image];
      await ferry(['dump', ...target, '--leave-running'], trial.log);
      const outcome = await run([...ferryCommand(), 'restore', trial.image], trial.log);
      assert.notEqual(outcome.code, 0, describeOutcome('restore beside the original', outcome));
      const words = outcome.stdout + outcome.stderr;
      assert.match(words, new RegExp(`\\b${trial.pid}\\b`), 'names the pid');
      const comm = sourceOf(program).slice(0, 15);
      assert.ok(words.includes(comm), `${words} names the holder ${comm}`);
      await trial.verdict();
      return {};
    }));

  it('restores where the pid is taken with --new-pid-namespace', () =>
    inTrial('new namespace', async (trial) => {
      const program = programs.find((each) => each.name === 'memory-private')!;
      await startProgram(trial, program);
      const original = identify(trial.pid)!;
      const target = ['--pid', `${trial.pid}`, '--out', trial.image];
      await ferry(['dump', ...target, '--leave-running'], trial.log);
      const args = ['restore', trial.image, '--new-pid-namespace', '--detach'];
      await ferry(args, trial.log);
      const copies = marked(trial.directory).filter((each) => each.pid !== original.pid);
      const copy = copies.find((each) => exeOf(each.pid) === exeOf(original.pid));
      assert.ok(copy !== undefined, 'a second copy runs');
      process.kill(original.pid, 'SIGKILL');
      await trial.gone([original], 'the original');
      process.kill(copy.pid, 'SIGUSR1');
      await until('a verdict', 10_000, () => trial.has('result'));
      assert.equal(trial.read('result').trim(), 'PASS', trial.read('failures'));
      return {};
    }));

  it('refuses a process that does not exist', () =>
    inTrial('no such process', async (trial) => {
      const command = [...ferryCommand(), 'dump', '--pid', '4194303', '--out', trial.image];
      const outcome = await run(command, trial.log);
      assert.notEqual(outcome.code, 0);
      assert.match(outcome.stderr, /4194303/);
      return {};
    }));

  it('dumps into a folder that is there, but empty', () =>
    inTrial('folder empty', async (trial) => {
      mkdirSync(trial.image);
      await startProgram(trial, programs.find((each) => each.name === 'memory-private')!);
      await ferry(['dump', '--pid', `${trial.pid}`, '--out', trial.image], trial.log);
      assert.ok(existsSync(join(trial.image, `${trial.pid}.dump`)));
      return {};
    }));

  it('refuses a folder that is there already, and leaves it as it was', () =>
    inTrial('folder exists', async (trial) => {
      await startProgram(trial, programs.find((each) => each.name === 'memory-private')!);
      const command = [
        ...ferryCommand(),
        'dump',
        '--pid',
        `${trial.pid}`,
        '--out',
        trial.directory,
      ];
      const outcome = await run(command, trial.log);
      assert.notEqual(outcome.code, 0, describeOutcome('dump into a full folder', outcome));
      await trial.verdict();
      return {};
    }));

  it('refuses to restore a folder that holds no dump', () =>
    inTrial('no dump', async (trial) => {
      const outcome = await run([...ferryCommand(), 'restore', trial.directory], trial.log);
      assert.notEqual(outcome.code, 0);
      assert.ok(outcome.stderr.includes(trial.directory), outcome.stderr);
      return {};
    }));

  it('tells the tree with ferry inspect', () =>
    inTrial('inspect', async (trial) => {
      await startProgram(trial, programs.find((each) => each.name === 'fork-tree')!);
      const pids = trial.tree().map((each) => each.pid);
      await dumpAway(trial);
      const { stdout } = await ferry(['inspect', trial.image, '--json'], trial.log);
      const text = JSON.stringify(JSON.parse(stdout));
      for (const pid of pids) assert.match(text, new RegExp(`\\b${pid}\\b`), `names ${pid}`);
      return {};
    }));

  it('restores in the foreground with the status of the root', () =>
    inTrial('foreground', async (trial) => {
      await dumpedSimple(trial);
      const [program = '', ...args] = ferryCommand();
      const launcher = await build('support/launch');
      const running = run([launcher, program, ...args, 'restore', trial.image], trial.log);
      const { pid } = trial;
      await until('the restore', 20_000, () => exeOf(pid)?.includes('memory-private'));
      await sleep(300);
      await trial.verdict();
      assert.equal((await running).code, 0);
      return {};
    }));
});
