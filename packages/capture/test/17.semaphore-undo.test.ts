import assert from 'node:assert/strict';
import { type Semop, undoAdjustments } from '../src/semaphore-undo.js';
import { runAlone } from '../src/steps.js';

const EAGAIN = -11;
const ERANGE = -34;
const EACCES = -13;
const SEM_UNDO = 0o10000;
const MAX = 32767;

/** semop(2) as ipc/sem.c does it, for one process. */
class Semaphores {
  readonly values: number[];
  readonly adjustments: number[];
  calls = 0;

  constructor(semaphores: readonly (readonly [value: number, adjustment: number])[]) {
    this.values = semaphores.map(([value]) => value);
    this.adjustments = semaphores.map(([, adjustment]) => adjustment);
  }

  operate(operations: Buffer): number {
    this.calls += 1;
    assert.ok(operations.length / 6 <= 32, 'few enough for a lowered SEMOPM');
    const values = [...this.values];
    const adjustments = [...this.adjustments];
    for (let at = 0; at < operations.length; at += 6) {
      const number = operations.readUInt16LE(at);
      const change = operations.readInt16LE(at + 2);
      const value = values[number]! + change;
      if (change === 0 && values[number] !== 0) return EAGAIN;
      if (value < 0) return EAGAIN;
      if (value > MAX) return ERANGE;
      if (operations.readInt16LE(at + 4) & SEM_UNDO) {
        const adjustment = adjustments[number]! - change;
        if (adjustment < -MAX - 1 || adjustment > MAX) return ERANGE;
        adjustments[number] = adjustment;
      }
      values[number] = value;
    }
    throw new Error('The operations have taken effect');
  }
}

function asked(semaphores: Semaphores, users: number[] = [], semop?: Semop) {
  const sets = [{ id: 3, values: semaphores.values, users: new Set(users) }];
  const own: Semop = function* (id, operations) {
    yield;
    assert.equal(id, 3);
    return semaphores.operate(operations);
  };
  return runAlone(undoAdjustments(10, sets, semop ?? own));
}

describe('undoAdjustments', () => {
  it('finds any adjustment, whatever the value', () => {
    const numbers = [0, 1, -1, 2, -2, 3, 100, -100, 12345, -12345, 32766, -32766, 32767, -32767];
    for (const value of [0, 1, 5, 16384, 32766, 32767]) {
      for (const adjustment of numbers) {
        const found = asked(new Semaphores([[value, adjustment]]));
        const wanted = adjustment === 0 ? [] : [{ setId: 3, number: 0, adjustment }];
        assert.deepEqual(found, wanted, `value ${value}, adjustment ${adjustment}`);
      }
    }
  });

  it('finds the ones of a large set with few calls', () => {
    const many = Array.from({ length: 100 }, (_, i): [number, number] => [i, 0]);
    many[42] = [7, -3];
    many[99] = [0, 9];
    const semaphores = new Semaphores(many);
    assert.deepEqual(asked(semaphores), [
      { setId: 3, number: 42, adjustment: -3 },
      { setId: 3, number: 99, adjustment: 9 },
    ]);
    assert.ok(semaphores.calls < 90, `${semaphores.calls} calls`);
  });

  it('passes over sets that the process may not change, unless it has', () => {
    const semaphores = new Semaphores([[1, 0]]);
    const denied: Semop = function* () {
      yield;
      return EACCES;
    };
    assert.deepEqual(asked(semaphores, [11], denied), []);
    assert.throws(() => asked(semaphores, [10], denied), { code: 'capture.blocked' });
  });
});
