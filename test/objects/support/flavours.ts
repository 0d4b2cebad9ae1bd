import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import type { ObjectProgram } from '../table.js';
import { build, objectsFolder } from './build.js';
import { describeOutcome, ferry, ferryCommand, run } from './engine.js';
import { lastingDifferences, type Outside, observe } from './outside.js';
import { isAlive, treeOf } from './processes.js';
import { Trial } from './trial.js';

/** What a flavour found: `skipped` says why the program could not be tried on this machine. */
export interface Verdict {
  readonly skipped?: string | undefined;
  /** Ferry refused it, by name. */
  readonly refused?: boolean;
}

const freezeMs = 150;
const afterRestoreMs = 50;

export const flavours = { unmoved, sabotage, frozen, rollback, tree, carriedOrRefused };
export type FlavourName = keyof typeof flavours;

/** Whether a program can be told to break its own object (see SABOTAGE in object.h). */
export function canBeSabotaged(program: ObjectProgram): boolean {
  return readFileSync(`${objectsFolder}/${sourceOf(program)}.c`, 'utf8').includes('SABOTAGE(');
}

export function sourceOf(program: ObjectProgram): string {
  return program.source ?? program.name;
}

/** Runs one flavour in a directory of its own, and removes every trace. */
export async function inTrial(
  title: string,
  body: (trial: Trial) => Promise<Verdict | undefined>,
): Promise<Verdict> {
  await using trial = new Trial(title);
  try {
    return (await body(trial)) ?? {};
  } catch (error) {
    throw trial.explain(error);
  }
}

/** Builds and starts a program; returns when it is ready. */
export async function startProgram(
  trial: Trial,
  program: ObjectProgram,
  env: Readonly<Record<string, string>> = {},
): Promise<void> {
  const binary = await build(sourceOf(program));
  const command = [binary, trial.directory, ...(program.args ?? [])];
  const first = program.isFirst === true ? [await build('support/first')] : [];
  await trial.start([...first, ...command], { env, settleMs: program.settleMs ?? 50 });
  // The root is below the one that has made its namespaces.
  if (program.isFirst === true) trial.pid = treeOf(trial.pid)[1] ?? trial.pid;
}

async function finish(trial: Trial, pid = trial.pid): Promise<Verdict> {
  const processes = trial.tree();
  const skipped = await trial.verdict(pid);
  await trial.gone(processes, 'the program after its verdict');
  await trial.nothingLeft();
  return { skipped };
}

/** Nobody touches the program: it must be right about itself. */
async function unmoved(program: ObjectProgram): Promise<Verdict> {
  return inTrial(`unmoved ${program.name}`, async (trial) => {
    await startProgram(trial, program);
    return finish(trial);
  });
}

/** The program breaks its own object: its check must find that. */
async function sabotage(program: ObjectProgram): Promise<Verdict> {
  return inTrial(`sabotage ${program.name}`, async (trial) => {
    await startProgram(trial, program, { OBJECT_SABOTAGE: '1' });
    const outcome = await trial.verdict().catch((error: Error) => error);
    if (outcome instanceof Error) {
      if (!trial.has('failures')) throw outcome;
      return {};
    }
    if (outcome !== undefined) return { skipped: outcome };
    throw new Error('The program broke its own object and found nothing wrong');
  });
}

/** All its threads are stopped and let go, without Ferry: shows what the kernel alone does. */
async function frozen(program: ObjectProgram): Promise<Verdict> {
  return inTrial(`frozen ${program.name}`, async (trial) => {
    await startProgram(trial, program);
    if (trial.has('result')) return finish(trial);
    const before = observe(trial.pid);
    const freeze = await build('support/freeze');
    const outcome = await run([freeze, `${trial.pid}`, `${freezeMs}`], trial.log);
    if (outcome.code !== 0) throw new Error(describeOutcome('freeze', outcome));
    await sleep(afterRestoreMs);
    return finishAfter(trial, program, before, 'after the freeze');
  });
}

