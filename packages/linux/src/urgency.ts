import { getPriority, setPriority } from 'node:os';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { threadsOf } from './proc.js';
import { sys } from './sys.js';
import { asLongAsWished } from './wished.js';

/** Above what other programs have, below what keeps a host alive. */
const URGENT = -10;

/** Keeps V8 from forgetting functions that have not run for a while: what a freeze runs must not be compiled in it. */
export function keepCode(): void {
  setFlagsFromString('--no-flush-bytecode');
}

/** Lets V8's heap grow to five times what is in use before all of it is marked and swept, in place of one and a third: during
 *  rounds that was due in each agent more than twice a second, 20 ms of its main thread and as much of threads beside, and in
 *  every third freeze. A heap in use of 30 MiB stays below 150. */
export function collectSeldom(): void {
  setFlagsFromString('--heap-growing-percent=400');
}

/** Has V8 compile each function when it runs first, and note from then on what it meets, in place of interpreting it the
 *  first times: for a process whose work that counts runs a few times only, with much else between. */
export function compileAtOnce(): void {
  setFlagsFromString('--always-sparkplug');
  setFlagsFromString('--no-lazy-feedback-allocation');
}

type Collect = (options: { readonly type: 'minor' }) => void;
let collect: Collect | undefined;

/** Collects what this process has just used up, in a millisecond or two, so that V8 does not do it in the middle of what
 *  follows. */
export function collectYoung(): void {
  if (collect === undefined) {
    setFlagsFromString('--expose-gc');
    collect = runInNewContext('gc') as Collect;
  }
  collect({ type: 'minor' });
}

/** Until it is disposed of, this process goes before others (setpriority(2); not where it may not), and starts with its
 *  garbage collected. */
export function beUrgent(): Disposable {
  collectYoung();
  const before = getPriority();
  prioritize(Math.min(before, URGENT));
  return { [Symbol.dispose]: () => prioritize(before) };
}

function prioritize(priority: number): void {
  try {
    setPriority(priority);
  } catch {
    // Without the privilege it takes what it gets.
  }
}

/** Nice values of our threads before the first wished to go first. */
const usual = new Map<number, number>();

/** Until it is disposed of, every thread of this process goes before others, so that nobody waits for its turn in a
 *  moment that counts; not where it may not. What is started meanwhile does not: sched(7), the reset-on-fork flag. As
 *  long as several wish it, it holds. */
export const goFirst: () => Disposable = asLongAsWished(hurry, calm);

function hurry(): void {
  for (const tid of threadsOf(process.pid)) {
    const nice = niceOf(tid);
    if (nice === undefined || nice <= URGENT) continue;
    if (setNice(tid, URGENT)) usual.set(tid, nice);
  }
}

function calm(): void {
  for (const [tid, nice] of usual) setNice(tid, nice);
  usual.clear();
}

// struct sched_attr, sched_setattr(2)
const ATTRIBUTES = { size: 48, policy: 4, flags: 8, nice: 16 } as const;
const SCHED_OTHER = 0;
const RESET_ON_FORK = 1n;

/** undefined for a thread that has ended, or is not scheduled by nice values. */
function niceOf(tid: number): number | undefined {
  const attributes = Buffer.alloc(ATTRIBUTES.size);
  if (sys('sched_getattr', tid, attributes, attributes.length, 0) < 0) return undefined;
  if (attributes.readUInt32LE(ATTRIBUTES.policy) !== SCHED_OTHER) return undefined;
  return attributes.readInt32LE(ATTRIBUTES.nice);
}

function setNice(tid: number, nice: number): boolean {
  const attributes = Buffer.alloc(ATTRIBUTES.size);
  attributes.writeUInt32LE(ATTRIBUTES.size, 0);
  attributes.writeUInt32LE(SCHED_OTHER, ATTRIBUTES.policy);
  attributes.writeBigUInt64LE(RESET_ON_FORK, ATTRIBUTES.flags);
  attributes.writeInt32LE(nice, ATTRIBUTES.nice);
  return sys('sched_setattr', tid, attributes, 0) >= 0;
}
