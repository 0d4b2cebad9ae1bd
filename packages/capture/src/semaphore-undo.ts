import { FerryError } from '@ferry/core';
import type { SemaphoreAdjustment } from '@ferry/image';
import type { Steps } from './steps.js';
import type { SemaphoreValues } from './sysv-ipc.js';

// semop(2), include/uapi/linux/sem.h
const IPC_NOWAIT = 0o4000;
const SEM_UNDO = 0o10000;
const VALUE_MAX = 32767;
const OPERATION_BYTES = 6;
const EAGAIN = -11;
const ERANGE = -34;
/** Semaphores that are looked at in one call: SEMOPM is 500 by default, but may be lower. */
const AT_ONCE = 4;
/** Room for the operations of one call. */
export const UNDO_PROBE_BYTES = (AT_ONCE * 7 + 1) * OPERATION_BYTES;

/** Makes one semop(2) in the process; the kernel's result. */
export type Semop = (id: number, operations: Buffer) => Steps<number>;

type Operation = readonly [number: number, change: number, flags?: number];

/** What the kernel is to add to semaphores when a process ends, because it used SEM_UNDO: it tells nobody. But an operation
 *  fails with ERANGE that would bring that number beyond its range, and operations that are given together and of which
 *  the last one would have to wait (EAGAIN) all count as never done (ipc/sem.c: perform_atomic_semop_slow). So each
 *  question changes the value far up and down, with and without SEM_UNDO, and ends in such an operation.
 *  @returns those that are not 0
 *  @throws FerryError capture.blocked when it cannot be found out */
export function* undoAdjustments(
  hostPid: number,
  sets: readonly SemaphoreValues[],
  semop: Semop,
): Steps<SemaphoreAdjustment[]> {
  const found: SemaphoreAdjustment[] = [];
  for (const { id, values, users } of sets) {
    const ask: Ask = function* (operations) {
      const result = yield* semop(id, encode(operations));
      if (result === EAGAIN) return false;
      if (result === ERANGE) return true;
      throw new UnknownUndo(hostPid, id, result);
    };
    try {
      for (let first = 0; first < values.length; first += AT_ONCE) {
        const some = values.slice(first, first + AT_ONCE).map((value, i) => ({
          ...{ number: first + i, value },
        }));
        if (!(yield* ask([...some.flatMap(anyAdjustment), ...waiting(some.at(-1)!.number)]))) {
          continue;
        }
        for (const semaphore of some) {
          const adjustment = yield* adjustmentOf(semaphore, ask);
          if (adjustment !== 0) found.push({ setId: id, number: semaphore.number, adjustment });
        }
      }
    } catch (error) {
      // A set that it may not even change, or that is gone: it has nothing there, unless it was the last to change it.
      if (!(error instanceof UnknownUndo) || users.has(hostPid)) throw error;
    }
  }
  return found;
}

/** A set of semaphores did not answer. */
class UnknownUndo extends FerryError {
  constructor(hostPid: number, id: number, result: number) {
    const what = `what is to be undone when it ends is not known (semop gives ${result})`;
    super('capture.blocked', `Process ${hostPid}, System V semaphores ${id}: ${what}`, {
      remedy: 'let the program keep the permission to change its semaphores',
    });
  }
}

interface Semaphore {
  readonly number: number;
  readonly value: number;
}

/** Whether one of the operations brings an adjustment beyond its range. */
type Ask = (operations: readonly Operation[]) => Steps<boolean>;

/** Beyond the range for every adjustment but 0. They leave the semaphore at 1. */
function anyAdjustment({ number, value }: Semaphore): Operation[] {
  return [
    ...to(number, value, VALUE_MAX),
    [number, -VALUE_MAX, SEM_UNDO],
    [number, VALUE_MAX, SEM_UNDO],
    [number, -VALUE_MAX],
    [number, VALUE_MAX, SEM_UNDO],
    [number, -VALUE_MAX],
    [number, 1, SEM_UNDO],
  ];
}

function to(number: number, value: number, wanted: number): Operation[] {
  return value === wanted ? [] : [[number, wanted - value]];
}

/** Waits for 0 on a semaphore that is not. */
function waiting(number: number): Operation[] {
  return [[number, 0, IPC_NOWAIT]];
}

function* adjustmentOf(semaphore: Semaphore, ask: Ask): Steps<number> {
  const { number, value } = semaphore;
  // Lowering by n with SEM_UNDO needs adjustment + n <= 32767.
  const isAbove = (bound: number): Steps<boolean> => {
    const down: Operation[] = [[number, bound - VALUE_MAX, SEM_UNDO]];
    return ask([
      ...to(number, value, VALUE_MAX),
      ...down,
      ...to(number, bound, 1),
      ...waiting(number),
    ]);
  };
  // Raising by n + 1 with SEM_UNDO needs adjustment - n - 1 >= -32768.
  const isBelow = (bound: number): Steps<boolean> => {
    const most = VALUE_MAX + bound;
    const up: Operation[] = [
      [number, most, SEM_UNDO],
      [number, -most],
      [number, 1, SEM_UNDO],
    ];
    return ask([...to(number, value, 0), ...up, ...waiting(number)]);
  };
  if (yield* isAbove(0)) return yield* lowest((n) => isAbove(n), VALUE_MAX);
  if (yield* isBelow(0)) return -(yield* lowest((n) => isBelow(-n), VALUE_MAX));
  return 0;
}

/** The lowest number of 1 … `max` that `exceeds` does not hold for; `max` when it always does. */
function* lowest(exceeds: (n: number) => Steps<boolean>, max: number): Steps<number> {
  let [low, high] = [1, max];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (yield* exceeds(middle)) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** struct sembuf[] */
function encode(operations: readonly Operation[]): Buffer {
  const out = Buffer.alloc(operations.length * OPERATION_BYTES);
  operations.forEach(([number, change, flags = 0], i) => {
    out.writeUInt16LE(number, i * OPERATION_BYTES);
    out.writeInt16LE(change, i * OPERATION_BYTES + 2);
    out.writeInt16LE(flags, i * OPERATION_BYTES + 4);
  });
  return out;
}
