import assert from 'node:assert/strict';
import { setFlagsFromString } from 'node:v8';
import { holdOptimizer } from '../src/index.js';

/** Of %GetOptimizationStatus, src/runtime/runtime.h of V8. */
const OPTIMIZED = 16;

interface Hot {
  run(): void;
  isOptimized(): boolean;
}

/** A function that V8 will want to optimize. */
function hot(name: string): Hot {
  setFlagsFromString('--allow-natives-syntax');
  const { work, status } = new Function(`
    function ${name}(n) { let sum = 0; for (let i = 0; i < n; i++) sum += (i * 7) % 13; return sum; }
    return { work: ${name}, status: () => %GetOptimizationStatus(${name}) };`)() as {
    work: (n: number) => number;
    status: () => number;
  };
  return {
    run: () => {
      for (let i = 0; i < 2000; i++) work(200);
    },
    isOptimized: () => (status() & OPTIMIZED) !== 0,
  };
}

async function optimized(what: Hot): Promise<boolean> {
  for (let i = 0; i < 100 && !what.isOptimized(); i++) {
    what.run();
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  return what.isOptimized();
}

describe("linux: V8's optimizer", () => {
  it('begins nothing as long as somebody wishes it, what is optimized stays so, and it goes on then', async () => {
    const [before, meanwhile] = [hot('before'), hot('meanwhile')];
    assert(await optimized(before));
    const first = holdOptimizer();
    const second = holdOptimizer();
    first[Symbol.dispose]();
    first[Symbol.dispose]();
    assert.equal(await optimized(meanwhile), false);
    assert(before.isOptimized());
    second[Symbol.dispose]();
    assert(await optimized(meanwhile));
  });
});
