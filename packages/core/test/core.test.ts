import assert from 'node:assert/strict';
import { blockerText, DisposeStack, errorText, FerryError, invariant } from '@ferry/core';

describe('DisposeStack', () => {
  it('releases last first, all of it, and throws the error afterwards', () => {
    const order: number[] = [];
    const stack = new DisposeStack();
    stack.defer(() => order.push(1));
    stack.defer(() => {
      throw new Error('second');
    });
    stack.defer(() => order.push(3));
    assert.throws(() => stack[Symbol.dispose](), /second/);
    assert.deepEqual(order, [3, 1]);
  });

  it('releases nothing once it was moved', () => {
    let released = 0;
    const stack = new DisposeStack();
    stack.defer(() => released++);
    const moved = stack.move();
    stack[Symbol.dispose]();
    assert.equal(released, 0);
    moved[Symbol.dispose]();
    assert.equal(released, 1);
  });
});

describe('errors', () => {
  it('tell their causes on one line', () => {
    const error = new FerryError('a.b', 'Outer', { cause: new Error('inner', { cause: 'root' }) });
    assert.equal(errorText(error), 'Outer: inner: root');
  });

  it('name process, object, reason and remedy of a blocker', () => {
    const blocker = {
      code: 'x.y',
      pid: 5,
      command: 'app',
      object: 'descriptor 3',
      reason: 'why',
      remedy: 'do this',
    };
    assert.equal(blockerText(blocker), 'Process 5 (app), descriptor 3: why. Remedy: do this');
  });

  it('stop at a broken assumption', () => {
    assert.throws(() => invariant(false, 'no'), { name: 'InvariantError' });
  });
});
