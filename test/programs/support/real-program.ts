import { setTimeout as sleep } from 'node:timers/promises';
import { engineExists, ferry } from '../../objects/support/engine.js';
import { dumpAway, inTrial, restoreDetached } from '../../objects/support/flavours.js';
import { lastingDifferences, observe } from '../../objects/support/outside.js';
import { identify, isAlive } from '../../objects/support/processes.js';
import type { Trial } from '../../objects/support/trial.js';

/** Real software, and how to see from outside that nothing happened to it. */
export interface RealProgram<State> {
  readonly name: string;
  /** Starts it through `trial.start` and returns when it serves. */
  readonly start: (trial: Trial) => Promise<void>;
  /** Gives it something to remember; the result is handed to `check`. */
  readonly use: (trial: Trial) => Promise<State>;
  /** Finds out whether it remembers and still works. Called once, after dump and restore. */
  readonly check: (trial: Trial, state: State) => Promise<void>;
  /** Releases what belongs to the test itself (connections); called also after failures. */
  readonly release?: (state: State) => void;
  /** Tells it to end in its own way; SIGTERM by default. */
  readonly stop?: (trial: Trial) => Promise<void>;
  /** Lines of `differences` that move by themselves in this program. */
  readonly volatile?: readonly RegExp[];
  readonly settleMs?: number;
}

const testTimeoutMs = 90_000;
const downMs = 100;

/** Registers the tests of one program: untouched, dumped and left running, dumped and restored,
 *  and dumped and restored three times in a row. */
export function describeProgram<State>(program: RealProgram<State>): void {
  describe(program.name, function () {
    this.timeout(testTimeoutMs);
    it('passes when nobody touches it', () => attempt(program, 'unmoved', async () => {}));
    if (!engineExists()) {
      it('has an engine to test (run "npm run build" first)', () => {
        throw new Error('dist/ferry.mjs is missing');
      });
      return;
    }
    it('does not notice a dump that leaves it running', () =>
      attempt(program, 'rollback', (trial) => rollback(program, trial)));
    it('goes on after dump and restore', () =>
      attempt(program, 'tree', (trial) => dumpAndRestore(trial)));
    it('goes on after three dumps and restores', () =>
      attempt(program, 'thrice', async (trial) => {
        for (let round = 1; round <= 3; round++) {
          trial.note(`round ${round}`);
          await dumpAndRestore(trial, `image-${round}`);
        }
      }));
  });
}

async function attempt<State>(
  program: RealProgram<State>,
  flavour: string,
  middle: (trial: Trial) => Promise<void>,
): Promise<void> {
  await inTrial(`${program.name} ${flavour}`, async (trial) => {
    await program.start(trial);
    const state = await program.use(trial);
    try {
      await sleep(program.settleMs ?? 100);
      await middle(trial);
      await program.check(trial, state);
    } finally {
      program.release?.(state);
    }
    await stop(program, trial);
    return {};
  });
}

async function rollback<State>(program: RealProgram<State>, trial: Trial): Promise<void> {
  const before = observe(trial.pid);
  const target = ['--pid', `${trial.pid}`, '--out', trial.image];
  await ferry(['dump', ...target, '--leave-running'], trial.log);
  const found = await lastingDifferences(trial.pid, before, program.volatile ?? []);
  if (found.length > 0) throw new Error(`Differs after the rollback:\n${found.join('\n')}`);
}

async function dumpAndRestore(trial: Trial, image = 'image'): Promise<void> {
  const folder = `${trial.directory}/${image}`;
  await dumpAway(trial, folder);
  await sleep(downMs);
  await restoreDetached(trial, folder);
}

async function stop<State>(program: RealProgram<State>, trial: Trial): Promise<void> {
  const processes = trial.tree();
  if (program.stop !== undefined) await program.stop(trial);
  else {
    const root = identify(trial.pid);
    if (root !== undefined && isAlive(root)) process.kill(root.pid, 'SIGTERM');
  }
  await trial.gone(processes, 'the program after SIGTERM');
  await trial.nothingLeft();
}