/** Dumped and left running: the program must not notice, and nothing injected may remain. */
async function rollback(program: ObjectProgram): Promise<Verdict> {
  return inTrial(`rollback ${program.name}`, async (trial) => {
    await startProgram(trial, program);
    if (trial.has('result')) return finish(trial);
    const before = observe(trial.pid);
    const processes = trial.tree();
    const target = ['--pid', `${trial.pid}`, '--out', trial.image];
    await ferry(['dump', ...target, '--leave-running'], trial.log);
    if (!isAlive(processes[0]!)) throw new Error('The dump ended the program');
    await sleep(afterRestoreMs);
    return finishAfter(trial, program, before, 'after the rollback');
  });
}

/** Dumped, gone, restored with the same pids, and right about itself. */
async function tree(program: ObjectProgram): Promise<Verdict> {
  return inTrial(`tree ${program.name}`, async (trial) => {
    await startProgram(trial, program);
    if (trial.has('result')) return finish(trial);
    const before = observe(trial.pid);
    await dumpAway(trial);
    await restoreDetached(trial);
    await sleep(program.settleMs ?? afterRestoreMs);
    return finishAfter(trial, program, before, 'after the restore');
  });
}

/** For what Ferry need not carry yet: it is restored faithfully, or refused before anything is
 *  touched, with a message that helps. Never a third thing. */
async function carriedOrRefused(program: ObjectProgram): Promise<Verdict> {
  return inTrial(`later ${program.name}`, async (trial) => {
    await startProgram(trial, program);
    if (trial.has('result')) return finish(trial);
    const before = observe(trial.pid);
    const processes = trial.tree();
    const command = ['dump', '--pid', `${trial.pid}`, '--out', trial.image];
    const outcome = await run([...ferryCommand(), ...command], trial.log);
    if (outcome.code === 0) {
      await trial.gone(processes, 'the dumped tree');
      await restoreDetached(trial);
      await sleep(program.settleMs ?? afterRestoreMs);
    } else {
      const message = outcome.stdout + outcome.stderr;
      const named = program.blocker ?? new RegExp(`\\b(${treeOf(trial.pid).join('|')})\\b`);
      if (!named.test(message)) {
        throw new Error(describeOutcome(`The refusal does not name ${named}`, outcome));
      }
      if (existsSync(trial.image) && readdirSync(trial.image).length > 0) {
        throw new Error(`The refused dump left ${readdirSync(trial.image).join(', ')} behind`);
      }
    }
    const isCarried = outcome.code === 0;
    const verdict = await finishAfter(trial, program, before, isCarried ? 'restored' : 'refused');
    return { ...verdict, refused: !isCarried };
  });
}

/** `ferry dump` without --leave-running; returns when the whole tree is gone. */
export async function dumpAway(trial: Trial, image = trial.image): Promise<void> {
  const processes = trial.tree();
  await ferry(['dump', '--pid', `${trial.pid}`, '--out', image], trial.log);
  const living = processes.filter(isAlive).map((each) => each.pid);
  if (living.length > 0) throw new Error(`Alive when dump returned: ${living.join(', ')}`);
  await trial.gone(processes, 'the dumped tree');
}

/** `ferry restore --detach`, which must print the root's recorded pid. */
export async function restoreDetached(trial: Trial, image = trial.image): Promise<void> {
  const outcome = await ferry(['restore', image, '--detach'], trial.log);
  const printed = /\b\d+\b/.exec(outcome.stdout)?.[0];
  if (printed !== `${trial.pid}`) {
    throw new Error(describeOutcome(`restore did not print ${trial.pid}`, outcome));
  }
  if (trial.tree().length === 0) throw new Error(`There is no process ${trial.pid} afterwards`);
}

/** Lets the program give its verdict, then complains about what looked different from outside
 *  before: the verdict is the worse news. */
async function finishAfter(
  trial: Trial,
  program: ObjectProgram,
  before: Outside,
  when: string,
): Promise<Verdict> {
  const found = await lastingDifferences(trial.pid, before, program.volatile ?? []);
  const verdict = await finish(trial);
  // Outside its PID namespace a process has another number than it had.
  if (program.isFirst === true) return verdict;
  if (found.length === 0 || process.env.FERRY_OBJECTS_OUTSIDE === 'ignore') return verdict;
  const shown = found.slice(0, 40).map((line) => `  ${line.slice(0, 300)}`);
  const words = `It passes, but seen from outside ${found.length} things differ ${when}`;
  throw new Error(`${words}:\n${shown.join('\n')}`);
}
