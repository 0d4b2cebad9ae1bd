import { isSettled, violation } from './invariants.js';
import type { Protocol } from './protocol.js';
import { Rules } from './rules.js';
import { type Budget, copyOf, firstWorld, keyOf, type World } from './world.js';

export interface Finding {
  readonly what: string;
  /** What happened, in order. */
  readonly steps: readonly string[];
}

export interface Explored {
  readonly states: number;
  readonly transitions: number;
  /** Ends that were reached: states in which a run has settled. */
  readonly settled: number;
  /** Every state was visited; false: the bound was reached first. */
  readonly complete: boolean;
  readonly finding: Finding | undefined;
}

/** Visits every state that a cluster can get into with so many faults, each once, and looks at two things: nothing that
 *  must not be ever is; and from everywhere, once nothing more goes wrong, the end is reached. */
export function explore(
  protocol: Protocol,
  faults: Budget,
  { statesMax, later = false }: { readonly statesMax: number; readonly later?: boolean },
): Explored {
  const rules = new Rules(protocol);
  const first = keyOf(firstWorld(faults, later));
  const numbers = new Map<string, number>([[first, 0]]);
  const keys = [first];
  const from: { parent: number; name: string }[] = [{ parent: -1, name: '' }];
  /** By state: from which others it is reached without a fault. */
  const before: number[][] = [[]];
  let transitions = 0;
  const settled: number[] = [];
  const pathTo = (state: number): string[] => {
    const names: string[] = [];
    for (let at = state; at > 0; at = from[at]?.parent ?? -1) names.unshift(from[at]?.name ?? '');
    return names;
  };
  const result = (complete: boolean, finding?: Finding): Explored => {
    const counts = { states: keys.length, transitions, settled: settled.length };
    return { ...counts, complete, finding };
  };
  let at = 0;
  for (; at < keys.length && keys.length < statesMax; at += 1) {
    const key = keys[at] ?? '';
    const world = JSON.parse(key) as World;
    const wrong = violation(world);
    if (wrong !== undefined) return result(false, { what: wrong, steps: pathTo(at) });
    if (isSettled(world)) settled.push(at);
    for (const choice of rules.choices(world)) {
      const next = copyOf(world);
      choice.happen(next);
      transitions += 1;
      const nextKey = keyOf(next);
      let number = numbers.get(nextKey);
      if (number === undefined) {
        number = keys.length;
        numbers.set(nextKey, number);
        keys.push(nextKey);
        from.push({ parent: at, name: choice.name });
        before.push([]);
      }
      if (!choice.fault && number !== at) before[number]?.push(at);
    }
  }
  const complete = at === keys.length;
  if (!complete) return result(false);
  const stuck = firstStuck(keys.length, settled, before);
  if (stuck === undefined) return result(true);
  return result(true, { what: 'never comes to an end', steps: pathTo(stuck) });
}

/** A state from which no settled one is reached without further faults. */
function firstStuck(
  states: number,
  settled: readonly number[],
  before: readonly (readonly number[])[],
): number | undefined {
  const ends = new Uint8Array(states);
  const queue = [...settled];
  for (const state of queue) ends[state] = 1;
  for (let state = queue.pop(); state !== undefined; state = queue.pop()) {
    for (const previous of before[state] ?? []) {
      if (ends[previous] === 1) continue;
      ends[previous] = 1;
      queue.push(previous);
    }
  }
  const index = ends.indexOf(0);
  return index < 0 ? undefined : index;
}

/** One run in which each next thing is drawn; what the bound of `explore` leaves out is found here by luck.
 *  After `faulty` steps nothing more goes wrong, and the run has to end. */
export function wander(
  protocol: Protocol,
  faults: Budget,
  options: {
    readonly random: () => number;
    readonly faulty: number;
    readonly calm: number;
    readonly later: boolean;
  },
): Finding | undefined {
  const rules = new Rules(protocol);
  const world = firstWorld({ ...faults }, options.later);
  const steps: string[] = [];
  for (let step = 0; step < options.faulty + options.calm; step += 1) {
    const all = rules.choices(world);
    const possible = step < options.faulty ? all : all.filter(({ fault }) => !fault);
    if (possible.length === 0 || (step >= options.faulty && isSettled(world))) break;
    const choice = drawn(possible, options.random);
    choice.happen(world);
    world.net.sort();
    steps.push(choice.name);
    const wrong = violation(world);
    if (wrong !== undefined) return { what: wrong, steps };
  }
  return isSettled(world) ? undefined : { what: 'never comes to an end', steps };
}

/** Faults less often than what drives the run on, so that runs get far. */
function drawn<C extends { readonly fault: boolean }>(
  choices: readonly C[],
  random: () => number,
): C {
  const good = choices.filter(({ fault }) => !fault);
  const bad = choices.filter(({ fault }) => fault);
  const pool = bad.length > 0 && (good.length === 0 || random() < 0.2) ? bad : good;
  return pool[Math.floor(random() * pool.length)] as C;
}

/** Numbers from 0 to 1 that follow from a seed (mulberry32). */
export function randomOf(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  };
}
