import * as actions from '../support/actions.js';
import type { ClientMachine } from '../support/client-machine.js';
import type { Cluster } from '../support/cluster.js';
import type { Migrated, OperatorCalls, Wishes } from '../support/operator-main.js';
import { sleep } from '../support/shell.js';
import { figuresOf, type LiveRow, medianParts } from './figures.js';

/** Agents make ready for the next migration meanwhile. */
const REST_MS = 2500;
/** Until a client that waited longest for its answer has it. */
const ECHO_MS = 300;

/** A client of a container with one request under way all the time. */
export interface Probe {
  reset(): Promise<void>;
  /** The longest wait since. */
  longestStallMs(): Promise<number>;
}

/** A container that a benchmark moves there and back. */
export interface Subject {
  readonly cluster: Cluster;
  readonly operator: ClientMachine<OperatorCalls>;
  readonly name: string;
  readonly probe?: Probe | undefined;
}

export interface Move extends Migrated {
  /** NaN without a client. */
  readonly stallMs: number;
}

/** The other one of two hosts. */
export async function otherHost({ cluster, name }: Subject): Promise<string> {
  const { node } = await actions.containerNamed(cluster, name);
  return cluster.hosts.find((host) => host !== node) ?? '';
}

/** Moves it to the other of two hosts.
 *  @param known  which one that is, where it is known */
export async function move(subject: Subject, wishes: Wishes, known?: string): Promise<Move> {
  const { operator, name, probe } = subject;
  const to = known ?? (await otherHost(subject));
  await probe?.reset();
  const migrated = await operator.call('moved', name, to, wishes);
  await sleep(ECHO_MS);
  return { ...migrated, stallMs: (await probe?.longestStallMs()) ?? Number.NaN };
}

/** The same again and again, with a rest before each. */
export async function moves(
  subject: Subject,
  wishes: Wishes,
  runs: number,
  say: (line: string) => void,
): Promise<Move[]> {
  const made: Move[] = [];
  for (let i = 0; i < runs; i += 1) {
    await sleep(REST_MS);
    const done = await move(subject, wishes);
    made.push(done);
    say(`${i + 1}/${runs} ${moveText(done)}`);
  }
  return made;
}

export function moveText(done: Move): string {
  const stall = Number.isNaN(done.stallMs) ? '' : `stall ${done.stallMs.toFixed(1)} ms, `;
  const rounds = done.rounds === 0 ? '' : `, ${done.rounds} rounds`;
  return (
    `${done.mode} to ${done.to}: freeze ${done.downtimeMs.toFixed(1)} ms, ${stall}` +
    `total ${done.totalMs.toFixed(0)} ms${rounds}; ` +
    done.parts.map(({ name, ms }) => `${name} ${ms.toFixed(1)}`).join(', ') +
    (done.warnings.length > 0 ? `; ${done.warnings.join('; ')}` : '')
  );
}

/** @param mode  what was asked for, where that says more than what was done */
export function rowOf(
  name: string,
  made: readonly Move[],
  { errors, mode }: { errors: number; mode?: string },
): LiveRow {
  const seconds = made.reduce((sum, { totalMs }) => sum + totalMs, 0) / 1000;
  const sum = (field: 'bytesRaw' | 'bytesWire'): number =>
    made.reduce((total, done) => total + done[field], 0) / 2 ** 20;
  return {
    case: name,
    mode: mode ?? [...new Set(made.map((done) => done.mode))].join(', '),
    runs: made.length,
    freeze_ms: figuresOf(made.map(({ downtimeMs }) => downtimeMs)),
    client_stall_ms: figuresOf(made.map(({ stallMs }) => stallMs).filter(Number.isFinite)),
    total_ms: figuresOf(made.map(({ totalMs }) => totalMs)),
    raw_mib_s: sum('bytesRaw') / seconds,
    wire_mib_s: sum('bytesWire') / seconds,
    errors,
    rounds: figuresOf(made.map(({ rounds }) => rounds)).median,
    parts_ms: medianParts(made.map(({ parts }) => parts)),
  };
}
